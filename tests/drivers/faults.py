"""The faults that every driver has to stand, each with one named error: the list is the same for all of them.

A driver's module ``test_NAME_faults.py`` has ``CASES``: for each fault the kind of error that it brings, or in words
why it cannot come to that driver; test_fault_suite.py holds that none is left out. Each runs against a real server,
device or program with the fault injected there.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from qtunnel.errors import (
    KeySourceCertificateError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnreachableError,
)
from qtunnel.kme.pki import Authority
from qtunnel.tls import TlsFiles
from tests.support.kme import write_pair

FAULTS = {
    "slow": "the answer comes later than the timeout",
    "cut": "the connection ends in the middle of the answer",
    "wrong-size": "a key of another size than was asked for",
    "wrong-encoding": "a key that is not encoded as the interface has it",
    "repeated-key": "the bytes of an earlier key under another reference",
    "all-zero": "a key of zeros",
    "low-entropy": "a key that is one block over and over",
    "huge": "an answer larger than any that makes sense",
    "slow-loris": "an answer of one byte now and then, without end",
    "expired-certificate": "a server certificate whose time is over",
    "wrong-certificate": "a server certificate of another authority",
    "name-mismatch": "a server certificate for another name",
    "restart": "the server goes away with a request under way, and comes back",
    "clock-skew": "a server certificate that is not valid yet, as with a clock that is wrong",
}

OVER_TLS: dict[str, type[KeySourceError] | str] = {
    "slow": KeySourceTimeoutError,
    "cut": KeySourceUnreachableError,
    "wrong-size": KeySourceProtocolError,
    "wrong-encoding": KeySourceProtocolError,
    "repeated-key": KeySourceProtocolError,
    "all-zero": KeySourceProtocolError,
    "low-entropy": KeySourceProtocolError,
    "huge": KeySourceProtocolError,
    "slow-loris": KeySourceTimeoutError,
    "expired-certificate": KeySourceCertificateError,
    "wrong-certificate": KeySourceCertificateError,
    "name-mismatch": KeySourceCertificateError,
    "restart": KeySourceUnreachableError,
    "clock-skew": KeySourceCertificateError,
}
"""The cases of a driver that asks a server over TLS and waits for its answer."""

CERTIFICATES = {fault for fault, kind in OVER_TLS.items() if kind is KeySourceCertificateError}


def certificate(fault: str, pki: Path, directory: Path, name: str = "server") -> TlsFiles:
    """The files of a server on loopback whose certificate has that fault, and the CA that it trusts itself."""
    now = datetime.now(UTC)
    ca = Authority.create(now) if fault == "wrong-certificate" else Authority.load(pki)
    issue: dict[str, Any] = {"server": True, "hosts": ("127.0.0.1",)}
    if fault == "expired-certificate":
        issue["lifetime"] = timedelta(seconds=-60)
    elif fault == "clock-skew":
        issue["now"] = now + timedelta(days=2)
    elif fault == "name-mismatch":
        issue["hosts"] = ("10.1.2.3", "kme.example.org")
    write_pair(directory, name, ca, **issue)
    return TlsFiles(pki / "ca.pem", directory / f"{name}.pem", directory / f"{name}.key")
