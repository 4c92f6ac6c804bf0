"""The stored vectors are what the code makes from the seeds, and what a plain reading of docs/protocol.md makes."""

from __future__ import annotations

import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tests.handshake.vectors import FILE, all_vectors

VECTORS: list[dict[str, Any]] = json.loads(FILE.read_text())["vectors"]


def test_the_code_makes_the_stored_vectors() -> None:
    assert all_vectors() == VECTORS


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_datagrams_by_the_protocol_document(vector: dict[str, Any]) -> None:
    """Header and mac1, written again from the document alone."""
    import hashlib

    key = hashlib.sha512(b"qtunnel/v1/handshake/mac1" + bytes.fromhex(vector["responder_id"])).digest()[:32]
    body = bytes.fromhex(vector["init"])
    count = -(-len(body) // 1176)
    assert len(vector["init_datagrams"]) == count
    for index, text in enumerate(vector["init_datagrams"]):
        header = bytes([1, 2, 0, vector["suite"], index, count]) + len(body).to_bytes(2, "big")
        data = header + bytes.fromhex(vector["exchange_id"]) + body[index * 1176 : (index + 1) * 1176]
        assert text == (data + hmac.digest(key, data, "sha512")[:16] + bytes(16)).hex()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_identity_keys_by_the_protocol_document(vector: dict[str, Any]) -> None:
    """Derivation of the handshake's X25519 key, written again from the document alone."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    for end in ("initiator", "responder"):
        seed = bytes.fromhex(vector[f"{end}_seed"])
        private = HKDFExpand(hashes.SHA512(), 32, b"qtunnel/v1/identity/x25519\0").derive(seed)
        public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
        assert public.hex() == vector[f"{end}_x25519"]
