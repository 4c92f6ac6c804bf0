"""Signed heads: which record was the newest, by whom and when. Who keeps one elsewhere finds what is cut off later."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qtunnel.audit.record import HASH_SIZE, MAX_SEQ, Record, is_time
from qtunnel.crypto.kdf import Label, frame, sha512
from qtunnel.crypto.signature import PUBLIC_KEY_SIZE, SIGNATURE_SIZE, is_signature
from qtunnel.errors import AuditError

MAX_HEAD = 16 * 1024
"""Bytes of a file with a head: a public key and a signature have 7 kB in base64."""

Sign = Callable[[bytes], bytes]
"""From a message to its signature."""


def key_name(public: bytes) -> str:
    """What people compare a public key by: eight groups of four letters and digits, as a gateway's fingerprint."""
    text = base64.b32encode(sha512(frame(Label.AUDIT_KEY.value, public))[:20]).decode().lower()
    return "-".join(text[i : i + 4] for i in range(0, len(text), 4))


def message(seq: int, time: str, digest: bytes) -> bytes:
    """What is signed: that record ``seq`` has the hash ``digest``, said at ``time``."""
    return frame(Label.AUDIT_HEAD.value, seq.to_bytes(8, "big"), time.encode(), digest)


@dataclass(frozen=True, slots=True)
class SignedHead:
    """Record ``seq`` has the hash ``digest`` (32 bytes): so says the key ``public`` at ``time``. node: its name."""

    node: str
    seq: int
    time: str
    digest: bytes
    public: bytes
    signature: bytes

    @classmethod
    def make(cls, node: str, seq: int, time: str, digest: bytes, public: bytes, sign: Sign) -> SignedHead:
        return cls(node, seq, time, digest, public, sign(message(seq, time, digest)))

    @property
    def is_genuine(self) -> bool:
        """Whether the key has signed it; whose the key is, is another question."""
        return is_signature(self.public, message(self.seq, self.time, self.digest), self.signature)

    def to_text(self) -> str:
        """One line of JSON, with its end."""
        document = {
            "version": 1, "node": self.node, "seq": self.seq, "time": self.time, "hash": self.digest.hex(),
            "key": _text(self.public), "signature": _text(self.signature),
        }  # fmt: skip
        return json.dumps(document, separators=(",", ":")) + "\n"

    @classmethod
    def parse(cls, data: bytes, where: str) -> SignedHead:
        """Raises ``AuditError`` naming ``where``."""
        try:
            document = json.loads(data)
            if document["version"] != 1:
                raise AuditError(f"{where}: a head of another version; this qtunnel reads version 1")
            head = cls(
                str(document["node"]), int(document["seq"]), str(document["time"]), bytes.fromhex(document["hash"]),
                _bytes(document["key"], PUBLIC_KEY_SIZE), _bytes(document["signature"], SIGNATURE_SIZE),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise AuditError(
                f"{where}: not the head of an audit log, or changed; one is made by: qtunnel audit head"
            ) from None
        if not 1 <= head.seq < MAX_SEQ or not is_time(head.time) or len(head.digest) != HASH_SIZE:
            raise AuditError(f"{where}: not the head of an audit log, or changed")
        return head


HEAD_KIND = "log.head"
"""The record that carries a signature over all before it."""


def head_fields(seq: int, time: str, digest: bytes, sign: Sign) -> dict[str, Any]:
    """Fields of the record ``seq`` + 1 that signs record ``seq``."""
    return {"signature": _text(sign(message(seq, time, digest)))}


def signs(record: Record, public: bytes) -> bool:
    """Whether a record of ``HEAD_KIND`` has a signature by this key over what stands before it."""
    signature = field_bytes(record.fields, "signature", SIGNATURE_SIZE)
    return signature is not None and is_signature(public, message(record.seq - 1, record.time, record.prev), signature)


def field_bytes(fields: Mapping[str, Any], name: str, size: int) -> bytes | None:
    """A field in base64; ``None`` where it is not one of that many bytes."""
    try:
        return _bytes(fields[name], size)
    except (ValueError, KeyError, TypeError):
        return None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: Any, size: int) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes instead of {size}")
    return data
