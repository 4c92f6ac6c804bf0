"""Bytes as docs/protocol.md has them: datagrams, cookies, offers and answers, laid out by its tables alone."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt

from tests.docs_notation import DOCUMENT, Suite, frame, label, sha512, str8
from tests.docs_tables import Table

Ref = tuple[str, str, int]
"""source, key_ID, size."""
Inventory = tuple[bytes, Sequence[Ref], Sequence[bytes], Sequence[bytes]]
"""store, announced, marks."""


# Layouts: sections 3.1, 4.4, 4.5

HEADER = DOCUMENT.table("3.1", "offset")
OFFER = DOCUMENT.table("4.4", "offset")
ANSWER = DOCUMENT.table("4.5", "offset")


def pack(layout: Table, values: dict[str, int | bytes]) -> bytes:
    """The fields of a layout, each at its offset; reserved ones are 0."""
    data = b""
    for row in layout.rows:
        assert int(row["offset"]) == len(data), f"field {row['field']} is not where the one before ends"
        value = values.get(row["field"], 0) if row["field"] == "reserved" else values[row["field"]]
        raw = value.to_bytes(int(row["bytes"]), "big") if isinstance(value, int) else value
        assert len(raw) == int(row["bytes"])
        data += raw
    return data


def encode_offer(
    values: dict[str, int | bytes], chains: Sequence[tuple[int, bytes]], keys: Sequence[Ref], inventory: Inventory
) -> bytes:
    """4.4. chains: (epoch, id)."""
    data = pack(OFFER, values) + bytes([len(chains)])
    data += b"".join(epoch.to_bytes(8, "big") + name for epoch, name in chains) + bytes([len(keys)])
    return data + _refs(keys) + encode_inventory(inventory)


def _refs(keys: Sequence[Ref]) -> bytes:
    return b"".join(str8(source) + str8(key_id) + size.to_bytes(2, "big") for source, key_id, size in keys)


def encode_answer(values: dict[str, int | bytes], accepted: Sequence[int], detail: str, inventory: Inventory) -> bytes:
    """4.5."""
    return pack(ANSWER, values) + bytes([len(accepted), *accepted]) + str8(detail) + encode_inventory(inventory)


def encode_inventory(inventory: Inventory) -> bytes:
    """4.8."""
    store, announced, marks, withdrawn = inventory
    held = bytes([len(marks) + (128 if withdrawn else 0)]) + b"".join(marks)
    more = bytes([len(withdrawn)]) + b"".join(withdrawn) if withdrawn else b""
    return store + bytes([len(announced)]) + _refs(announced) + held + more


def mark(ref: Ref) -> bytes:
    """4.8."""
    source, key_id, size = ref
    return sha512(frame(source.encode(), key_id.encode(), size.to_bytes(2, "big")))[0:8]


# 3 Datagrams


def datagrams(
    kind: int, suite: Suite, exchange: bytes, body: bytes, receiver: bytes, cookie: bytes | None = None
) -> list[bytes]:
    key = sha512(label("handshake/mac1") + receiver)[0:32]
    count = -(-len(body) // 1176)
    made = []
    for index in range(count):
        values: dict[str, int | bytes] = {
            "type": kind, "version": 2, "suite": suite.id, "index": index, "count": count, "length": len(body),
            "exchange id": exchange,
        }  # fmt: skip
        data = pack(HEADER, values) + body[1176 * index : 1176 * (index + 1)]
        data += hmac.digest(key, data, "sha512")[0:16]
        made.append(data + (bytes(16) if cookie is None else hmac.digest(cookie, data, "sha512")[0:16]))
    return made


COOKIE_REPLY = DOCUMENT.table("3.4", "offset")


def cookie_of(secret: bytes, source: bytes) -> bytes:
    """3.4."""
    return hmac.digest(secret, source, "sha512")[0:16]


def cookie_reply(datagram: bytes, cookie: bytes, nonce: bytes, responder: bytes) -> bytes:
    """3.4. responder: its id."""
    key = sha512(label("handshake/cookie") + responder)[0:32]
    sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(cookie, datagram[-32:-16], nonce, key)
    values: dict[str, int | bytes] = {
        "type": 5, "version": 2, "suite": datagram[2:4], "index": datagram[4], "exchange id": datagram[8:24],
        "nonce": nonce, "sealed": sealed,
    }  # fmt: skip
    return pack(COOKIE_REPLY, values)
