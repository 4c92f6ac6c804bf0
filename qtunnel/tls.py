"""TLS with certificates on both sides: contexts from files, names in certificates, and failures in words."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12

from qtunnel.errors import ConfigError
from qtunnel.files import check_secret_file, read_secret_file
from qtunnel.secret import Secret

MIN_VERSION = ssl.TLSVersion.TLSv1_2
"""ETSI GS QKD 014 clause 5.1 asks for TLS 1.2 or newer."""

PeerCertificate = Mapping[str, Any]
"""What ``ssl.SSLSocket.getpeercert()`` returns."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The CA that the other side's certificate must come from, and our own certificate with its private key, in PEM.

    password: a secret file with the private key's password, where it is encrypted; a line break at its end does not
    count.
    """

    ca: Path
    certificate: Path
    private_key: Path
    password: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.ca, self.certificate, self.private_key, *((self.password,) if self.password else ()))


@dataclass(frozen=True, slots=True)
class Pkcs12Files:
    """The same with our own certificate, its chain and its private key in one file of PKCS#12 (RFC 7292).

    Certificates of CAs in it go along to the other side, and are not trusted: those in ``ca`` are.
    """

    ca: Path
    pkcs12: Path
    password: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.ca, self.pkcs12, *((self.password,) if self.password else ()))


AnyFiles = TlsFiles | Pkcs12Files


@dataclass(frozen=True, slots=True)
class CaFile:
    """The CA that the other side's certificate must come from, where it wants none of us."""

    ca: Path

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.ca,)


class PeerNameError(ssl.SSLCertVerificationError):
    """The certificate is good, but it is not that of the one we want to talk to."""


def client_context(
    files: AnyFiles | CaFile,
    *,
    check_hostname: bool = True,
    peer_id: str | None = None,
    min_version: ssl.TLSVersion = MIN_VERSION,
) -> ssl.SSLContext:
    """A context for connections to a server.

    check_hostname: compare the server's name or address with its certificate. peer_id: besides, refuse a server whose
    certificate does not have this as common name or DNS name, before anything is sent to it. Raises ``ConfigError`` or
    ``FilePermissionError``.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = check_hostname
    context.minimum_version = min_version
    _load(context, files)
    if peer_id is not None:
        context.sslobject_class = _demanding(peer_id)
    return context


def server_context(files: TlsFiles, refused: Callable[[str], None]) -> ssl.SSLContext:
    """A context for a server that demands a client certificate of the CA; tells ``refused`` why a handshake failed.

    Raises ``ConfigError`` or ``FilePermissionError``.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = MIN_VERSION
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
    return _names_of(x509.load_pem_x509_certificate(path.read_bytes()))


def own_names(files: AnyFiles) -> set[str]:
    """Common names and DNS names of our own certificate, in files that ``client_context`` has accepted."""
    if isinstance(files, TlsFiles):
        return names_in_file(files.certificate)
    bundle = _open_pkcs12(files)
    return _names_of(bundle.cert.certificate) if bundle.cert is not None else set()


def _names_of(certificate: x509.Certificate) -> set[str]:
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


def _load(context: ssl.SSLContext, files: AnyFiles | CaFile) -> None:
    _check_readable(files.ca)
    try:
        context.load_verify_locations(cafile=files.ca)
    except ssl.SSLError:
        raise ConfigError(f"{files.ca}: no certificate in PEM in it; the CA's certificate is expected here") from None
    if isinstance(files, Pkcs12Files):
        _load_pkcs12(context, files)
    elif isinstance(files, TlsFiles):
        _load_pem(context, files)


def _load_pem(context: ssl.SSLContext, files: TlsFiles) -> None:
    _check_readable(files.certificate)
    check_secret_file(files.private_key)
    password = _Password(files.password)
    try:
        context.load_cert_chain(files.certificate, files.private_key, password=password)
    except _EncryptedKeyError:
        raise ConfigError(
            f"{files.private_key}: the key is encrypted, and nobody is there to type its password; store it decrypted "
            "with mode 0600, or name a file with its password"
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            what = f"{files.private_key}: not the private key of {files.certificate}; name the one that is"
        elif password.asked:
            what = f"{files.private_key}: does not open with the password in {files.password}; put the right one there"
        else:
            what = f"{files.certificate}, {files.private_key}: not a certificate and its private key in PEM"
        raise ConfigError(what) from None
    finally:
        password.wipe()


class _EncryptedKeyError(Exception):
    pass


class _Password:
    """Tells OpenSSL the password of a private key, if it asks."""

    def __init__(self, path: Path | None) -> None:
        self._secret = None if path is None else read_password(path)
        self.asked = False

    def __call__(self) -> bytearray:
        if self._secret is None:
            raise _EncryptedKeyError
        self.asked = True
        return bytearray(self._secret.reveal())

    def wipe(self) -> None:
        if self._secret is not None:
            self._secret.wipe()


def read_password(path: Path, *, text: bool = False) -> Secret:
    """What stands in the secret file, without the line break at its end; text: it has to be UTF-8. Raises
    ``ConfigError`` or ``FilePermissionError``."""
    with read_secret_file(path) as content:
        view = content.reveal()
        end = len(view)
        while end and view[end - 1] in b"\r\n":
            end -= 1
        if text and not (end and _is_text(view[:end])):
            raise ConfigError(f"{path}: not one password in UTF-8")
        if not end:
            raise ConfigError(f"{path}: no password in it; write it into the first line")
        return Secret(view[:end])


def _is_text(content: memoryview) -> bool:
    """Apart, as the error for what is none holds the content, and would stand behind the one that is raised."""
    try:
        str(content, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _load_pkcs12(context: ssl.SSLContext, files: Pkcs12Files) -> None:
    bundle = _open_pkcs12(files)
    if bundle.key is None or bundle.cert is None:
        what = "private key" if bundle.key is None else "certificate for its private key"
        raise ConfigError(f"{files.pkcs12}: no {what} in it; export both into it, as with openssl pkcs12 -export")
    chain = b"".join(item.certificate.public_bytes(Encoding.PEM) for item in (bundle.cert, *bundle.additional_certs))
    pem = bytearray(bundle.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + chain)
    # OpenSSL's wrapper loads private keys from files only. This one is in memory, has no name, and ends here.
    descriptor = os.memfd_create("pkcs12", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except ssl.SSLError:
        raise ConfigError(
            f"{files.pkcs12}: its certificate and private key cannot be used for TLS; have others issued, with an "
            "EC key, or an RSA key of 2048 bits or more"
        ) from None
    finally:
        os.pwrite(descriptor, bytes(len(pem)), 0)
        os.close(descriptor)
        pem[:] = bytes(len(pem))


def _open_pkcs12(files: Pkcs12Files) -> pkcs12.PKCS12KeyAndCertificates:
    password = None if files.password is None else read_password(files.password)
    try:
        with read_secret_file(files.pkcs12) as content:
            # It takes any buffer, though its stubs say bytes, of which there would be copies that nobody can wipe.
            secret: Any = None if password is None else password.reveal()
            data: Any = content.reveal()
            return pkcs12.load_pkcs12(data, secret)
    except ValueError:
        how = f"with the password in {files.password}" if files.password else "without a password"
        raise ConfigError(
            f"{files.pkcs12}: not PKCS#12, or it does not open {how}; name file and password that belong together"
        ) from None
    finally:
        if password is not None:
            password.wipe()


def _check_readable(path: Path) -> None:
    try:
        path.read_bytes()
    except FileNotFoundError:
        remedy = "check the path (for a trial, qtunnel kme pki makes certificates)"
        raise ConfigError(f"{path}: no such file; {remedy}") from None
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        raise ConfigError(f"{path}: cannot be read: {words}; name a file that the user of qtunnel may read") from None


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
