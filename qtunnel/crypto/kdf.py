"""HKDF (RFC 5869) and the ONE tree of labels that keeps every use of every key apart.

A label is ``qtunnel/v1/`` and the path below; two uses never share one. docs/protocol.md lists the same tree.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import Enum

from qtunnel.secret import Secret

HASH_SIZE = 64
"""Bytes of SHA-512, the hash of identity and handshake."""


class Label(Enum):
    """The tree. The value is the whole label as it goes into the hash."""

    IDENTITY_WIREGUARD = b"qtunnel/v1/identity/wireguard"
    IDENTITY_X25519 = b"qtunnel/v1/identity/x25519"
    IDENTITY_ML_KEM_768 = b"qtunnel/v1/identity/ml-kem-768"
    IDENTITY_ML_KEM_1024 = b"qtunnel/v1/identity/ml-kem-1024"
    IDENTITY_ID = b"qtunnel/v1/identity/id"
    HANDSHAKE_PROLOGUE = b"qtunnel/v1/handshake/prologue"
    HANDSHAKE_MAC1 = b"qtunnel/v1/handshake/mac1"
    HANDSHAKE_PSK_FRAMES = b"qtunnel/v1/handshake/psk-frames"
    EPOCH_PSK = b"qtunnel/v1/epoch/psk"
    EPOCH_CHAIN = b"qtunnel/v1/epoch/chain"
    EPOCH_CHAIN_ID = b"qtunnel/v1/epoch/chain-id"


def sha512(*parts: bytes | bytearray | memoryview) -> bytes:
    """SHA-512 of the parts, one after the other."""
    state = hashlib.sha512()
    for part in parts:
        state.update(part)
    return state.digest()


def extract(salt: Secret | bytes, material: Secret) -> Secret:
    """HKDF-Extract with SHA-512 (RFC 5869 section 2.2); 64 bytes."""
    key = salt.reveal() if isinstance(salt, Secret) else salt
    return Secret(hmac.digest(bytes(key), material.reveal(), "sha512"))


def expand(key: Secret, info: bytes, size: int) -> Secret:
    """HKDF-Expand with SHA-512 (RFC 5869 section 2.3); ``size`` is at most 255 * 64 bytes."""
    if not 0 < size <= 255 * HASH_SIZE:
        raise ValueError(f"HKDF-Expand gives 1 to {255 * HASH_SIZE} bytes, not {size}")
    output = bytearray()
    block = b""
    for counter in range(1, -(-size // HASH_SIZE) + 1):
        block = hmac.digest(bytes(key.reveal()), block + info + bytes([counter]), "sha512")
        output += block
    result = Secret(memoryview(output)[:size])
    output[:] = bytes(len(output))
    return result


def derive(key: Secret, label: Label, context: bytes, size: int) -> Secret:
    """HKDF-Expand under a label of the tree: ``info = label || 0x00 || context``."""
    return expand(key, label.value + b"\0" + context, size)


def frame(*fields: bytes) -> bytes:
    """Each field behind its length as u32 big-endian, so that no two lists of fields give the same bytes."""
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)
