"""ML-DSA-65 (FIPS 204) with keys that follow from a seed: signatures that a quantum computer does not forge."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey

from qtunnel.secret import Secret

SEED_SIZE = 32
PUBLIC_KEY_SIZE = 1952
SIGNATURE_SIZE = 3309


class SigningKey:
    """A private key; it stays inside the library. ``public`` has 1952 bytes."""

    __slots__ = ("_private", "public")

    def __init__(self, seed: Secret) -> None:
        """seed: 32 bytes, from which the key is made (FIPS 204 section 3.6.3)."""
        self._private = MLDSA65PrivateKey.from_seed_bytes(bytes(seed.reveal()))
        self.public = self._private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """3309 bytes; the library draws the randomness that FIPS 204 hedges with."""
        return self._private.sign(message)

    def __repr__(self) -> str:
        return "<ML-DSA-65 key>"


def is_signature(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is one of ``message`` by the key ``public``; False for what is no key or no signature."""
    try:
        MLDSA65PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
