"""Clause 5.1: TLS, and who shows which certificate. Takes no keys."""

from __future__ import annotations

import ssl
import warnings

from qtunnel.drivers.answers import clean
from qtunnel.probe.model import Finding, deviates, passed, untestable
from qtunnel.probe.session import Session
from qtunnel.probe.wire import NoAnswerError, SlowError
from qtunnel.tls import CaFile, PeerCertificate, client_context, common_name


async def tls_version(session: Session) -> Finding:
    version, _ = await session.master.handshake(session.master.context)
    found = version.replace("TLSv", "TLS ")
    unknown = "; whether it also takes less is not known"
    old = client_context(session.target.master.options.tls_files, check_hostname=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # which these versions are; that is why we ask
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
    except (ssl.SSLError, ValueError):
        return passed(f"{found}{unknown}, as TLS 1.1 is not there on this machine")
    try:
        version, _ = await session.master.handshake(old)
    except ssl.SSLError as error:
        if error.reason in ("NO_PROTOCOLS_AVAILABLE", "NO_CIPHERS_AVAILABLE"):
            return passed(f"{found}{unknown}, as TLS 1.1 is not there on this machine")
        return passed(f"{found}; TLS 1.1 and older are refused")
    except TimeoutError:
        return passed(f"{found}{unknown}, as that had no answer in time")
    except OSError:
        return passed(f"{found}; TLS 1.1 and older are refused")
    return deviates(
        f"it also takes {version.replace('TLSv', 'TLS ')}",
        "other clients may be talked down to a protocol that is broken; the gateway never goes below 1.2",
        "tls_min_version: 1.3 where the KME has it; 1.2 is the default and enough",
    )


async def client_certificate(session: Session) -> Finding:
    options, wire = session.target.master.options, session.master
    try:
        context = client_context(CaFile(options.ca), check_hostname=False)
        answer = await wire.ask("GET", "status", session.target.slave_sae, context=context)
    except SlowError as error:
        return untestable(f"{error}, which says neither")
    except NoAnswerError as error:
        return passed(str(error))
    if answer.status in (400, 401, 403, 495, 496):
        return passed(f"HTTP {answer.status}")
    if answer.status == 200:
        return deviates(
            "without a client certificate it answers as well",
            "whoever reaches the KME may be able to take keys; close its port to all but the gateway",
            "nothing: only the KME can demand it",
        )
    return untestable(f"without a client certificate it answers {answer.words}, which says neither")


async def server_name(session: Session) -> Finding:
    options, wire = session.target.master.options, session.master
    _, certificate = await wire.handshake(wire.context)
    try:
        await wire.handshake(client_context(options.tls_files))
    except ssl.SSLCertVerificationError as error:
        if error.verify_code not in (62, 64):
            raise
    else:
        return passed("the certificate is for the url's host")
    alternative = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS" and "*" not in value]
    return deviates(
        f"the certificate is for {_names(certificate)}, not for the url's host",
        "the usual check of the name fails, and with it every call",
        _remedy(alternative, common_name(certificate)),
    )


def _names(certificate: PeerCertificate) -> str:
    found = [clean(str(value)) for _, value in certificate.get("subjectAltName", ())]
    return ", ".join(found) or f"{clean(common_name(certificate) or 'nobody')}, without alternative names"


def _remedy(alternative: list[str], name: str | None) -> str:
    if alternative:
        return f"server_hostname: {clean(alternative[0])}"
    if name:
        return f"check_hostname: false together with kme_id: {clean(name)}"
    return "nothing: the certificate names nobody; it has to be replaced"
