"""The stored records are what the code makes from the seeds, and what section 10 of docs/protocol.md makes."""

from __future__ import annotations

import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from qtunnel.wireguard.record_burst import ReceiveBuffer
from qtunnel.wireguard.record_format import MAX_BUFFER
from qtunnel.wireguard.record_join import RecordJoiner
from qtunnel.wireguard.record_plain import take_items
from tests.wireguard.record_vectors import FILE, all_vectors

VECTORS: list[dict[str, Any]] = json.loads(FILE.read_text())["vectors"]
each = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])


def test_the_code_makes_the_stored_vectors() -> None:
    assert all_vectors() == VECTORS
    assert {len(vector["datagrams"]) for vector in VECTORS} >= {1, 2, 3}
    assert {vector["cipher"] for vector in VECTORS} == {"chacha20-poly1305", "aes-256-gcm"}


def blake2s_hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "blake2s")


def aead(vector: dict[str, Any], key: bytes) -> AESGCM | ChaCha20Poly1305:
    return AESGCM(key) if vector["cipher"] == "aes-256-gcm" else ChaCha20Poly1305(key)


@each
def test_keys_by_the_protocol_document(vector: dict[str, Any]) -> None:
    """Section 10.1, and HKDF of the Noise specification (section 4.3), written again."""
    temporary = blake2s_hmac(bytes.fromhex(vector["chaining_key"]), b"qtunnel/v1/record/" + vector["cipher"].encode())
    first = blake2s_hmac(temporary, b"\x01")
    second = blake2s_hmac(temporary, first + b"\x02")
    assert (vector["initiator_key"], vector["responder_key"]) == (first.hex(), second.hex())


@each
def test_datagrams_by_the_protocol_document(vector: dict[str, Any]) -> None:
    """Section 10.2, written again from the receiver's side: the headers first, then what they leave."""
    datagrams = [bytes.fromhex(data) for data in vector["datagrams"]]
    n, last = datagrams[0][2], int.from_bytes(datagrams[0][14:16], "little")
    assert len(datagrams) == n + vector["parity"]
    for number, data in enumerate(datagrams):
        fragment = 255 if number == n else number
        assert data[:4] == bytes([5, fragment, n, 0])
        assert data[4:8] == vector["receiver_index"].to_bytes(4, "little")
        assert data[8:14] == vector["counter"].to_bytes(6, "little")
        assert data[14:16] == last.to_bytes(2, "little")
    size = len(datagrams[0])
    assert {len(data) for data in datagrams[: n - 1]} <= {size}
    if vector["parity"]:
        assert {len(data) for data in datagrams} == {size}
        assert not any(datagrams[n - 1][last:])
        xor = bytearray(size - 16)
        for data in datagrams[:n]:
            xor = bytearray(a ^ b for a, b in zip(xor, data[16:], strict=True))
        assert datagrams[n][16:] == xor
    b = bytearray(b"".join(datagrams[: n - 1]) + datagrams[n - 1][:last])
    for i in range(1, n):
        b[i * size : i * size + 16] = b[16 * i : 16 * i + 16]
    nonce = bytes(4) + vector["counter"].to_bytes(8, "little")
    plain = aead(vector, bytes.fromhex(vector["initiator_key"])).decrypt(nonce, bytes(b[16 * n :]), None)
    assert plain.hex() == vector["plaintext"]


@each
def test_the_joiner_takes_them_each_without_one_datagram_where_there_is_parity(vector: dict[str, Any]) -> None:
    datagrams = [bytes.fromhex(data) for data in vector["datagrams"]]
    for lost in range(len(datagrams)) if vector["parity"] else [None]:
        joiner = RecordJoiner(lambda counter: False, lambda: ReceiveBuffer(MAX_BUFFER))
        found = [joiner.add(memoryview(data)) for number, data in enumerate(datagrams) if number != lost]
        (record,) = [one for one in found if one is not None]
        nonce = bytes(4) + record.counter.to_bytes(8, "little")
        sealed = bytes(record.buffer[record.start : record.end])
        plain = aead(vector, bytes.fromhex(vector["initiator_key"])).decrypt(nonce, sealed, None)
        assert plain.hex() == vector["plaintext"]


@each
def test_what_is_inside_is_a_list_of_items(vector: dict[str, Any]) -> None:
    packets: list[memoryview] = []
    reports = take_items(memoryview(bytes.fromhex(vector["plaintext"])), packets)
    assert [report.question for report in reports] == [True] * ("report" in vector["name"] or "same" in vector["name"])
    assert sum(map(len, packets)) + 44 * len(reports) == len(vector["plaintext"]) // 2
