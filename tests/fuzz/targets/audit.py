"""Audit files: what verifies them, what asks them, and the head that was kept elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json

from qtunnel.audit.answer import answer
from qtunnel.audit.chain import Found, examine
from qtunnel.audit.head import SignedHead
from qtunnel.audit.record import GENESIS, RecordError, encode, is_time, parse
from qtunnel.audit.verify import LogFile, verify
from qtunnel.auditlog.times import asked, seconds_of, text_of
from qtunnel.errors import AuditError
from tests.audit.support import KEY, make_log, new_chain, opening, time_of
from tests.fuzz.draw import Draw, document, dumps, edited, spoiled
from tests.fuzz.target import Target, say

RECORD = {"seq": 5, "time": time_of(5), "kind": "epoch.in-force", "peer": "bob", "fields": {
    "epoch": 5, "protection": "qkd+pqc", "sources": ["metro"], "key_ids": ["a"], "chained": True, "after": "blocked",
    "number": 3, "from": 1, "to": 4, "detail": "x", "bytes": 9, "sha256": "00" * 32,
    "key": base64.b64encode(KEY.public).decode(),
    "key_name": "x", "signature": "AAAA"}, "prev": "00" * 32}  # fmt: skip
KINDS = (
    "epoch.in-force", "protection.in-force", "peer.blocked", "peer.added", "peer.removed", "daemon.starting",
    "daemon.stopped",
    "engine.died", "engine.restarted", "log.opened", "log.torn", "log.missing", "log.gap", "log.alive", "log.head",
    "rekey.done",
)  # fmt: skip
FILES, HEAD = make_log((6, 5), 4)


def record(data: bytes) -> None:
    """What reads as a record has its hash, and is written as the same bytes where it is written as we do."""
    body = dumps(Draw(data[1:]), edited(Draw(data[2:]), RECORD))[:-1] if data[:1] >= b"\x40" else data[1:]
    line = body + f',"hash":"{hashlib.sha256(body).hexdigest()}"}}'.encode()
    found = parse(line)
    assert found.hash == hashlib.sha256(body).digest()
    assert 1 <= found.seq < 2**63
    try:
        again, digest = encode(found.seq, found.time, found.kind, found.peer, found.fields, found.prev)
    except ValueError:  # NaN
        return
    assert parse(again).hash == digest


def log(data: bytes) -> None:
    """Whole logs, forged with right hashes or spoiled: verified in bounded time, every file that was written is
    found good,
    and any that was not is not; questions have an answer."""
    draw = Draw(data)
    if draw.flag(4):
        content, good = _spoiled_log(draw)
    else:
        content, good = _forged_log(draw), False
    files = [LogFile("audit-0", content)]
    report = verify(files)
    assert not good or report.good, report.findings
    assert len(report.findings) <= 4 * content.count(b"\n") + 4
    for finding in report.findings:
        say(str(finding))
    verify(files, heads=[("head", HEAD)], keys=[new_chain().key_name])
    at = draw.choice((time_of(3), time_of(0), time_of(500), "9999-12-31T23:59:59.999Z"))
    said = answer(report.lines, "bob", at, seconds_of)
    for words in (*said.remarks, *said.sources, *said.key_ids, said.protection or ""):
        say(words)
    try:
        found = examine(content[:5000], content[-5000:])
        assert isinstance(found, Found)
    except RecordError as error:
        say(str(error))


def _spoiled_log(draw: Draw) -> tuple[bytes, bool]:
    lines = FILES[0].data.splitlines(keepends=True)
    before = list(lines)
    for _ in range(draw.number(0, 3)):
        at = draw.number(0, 255) % len(lines)
        match draw.number(0, 3):
            case 0:
                lines.insert(at, draw.choice(lines))
            case 1 if len(lines) > 1:
                del lines[at]
            case 2:
                lines[at] = spoiled(draw, lines[at], 2)
            case _:
                lines.append(lines.pop(at))
    return b"".join(lines), lines == before


def _forged_log(draw: Draw) -> bytes:
    """Records with right hashes, which name whatever they like."""
    chain = new_chain()
    content = opening(chain, 0) if draw.flag() else b""
    prev, seq = chain.end.digest, chain.end.seq
    for number in range(draw.number(1, 12)):
        fields = edited(draw, RECORD["fields"], most=2)
        kind = draw.choice(KINDS)
        seq = max(1, min(2**63 - 1, seq + draw.choice((1, 1, 1, 2, 0, -1, 10**6, 10**12, 2**62))))
        prev = draw.choice((prev, prev, GENESIS))
        peer = draw.choice(("bob", "bob", None, "carol"))
        try:
            line, prev = encode(seq, time_of(number), kind, peer, fields if isinstance(fields, dict) else {}, prev)
        except (ValueError, TypeError):
            continue
        content += spoiled(draw, line, 1) + b"\n" if draw.flag(6) else line + b"\n"
        if not draw.left:
            break
    return content


HEAD_DOCUMENT = json.loads(HEAD.to_text())


def head(data: bytes) -> None:
    """A head that was kept elsewhere: genuine, or not, or refused; written as it was read."""
    found = SignedHead.parse(document(data, HEAD_DOCUMENT), "head")
    assert SignedHead.parse(found.to_text().encode(), "head") == found
    genuine = found.is_genuine
    assert not genuine or (found.seq, found.digest) == (HEAD.seq, HEAD.digest)
    verify(FILES, heads=[("head", found)])


def time(data: bytes) -> None:
    """A time as a person writes it."""
    text = asked(data.decode("utf-8", "replace"))
    assert is_time(text)
    assert asked(text) == text
    assert abs(seconds_of(text_of(seconds_of(text))) - seconds_of(text)) < 0.002


assert verify(FILES).good
TARGETS = {
    "record": Target(record, (RecordError,), 500, tuple(f'"{name}":'.encode() for name in RECORD)),
    "log": Target(log, (), 500),
    "head": Target(head, (AuditError,), 300, tuple(f'"{name}":'.encode() for name in HEAD_DOCUMENT)),
    "time": Target(time, (AuditError,), 40, (b"2026-01-31", b"T14:05", b":30", b".5", b"Z", b"+01:00", b"W05")),
}
