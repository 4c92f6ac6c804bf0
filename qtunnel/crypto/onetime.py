"""Wegman-Carter authentication by Poly1305 (RFC 8439, section 2.5): secure whatever an adversary can compute.

The tag is the polynomial hash of the data under a key that may stay, plus a mask that is used once. With a mask that is
random, a forgery of L bytes succeeds with a chance of 8 ceil(L / 16) / 2^106 at most (Bernstein, The Poly1305-AES
message-authentication code, 2005, theorem 3.3, with the mask in AES's place).
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.poly1305 import Poly1305

from qtunnel.secret import Secret

HASH_KEY_SIZE = 16
MASK_SIZE = 16
TAG_SIZE = 16


def tag(hash_key: Secret, mask: Secret, data: bytes) -> bytes:
    """16 bytes. mask: 16 random bytes that are used for no other data."""
    return Poly1305.generate_tag(_key(hash_key, mask), data)


def verifies(hash_key: Secret, mask: Secret, data: bytes, found: bytes) -> bool:
    """Whether the tag is that of the data, in constant time."""
    try:
        Poly1305.verify_tag(_key(hash_key, mask), data, found)
    except InvalidSignature:
        return False
    return True


def _key(hash_key: Secret, mask: Secret) -> bytes:
    if len(hash_key) != HASH_KEY_SIZE or len(mask) != MASK_SIZE:
        raise ValueError(f"a key of {len(hash_key)} and a mask of {len(mask)} bytes, where 16 and 16 are wanted")
    return bytes(hash_key.reveal()) + bytes(mask.reveal())
