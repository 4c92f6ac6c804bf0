"""TLS with certificates on both sides: contexts from files, names in certificates, and failures in words."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from cryptography import x509

from qtunnel.errors import ConfigError
from qtunnel.files import check_secret_file

PeerCertificate = Mapping[str, Any]
"""What ``ssl.SSLSocket.getpeercert()`` returns."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The CA that the other side's certificate must come from, and our own certificate with its private key, in PEM."""

    ca: Path
    certificate: Path
    private_key: Path


class PeerNameError(ssl.SSLCertVerificationError):
    """The certificate is good, but it is not that of the one we want to talk to."""


def client_context(files: TlsFiles, *, check_hostname: bool = True, peer_id: str | None = None) -> ssl.SSLContext:
    """A context for connections to a server.

    check_hostname: compare the server's name or address with its certificate. peer_id: besides, refuse a server whose
    certificate does not have this as common name or DNS name, before anything is sent to it. Raises ``ConfigError`` or
    ``FilePermissionError``.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = check_hostname
    _load(context, files)
    if peer_id is not None:
        context.sslobject_class = _demanding(peer_id)
    return context


def server_context(files: TlsFiles, refused: Callable[[str], None]) -> ssl.SSLContext:
    """A context for a server that demands a client certificate of the CA; tells ``refused`` why a handshake failed.

    Raises ``ConfigError`` or ``FilePermissionError``.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, files)
    context.verify_mode = ssl.CERT_REQUIRED
    context.sslobject_class = _telling(refused)
    return context


def common_name(certificate: PeerCertificate | None) -> str | None:
    """The one common name of the subject; ``None`` where there is none, or several."""
    found = [value for part in (certificate or {}).get("subject", ()) for name, value in part if name == "commonName"]
    return found[0] if len(found) == 1 else None


def names(certificate: PeerCertificate | None) -> set[str]:
    """The common name and every DNS name."""
    found = {value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "DNS"}
    name = common_name(certificate)
    return found | {name} if name else found


def names_in_file(path: Path) -> set[str]:
    """Common names and DNS names of the first certificate in a PEM file that ``client_context`` has accepted."""
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    found = {str(part.value) for part in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)}
    try:
        other = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return found
    return found | set(other.value.get_values_for_type(x509.DNSName))


_VERIFY_WORDS = {
    9: "its certificate is not valid yet; are both clocks right?",
    10: "its certificate has expired",
    18: "its certificate is self-signed and not the CA that we trust",
    19: "its certificate is not signed by the CA that we trust",
    20: "its certificate is not signed by the CA that we trust",
    21: "its certificate is not signed by the CA that we trust",
    26: "its certificate is not meant for this use (extended key usage)",
    62: "its certificate is for another host name",
    64: "its certificate is for another IP address",
}
"""By OpenSSL's verify codes (X509_V_ERR_*)."""

_ALERT_WORDS = {
    "CERTIFICATE_REQUIRED": "it wants a client certificate and got none",
    "CERTIFICATE_EXPIRED": "it refused our certificate: expired",
    "CERTIFICATE_REVOKED": "it refused our certificate: revoked",
    "UNKNOWN_CA": "it refused our certificate: not signed by a CA that it trusts",
    "BAD_CERTIFICATE": "it refused our certificate: bad certificate",
    "UNSUPPORTED_CERTIFICATE": "it refused our certificate: not meant for this use",
    "CERTIFICATE_UNKNOWN": "it refused our certificate",
    "ACCESS_DENIED": "it refused our certificate: access denied",
    "HANDSHAKE_FAILURE": "it refused the handshake; perhaps our certificate or the TLS version",
    "PROTOCOL_VERSION": "no common TLS version (1.2 or newer is needed)",
}
"""By the names of TLS alerts (RFC 8446 clause 6), as they end OpenSSL's reasons."""

_LOCAL_WORDS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it sent no certificate",
    "WRONG_VERSION_NUMBER": "it does not speak TLS at this port",
    "HTTP_REQUEST": "it does not speak TLS at this port",
    "RECORD_LAYER_FAILURE": "it does not speak TLS at this port",
    "UNSUPPORTED_PROTOCOL": "no common TLS version (1.2 or newer is needed)",
    "NO_SHARED_CIPHER": "no common cipher suite",
}


def explain(error: BaseException) -> str | None:
    """What went wrong with TLS, for people; ``None`` where the error is not of TLS. "It" is the other side.

    Looks into the errors that this one wraps, also into those of aiohttp.
    """
    for candidate in _unwrapped(error):
        said = _explain_one(candidate)
        if said is not None:
            return said
    return None


def _unwrapped(error: BaseException) -> Iterator[BaseException]:
    for name in ("certificate_error", "os_error", "__cause__"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException):
            yield from _unwrapped(inner)
    yield error


def _explain_one(error: BaseException) -> str | None:
    if isinstance(error, PeerNameError):
        return str(error.args[-1])
    if isinstance(error, ssl.SSLCertVerificationError):
        code, message = getattr(error, "verify_code", 0), getattr(error, "verify_message", "no reason given")
        return _VERIFY_WORDS.get(code, f"its certificate is not accepted: {message}")
    # Libraries wrap the error and keep only its text, in which OpenSSL's reason stands after "[SSL: ".
    reason = (error.reason if isinstance(error, ssl.SSLError) else None) or _reason(str(error))
    if reason is None:
        return None
    if "ALERT_" in reason:
        alert = reason.partition("ALERT_")[2]
        return _ALERT_WORDS.get(alert, f"it ended the TLS handshake: {alert.lower().replace('_', ' ')}")
    return _LOCAL_WORDS.get(reason, f"TLS failed: {reason.lower().replace('_', ' ')}")


def _reason(text: str) -> str | None:
    if "[SSL: " not in text:
        return "UNKNOWN" if "[SSL]" in text else None
    return text.partition("[SSL: ")[2].partition("]")[0]


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # ETSI GS QKD 014 asks for 1.2 or newer
    for path in (files.ca, files.certificate):
        _check_readable(path)
    check_secret_file(files.private_key)
    try:
        context.load_verify_locations(cafile=files.ca)
    except ssl.SSLError:
        raise ConfigError(f"{files.ca}: no certificate in PEM in it; the CA's certificate is expected here") from None
    try:
        context.load_cert_chain(files.certificate, files.private_key, password=_no_password)
    except _EncryptedKeyError:
        raise ConfigError(
            f"{files.private_key}: the key is encrypted, and nobody is there to type its password; "
            "store it decrypted with mode 0600"
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            what = f"{files.private_key}: not the private key of {files.certificate}"
        else:
            what = f"{files.certificate}, {files.private_key}: not a certificate and its private key in PEM"
        raise ConfigError(what) from None


class _EncryptedKeyError(Exception):
    pass


def _no_password() -> NoReturn:
    raise _EncryptedKeyError


def _check_readable(path: Path) -> None:
    try:
        path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _demanding(peer_id: str) -> type[ssl.SSLObject]:
    class DemandingSSLObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            found = names(self.getpeercert())
            if peer_id not in found:
                listed = ", ".join(sorted(found)) or "nobody"
                raise PeerNameError(1, f"its certificate names {listed}, not {peer_id}")

    return DemandingSSLObject


def _telling(refused: Callable[[str], None]) -> type[ssl.SSLObject]:
    class TellingSSLObject(ssl.SSLObject):
        failure: ssl.SSLError | None = None

        def do_handshake(self) -> None:
            if self.failure is not None:
                raise self.failure
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
                raise
            except ssl.SSLError as error:
                refused(explain(error) or "TLS failed")
                # asyncio drops the connection at an error, and with it the alert that tells the client why. Asking
                # for more makes it send the alert first; whatever the client does then ends the handshake.
                self.failure = error
                raise ssl.SSLWantReadError from None

    return TellingSSLObject
