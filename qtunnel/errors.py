"""Every error that qtunnel raises on purpose.

A message names the place, what is wrong and, where there is one, the remedy. It never contains key material, so it can
be logged and shown as it is. The command line prints it as one line and exits with ``exit_code``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

EXIT_PROTECTED = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_NO_DAEMON = 3
EXIT_NO_KME = 3
EXIT_NO_BROKER = 3


def printable(text: str) -> str:
    """Words of somebody else's, fit for an error: what a terminal would obey, or cannot show, becomes a question mark.
    Line breaks stay."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


class QtunnelError(Exception):
    """Base of all of them."""

    exit_code = EXIT_FAILURE


class SecretWipedError(QtunnelError):
    """A secret was used after it was wiped: a defect in qtunnel, never a user's mistake."""


class FilePermissionError(QtunnelError):
    """A secret file that others can read, or that belongs to somebody else."""

    exit_code = EXIT_USAGE


class IdentityFileError(QtunnelError):
    """An identity or public file that is missing, malformed or of the wrong kind."""

    exit_code = EXIT_USAGE


class ConfigError(QtunnelError):
    """A configuration that cannot be used; the message may have several lines, one problem each, all of ``file``."""

    exit_code = EXIT_USAGE

    def __init__(self, message: str, file: Path | None = None) -> None:
        super().__init__(message)
        self.file = file


class KemUnavailableError(ConfigError):
    """A KEM that is not to be had here: unknown, or its library is missing or does not fit."""


class HandshakeError(QtunnelError):
    """A handshake message that cannot be accepted. ``reason`` is a stable word for metrics and tests."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class EngineError(QtunnelError):
    """The data plane could not be started or does not do what it is told."""


class InterfaceError(EngineError):
    """The network interface cannot be created or configured."""


class ShortageError(EngineError):
    """This process has no descriptor or memory left to ask an engine with, which ends each key by itself. Says nothing
    of the engine."""


class MissingPeerError(EngineError):
    """An interface of somebody else's has no such peer. Says nothing of the interface's other peers."""


class ControlError(QtunnelError):
    """The control socket: a refused or malformed request."""


class NoDaemonError(ControlError):
    """Nobody answers at the control socket."""

    exit_code = EXIT_NO_DAEMON


class UnknownPeerError(ControlError):
    """The daemon has no peer of that name."""

    exit_code = EXIT_USAGE

    @classmethod
    def of(cls, name: str, known: Iterable[str]) -> UnknownPeerError:
        """In words, with the names that there are."""
        return cls(f"no peer {name!r}; there are: {', '.join(known) or 'none'}")


class UnknownSourceError(ControlError):
    """The daemon has no key source of that name."""

    exit_code = EXIT_USAGE

    @classmethod
    def of(cls, name: str, known: Iterable[str]) -> UnknownSourceError:
        """In words, with the names that there are."""
        return cls(f"no key source {name!r}; there are: {', '.join(known) or 'none'}")


class AlreadyRunningError(QtunnelError):
    """Another daemon holds the control socket, the interface or the state directory."""


class KmeError(QtunnelError):
    """The embedded KME cannot be started."""


class ServiceError(QtunnelError):
    """The service's files cannot be put in place, or taken away."""


class NetworkError(QtunnelError):
    """The simulated QKD network: it cannot be started, or refuses what it was told."""


class NoNetworkError(NetworkError):
    """No simulated QKD network answers."""

    exit_code = EXIT_NO_KME


class SandboxError(QtunnelError):
    """A place with networks of its own cannot be made on this machine, or a tool in it failed."""


class BenchError(QtunnelError):
    """A measurement cannot be made on this machine, or an engine did not carry it."""


class DemoError(QtunnelError):
    """The demo cannot be set up on this machine, or a part of it failed."""


class PadError(QtunnelError):
    """A pad file or its ledger that cannot be used. ``lost``: keys that are used up and that nobody holds."""

    exit_code = EXIT_USAGE

    def __init__(self, message: str, *, lost: int = 0) -> None:
        super().__init__(message)
        self.lost = lost


class AuditError(QtunnelError):
    """An audit log, or a head of one, that cannot be read, or a question that it cannot answer."""

    exit_code = EXIT_USAGE


class BrokerError(QtunnelError):
    """The MQTT broker that reports go to, or come from, is not there or refuses."""

    exit_code = EXIT_NO_BROKER


class HttpPortError(QtunnelError):
    """The port for metrics, or that for the page, cannot be served."""


class StoreError(QtunnelError):
    """Keys agreed ahead that are on disk and cannot be used: what is wrong with their file, in words."""


class KmeUnreachableError(QtunnelError):
    """A KME that is to be probed and does not answer at all."""

    exit_code = EXIT_NO_KME


class KeySourceError(QtunnelError):
    """A key source did not deliver. Says which source, which call and what it answered.

    ``retryable`` is true where the same question may be answered later (the source is down or has no key now).
    ``lost``: keys that the source may have given out for this call and that nobody holds, as the answer was lost or
    could not be used; they are booked, and never asked for again.
    """

    retryable = True

    def __init__(self, source: str, call: str, detail: str, *, lost: int = 0) -> None:
        super().__init__(f"{source}: {call}: {detail}")
        self.source = source
        self.call = call
        self.detail = detail
        self.lost = lost


class KeySourceUnreachableError(KeySourceError):
    """No connection: refused, no route, name not found, connection lost."""


class KeySourceTimeoutError(KeySourceError):
    """No answer in the time allowed."""


class KeySourceCertificateError(KeySourceError):
    """TLS failed: a certificate that is expired, unknown, for another name, or a refused client certificate."""

    retryable = False


class KeySourceUnauthorizedError(KeySourceError):
    """The source does not know us or forbids the call (ETSI GS QKD 014 clause 5: 401)."""

    retryable = False


class KeyRequestRejectedError(KeySourceError):
    """The source calls the request malformed or out of its limits (ETSI GS QKD 014 clause 5: 400)."""

    retryable = False


class KeySourceUnavailableError(KeySourceError):
    """The source says that it cannot serve now, or has no key (ETSI GS QKD 014 clause 5: 503)."""


class KeyNotFoundError(KeySourceError):
    """The source does not hold the key_ID asked for, or delivered it already."""

    retryable = False


class KeySourceProtocolError(KeySourceError):
    """An answer that is not of the standard: HTML, no JSON, a key of another size, another key_ID."""

    retryable = False


class KeySourceStatusError(KeySourceProtocolError):
    """A status whose QBER or alarm cannot be read: whether its keys may be used, nobody can tell, so they are not."""
