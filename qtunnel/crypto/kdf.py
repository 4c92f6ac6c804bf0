"""HKDF (RFC 5869) and the ONE tree of labels that keeps every use of every key apart.

A label is ``qtunnel/v1/`` and the path below; two uses never share one. docs/protocol.md lists the same tree.
"""

from __future__ import annotations

import hashlib
from enum import Enum

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from qtunnel.secret import Secret

HASH_SIZE = 64
"""Bytes of SHA-512, the hash of identity and handshake."""


class Label(Enum):
    """The tree. The value is the whole label as it goes into the hash."""

    IDENTITY_WIREGUARD = b"qtunnel/v1/identity/wireguard"
    IDENTITY_X25519 = b"qtunnel/v1/identity/x25519"
    IDENTITY_ML_KEM_768 = b"qtunnel/v1/identity/ml-kem-768"
    IDENTITY_ML_KEM_1024 = b"qtunnel/v1/identity/ml-kem-1024"
    IDENTITY_KEM = b"qtunnel/v1/identity/kem"
    IDENTITY_ID = b"qtunnel/v1/identity/id"
    HANDSHAKE_PROLOGUE = b"qtunnel/v1/handshake/prologue"
    HANDSHAKE_MAC1 = b"qtunnel/v1/handshake/mac1"
    HANDSHAKE_COOKIE = b"qtunnel/v1/handshake/cookie"
    HANDSHAKE_PSK_FRAMES = b"qtunnel/v1/handshake/psk-frames"
    EPOCH_PSK = b"qtunnel/v1/epoch/psk"
    EPOCH_CHAIN = b"qtunnel/v1/epoch/chain"
    EPOCH_CHAIN_ID = b"qtunnel/v1/epoch/chain-id"
    RESERVOIR_STORE = b"qtunnel/v1/reservoir/store"
    RECORD_CHACHA20_POLY1305 = b"qtunnel/v1/record/chacha20-poly1305"
    RECORD_AES_256_GCM = b"qtunnel/v1/record/aes-256-gcm"
    IDENTITY_AUDIT = b"qtunnel/v1/identity/audit"
    AUDIT_KEY = b"qtunnel/v1/audit/key"
    AUDIT_HEAD = b"qtunnel/v1/audit/head"


def sha512(*parts: bytes | bytearray | memoryview) -> bytes:
    """SHA-512 of the parts, one after the other."""
    state = hashlib.sha512()
    for part in parts:
        state.update(part)
    return state.digest()


def expand(key: Secret, info: bytes, size: int) -> Secret:
    """HKDF-Expand with SHA-512 (RFC 5869 section 2.3); ``size`` is at most 255 * 64 bytes."""
    return Secret(HKDFExpand(hashes.SHA512(), size, info).derive(bytes(key.reveal())))


def derive(key: Secret, label: Label, context: bytes, size: int) -> Secret:
    """HKDF-Expand under a label of the tree: ``info = label || 0x00 || context``."""
    return expand(key, label.value + b"\0" + context, size)


def frame(*fields: bytes) -> bytes:
    """Each field behind its length as u32 big-endian, so that no two lists of fields give the same bytes."""
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)
