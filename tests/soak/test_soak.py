"""What the endurance run is made of: its plan, and a verdict that finds what must not be. And a run of some seconds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.soak.plan import ENDING, KINDS, Planned, plan
from tests.soak.run import soak
from tests.soak.verdict import judge

Line = dict[str, Any]


def test_a_seed_is_a_plan_and_every_kind_comes_as_often_as_it_weighs() -> None:
    deck = sum(kind.weight for kind in KINDS.values())
    first = plan(1, 3600, 3 * deck)
    assert first == plan(1, 3600, 3 * deck) != plan(2, 3600, 3 * deck)
    assert Counter(fault.kind for fault in first) == {name: 3 * kind.weight for name, kind in KINDS.items()}
    assert all(5 <= fault.at < 3600 for fault in first)
    for fault in first:
        kind = KINDS[fault.kind]
        assert fault.end in kind.ends
        assert fault.kind not in ENDING or fault.at < 1260 or fault.end == "bob"
        assert kind.seconds[0] <= fault.seconds <= kind.seconds[1]
        assert kind.amount[0] <= fault.amount <= kind.amount[1]


def event(at: float, end: str, name: str, **fields: Any) -> Line:
    return {"kind": "event", "at": at, "end": end, "event": name, **fields}


def rekey(at: float, end: str, epoch: int, key_id: str) -> Line:
    role = "initiator" if end == "alice" else "responder"
    return event(at, end, "rekey.done", epoch=str(epoch), role=role, seconds="0.05", key_ids=key_id)


def fault(kind: str, began: float, undone: float, agreed: float | None) -> Line:
    return {"kind": "fault", "fault": kind, "end": "alice", "began": began, "undone": undone, "agreed": agreed}


def sample(at: float, rss: int, fds: int = 20) -> Line:
    whose = {"kind": "sample", "at": at, "end": "bob", "process": "daemon", "pid": 7}
    return whose | {"rss": rss, "fds": fds, "threads": 4}


def gap(first: float, last: float, count: int) -> Line:
    return {"kind": "gap", "first": first, "last": last, "count": count}


def record() -> list[Line]:
    """Of a run that went well."""
    rekeys = [rekey(epoch, end, epoch, f"k{epoch}") for epoch in range(1, 1000) for end in ("alice", "bob")]
    given = [{"kind": "key", "at": epoch, "end": end, "call": call, "key_id": f"k{epoch}"} for epoch in range(1, 1000)
             for end, call in (("alice", "enc_keys"), ("bob", "dec_keys"))]  # fmt: skip
    return [
        *rekeys, *given, *(sample(at, 50_000 + at % 7) for at in range(0, 1000, 5)),
        fault("link loses", 100, 105, 106), fault("KME stopped", 200, 210, 211),
        event(300, "bob", "peer.blocked"), event(320, "bob", "protection.in-force", before="blocked", after="qkd+pqc"),
        gap(101, 101.2, 3), gap(300.1, 319.9, 1980), {"kind": "end", "at": 1000, "sent": 100_000, "lost": 1983},
    ]  # fmt: skip


def test_what_a_link_loses_and_what_policy_blocks_is_no_loss_of_ours() -> None:
    verdict = judge(record())
    assert verdict.holds, verdict.text()
    assert "3 lost by the link's faults, 1980 while policy blocked traffic, 0 while it" in verdict.figures["echoes"]
    assert verdict.figures["rekeys"].startswith("999 agreed by both ends")
    assert "bob's daemon (7) 50003 to 50003" in verdict.figures["memory, kB"]


@pytest.mark.parametrize(
    "line, words",
    [
        (gap(205, 205, 1), "1 echoes lost from 205.00 to 205.00 s: KME stopped at alice"),
        (gap(299, 319, 2000), "2000 echoes lost"),
        (gap(101, 107, 600), "600 echoes lost"),
        (fault("clock stepped", 400, 405, None), "no common new epoch after clock stepped at alice"),
        (rekey(500, "bob", 1500, "k500"), "keys in two epochs: "),
        (rekey(500, "bob", 500, "other"), "epochs with other keys at the two ends: [500]"),
        ({"kind": "key", "at": 1, "end": "bob", "call": "dec_keys", "key_id": "k9"}, "gave the same key twice"),
        (event(7, "bob", "traceback"), "1 tracebacks"),
    ],
)  # fmt: skip
def test_what_must_not_be_is_found(line: Line, words: str) -> None:
    verdict = judge([*record(), line])
    assert [words in problem for problem in verdict.problems] == [True], verdict.text()


def test_the_audit_log_is_believed_as_well() -> None:
    again = {"kind": "rekey.done", "fields": {"epoch": 77, "key_ids": ["k9"]}}
    assert "keys in two epochs" in judge(record(), {"alice": [again]}).problems[0]


@pytest.mark.parametrize("what", ["rss", "fds"])
def test_a_leak_is_found(what: str) -> None:
    rate = {"rss": 10, "fds": 0.1}[what]
    leaking = [line | {what: line[what] + line["at"] * rate} if what in line else line for line in record()]
    assert [f"{what} of bob's daemon (7) grew" in problem for problem in judge(leaking).problems] == [True]


@pytest.mark.root
def test_a_short_run_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fault of each sort: of a KME, a daemon, the link, a clock, and a reload."""
    kinds = ("KME stopped", "daemon killed", "link reorders", "clock stepped", "reload (SIGHUP)")
    planned = [Planned(0.5, kind, "link" if kind.startswith("link") else "bob", 1.0, 0.2) for kind in kinds]
    monkeypatch.setattr("tests.soak.run.plan", lambda *_: planned)
    told: list[str] = []
    verdict = soak(tmp_path, tmp_path / "soak.jsonl", seconds=1, faults=len(kinds), rekeys=5, seed=1, every=1.0,
                   say=told.append)  # fmt: skip
    assert verdict.holds, verdict.text()
    assert len(told) == len(kinds)
    assert verdict.figures["faults"].startswith("5: ")
