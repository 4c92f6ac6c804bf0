"""docs/audit.md against the code: the format as it is described there, by nothing of ours but the key."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey

from qtunnel.audit.chain import HEAD_AFTER, OWN_KINDS
from qtunnel.audit.head import key_name
from qtunnel.audit.kinds import RECORDED
from qtunnel.audit.record import MAX_LINE
from tests.audit.support import KEY, make_log

DOCUMENT = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()


def frame(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def test_lines_and_signatures_are_as_the_document_says() -> None:
    (file,), head = make_log([4], 2)
    prev, public, signatures = "0" * 64, b"", 0
    for number, line in enumerate(file.data.splitlines(), 1):
        record = json.loads(line)
        assert list(record) == [
            key for key in ("seq", "time", "kind", "peer", "fields", "prev", "hash") if key in record
        ]
        assert record["seq"] == number
        assert record["prev"] == prev
        assert record["hash"] == hashlib.sha256(line[: line.rindex(b',"hash":')]).hexdigest()
        if record["kind"] == "log.opened":
            public = base64.b64decode(record["fields"]["key"])
            assert public == KEY.public
        if record["kind"] == "log.head":
            label, moment = b"qtunnel/v1/audit/head", record["time"].encode()
            signed = frame(label, (record["seq"] - 1).to_bytes(8, "big"), moment, bytes.fromhex(prev))
            MLDSA65PublicKey.from_public_bytes(public).verify(base64.b64decode(record["fields"]["signature"]), signed)
            signatures += 1
        prev = record["hash"]
    assert signatures == 2
    kept = json.loads(head.to_text())
    assert list(kept) == ["version", "node", "seq", "time", "hash", "key", "signature"]
    assert (kept["seq"], kept["hash"]) == (7, prev)
    digest = hashlib.sha512(frame(b"qtunnel/v1/audit/key", public)).digest()[:20]
    assert key_name(public).replace("-", "") == base64.b32encode(digest).decode().lower()


def test_the_document_lists_every_kind_that_is_recorded() -> None:
    rows = [line for line in DOCUMENT.splitlines() if line.startswith("| `")]
    named = {kind for row in rows for kind in re.findall(r"`([a-z]+\.[a-z-]+)`", row.split("|")[1])}
    assert named == RECORDED | OWN_KINDS


def test_the_documents_numbers_are_the_codes() -> None:
    assert f"at most {MAX_LINE:,} bytes" in DOCUMENT
    assert f"after {HEAD_AFTER} records" in DOCUMENT
