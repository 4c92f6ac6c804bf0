"""CatKDF, the concatenating combiner of ETSI TS 103 744 v1.2 (clauses 7.2 and 8.2), over the libraries' KDFs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from qtunnel.crypto.kdf import frame
from qtunnel.secret import Secret

Kdf = Literal["hkdf", "hmac"]
"""HKDF (RFC 5869), or the one-step KDF with HMAC (NIST SP 800-56C revision 2, section 4.1, option 2)."""


def format_context(algorithm: hashes.HashAlgorithm, info: bytes, message_a: bytes, message_b: bytes) -> bytes:
    """The context formatting function f: a hash of each field behind its length as u32 big-endian (clause 7.2)."""
    state = hashes.Hash(algorithm)
    state.update(frame(info, message_a, message_b))
    return state.finalize()


def catkdf(
    psk: Secret | None,
    secrets: Sequence[Secret],
    label: bytes,
    context: bytes,
    size: int,
    algorithm: hashes.HashAlgorithm,
    kdf: Kdf = "hkdf",
) -> Secret:
    """``size`` bytes: KDF(psk || k_1 || ... || k_n, label, context). context: what ``format_context`` gave.

    Each of the secrets has to have a length of its own that never changes, as nothing stands between them.
    """
    joined = bytearray(b"" if psk is None else psk.reveal())
    for secret in secrets:
        joined += secret.reveal()
    with Secret(joined) as material:
        joined[:] = bytes(len(joined))
        if kdf == "hkdf":
            return Secret(HKDF(algorithm, size, label, context).derive(bytes(material.reveal())))
        return Secret(ConcatKDFHMAC(algorithm, size, label, context).derive(bytes(material.reveal())))
