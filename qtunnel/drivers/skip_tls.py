"""TLS towards a SKIP key provider: with certificates, or with a pre-shared key (draft-cisco-skip-02, table 1)."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtunnel.drivers.certificates import Certificates
from qtunnel.drivers.skip_options import Options
from qtunnel.errors import ConfigError
from qtunnel.files import read_secret_file
from qtunnel.secret import Secret
from qtunnel.tls import AnyFiles, CaFile, TlsFiles, client_context

PSK_CIPHERS = (
    "DHE-PSK-AES256-GCM-SHA384:DHE-PSK-CHACHA20-POLY1305:"  # better than, and next to, those of the draft
    "DHE-PSK-AES256-CBC-SHA384:DHE-PSK-AES256-CBC-SHA"
)
"""Only suites that need the PSK at both ends, and have forward secrecy."""

FEWEST_PSK_BYTES = 16
"""RFC 9257 section 6: an external PSK has at least 128 bits."""

MOST_PSK_BYTES = 64
"""RFC 4279 section 5.3: what every server has to support."""

_HEX = b"0123456789abcdefABCDEF"


@dataclass(frozen=True, slots=True)
class PskFile:
    """The file of a PSK, for ``Certificates``."""

    psk: Path

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.psk,)


class Tls:
    """The TLS context for a connection that is made now; files that were renewed are in force for the next one.

    Raises ``ConfigError`` or ``FilePermissionError`` when it is made.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._psk: Secret | None = None
        self._kept = Certificates(_files(options), self._make)

    async def current(self) -> ssl.SSLContext:
        return await self._kept.current()

    @property
    def problem(self) -> str | None:
        """Why files that changed are not in force."""
        return self._kept.problem

    def close(self) -> None:
        if self._psk is not None:
            self._psk.wipe()

    def _make(self) -> ssl.SSLContext:
        identity, files = self._options.psk_identity, _files(self._options)
        if not isinstance(files, PskFile):
            return client_context(files)
        assert identity is not None
        psk = read_psk(files.psk)
        context = psk_context(identity, psk)
        self._psk = psk  # that of before wipes itself when its context goes
        return context


def _files(options: Options) -> AnyFiles | CaFile | PskFile:
    if options.psk_file is not None:
        return PskFile(options.psk_file)
    assert options.ca is not None
    if options.certificate is None or options.private_key is None:
        return CaFile(options.ca)
    return TlsFiles(options.ca, options.certificate, options.private_key)


def psk_context(identity: str, psk: Secret) -> ssl.SSLContext:
    """With a PSK, which has to live as long as the context; raises ``ConfigError`` where this Python cannot.

    TLS 1.2 alone: there, these suites fail unless both ends have the PSK. In TLS 1.3 a PSK is but offered; a server
    that declines it goes on with a certificate, which nobody here could check. Python's callback, besides, makes a PSK
    for SHA-256 (RFC 8446 section 4.2.11), and the draft's one suite for TLS 1.3 has SHA-384.
    """
    context: Any = _new_psk_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # no suite of PSK_CIPHERS has a certificate
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(PSK_CIPHERS)

    def answer(hint: str | None) -> tuple[str, bytes]:
        return identity, bytes(psk.reveal())

    context.set_psk_client_callback(answer)
    made: ssl.SSLContext = context
    return made


def _new_psk_context() -> ssl.SSLContext:
    if hasattr(ssl.SSLContext, "set_psk_client_callback"):  # from Python 3.13 on
        if not getattr(ssl, "HAS_PSK", False):
            raise ConfigError("this Python's OpenSSL has no TLS with PSK; use certificates, or another build")
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        from sslpsk3 import SSLPSKContext
    except ImportError as error:
        raise ConfigError(
            "psk_identity needs Python 3.13, or with an older one the library sslpsk3: pip install "
            f"'qtunnel[skip-psk]', which needs a C compiler and the headers of Python and OpenSSL ({error})"
        ) from None
    made: ssl.SSLContext = SSLPSKContext(ssl.PROTOCOL_TLS_CLIENT)
    return made


def read_psk(path: Path) -> Secret:
    """The PSK of the file, which has it in hexadecimal; raises ``ConfigError`` or ``FilePermissionError``."""
    with read_secret_file(path) as content:
        digits = bytearray(bytes(content.reveal()).strip())
    try:
        if not digits or len(digits) % 2 or any(digit not in _HEX for digit in digits):
            raise ConfigError(f"{path}: a PSK in hexadecimal is expected here, as: openssl rand -hex 32")
        if not FEWEST_PSK_BYTES <= len(digits) // 2 <= MOST_PSK_BYTES:
            raise ConfigError(
                f"{path}: the PSK has {len(digits) * 4} bits; take {FEWEST_PSK_BYTES * 8} to "
                f"{MOST_PSK_BYTES * 8}, best 256"
            )
        raw = bytearray.fromhex(digits.decode("ascii"))
        try:
            return Secret(raw)
        finally:
            raw[:] = bytes(len(raw))
    finally:
        digits[:] = bytes(len(digits))


def remedy(options: Options) -> Callable[[str], str]:
    """What to say besides of a failure of TLS, by its words."""

    def of(said: str) -> str:
        if "does not speak TLS" in said:
            return ""
        if options.psk_file is not None:
            return f"; are psk_identity {options.psk_identity} and {options.psk_file} those that the key provider has?"
        if "another host name" in said or "another IP address" in said:
            wanted = options.server_hostname
            return f" (wanted: {wanted})" if wanted else "; set server_hostname to the name in it"
        if "signed" in said and "refused" not in said:
            return f" ({options.ca})"
        if "client certificate" in said and options.certificate is None:
            return "; set certificate and private_key"
        if "refused our" in said or "client certificate" in said:
            return f" ({options.certificate})"
        return ""

    return of
