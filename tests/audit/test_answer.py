"""What protected a tunnel at a moment, by records of a run with an outage, stops and a crash."""

from __future__ import annotations

import pytest

from qtunnel.audit.answer import Answer, answer
from qtunnel.audit.record import Record
from qtunnel.audit.verify import Line, Place
from qtunnel.auditlog.times import seconds_of

DAY = "2026-11-24T"


def at(clock: str) -> str:
    return f"{DAY}{clock}.000Z"


EPOCH = {"sources": ["x25519", "ml-kem-1024", "etsi014:metro"], "chained": True}
RUN: list[tuple[str, str, str | None, dict[str, object]]] = [
    ("13:59:00", "log.opened", None, {}),
    ("13:59:01", "daemon.starting", None, {}),
    ("13:59:02", "daemon.ready", None, {}),
    ("13:59:03", "rekey.done", "bob", {"epoch": 1}),
    ("13:59:04", "epoch.in-force", "bob", {**EPOCH, "epoch": 1, "protection": "qkd+pqc", "key_ids": ["metro k1"]}),
    ("13:59:04", "protection.in-force", "bob", {"before": "starting", "after": "qkd+pqc"}),
    ("13:59:30", "epoch.in-force", "carol", {"epoch": 4, "protection": "pqc-only", "sources": [], "chained": False}),
    ("14:01:04", "epoch.in-force", "bob", {**EPOCH, "epoch": 2, "protection": "qkd+pqc", "key_ids": ["metro k2"]}),
    ("14:03:00", "source.down", None, {"source": "metro"}),
    ("14:03:04", "rekey.failed", "bob", {"reason": "policy"}),
    ("14:04:00", "log.alive", None, {}),
    ("14:06:04", "protection.in-force", "bob", {"before": "qkd+pqc", "after": "expired"}),
    ("14:06:04", "peer.blocked", "bob", {"detail": "no epoch with QKD for 300 s"}),
    ("14:06:05", "protection.in-force", "bob", {"before": "expired", "after": "blocked"}),
    ("14:08:00", "log.alive", None, {}),
    ("14:10:00", "source.up", None, {"source": "metro"}),
    ("14:10:01", "epoch.in-force", "bob", {**EPOCH, "epoch": 3, "protection": "qkd+pqc", "key_ids": ["metro k3"]}),
    ("14:10:01", "protection.in-force", "bob", {"before": "blocked", "after": "qkd+pqc"}),
    ("14:12:00", "engine.died", None, {"detail": "was killed"}),
    ("14:12:01", "engine.restarted", None, {}),
    ("14:12:02", "protection.in-force", "bob", {"before": "qkd+pqc", "after": "starting"}),
    ("14:12:03", "epoch.in-force", "bob", {**EPOCH, "epoch": 3, "protection": "qkd+pqc", "key_ids": ["metro k3"]}),
    ("14:12:03", "protection.in-force", "bob", {"before": "starting", "after": "qkd+pqc"}),
    ("14:14:00", "peer.removed", "carol", {}),
    ("14:15:00", "log.alive", None, {}),
    # killed at 14:15:30
    ("14:20:00", "daemon.starting", None, {}),
    ("14:20:02", "epoch.in-force", "bob", {**EPOCH, "epoch": 4, "protection": "qkd+pqc", "key_ids": ["metro k4"]}),
    ("14:30:00", "daemon.stopping", None, {"signal": "SIGTERM"}),
    ("14:30:01", "daemon.stopped", None, {}),
    ("15:00:00", "daemon.starting", None, {}),
    ("15:00:02", "epoch.in-force", "bob", {**EPOCH, "epoch": 9, "protection": "qkd+pqc", "key_ids": ["metro k9"]}),
    ("15:00:10", "log.gap", None, {"number": 12}),
    ("15:01:00", "epoch.in-force", "bob", {**EPOCH, "epoch": 11, "protection": "qkd+pqc", "key_ids": ["metro k11"]}),
]
LINES = [
    Line(Place("audit.jsonl", number), Record(number, at(clock), kind, peer, fields))
    for number, (clock, kind, peer, fields) in enumerate(RUN, 1)
]


def asked(clock: str, peer: str = "bob") -> Answer:
    return answer(LINES, peer, at(clock), seconds_of)


@pytest.mark.parametrize(
    "clock, state, protection, epoch, key",
    [
        ("13:00:00", "unknown", None, None, None),
        ("13:59:02", "known", "starting", None, None),
        ("13:59:03", "known", "starting", None, None),  # agreed, and not in force yet
        ("13:59:04", "known", "qkd+pqc", 1, "metro k1"),
        ("14:01:03", "known", "qkd+pqc", 1, "metro k1"),
        ("14:01:04", "known", "qkd+pqc", 2, "metro k2"),
        ("14:05:00", "known", "qkd+pqc", 2, "metro k2"),  # the source is down, the key still good
        ("14:06:04", "known", "blocked", None, None),
        ("14:07:00", "known", "blocked", None, None),
        ("14:10:00", "known", "blocked", None, None),
        ("14:10:01", "known", "qkd+pqc", 3, "metro k3"),
        ("14:12:00", "engine-down", None, None, None),
        ("14:12:02", "known", "starting", None, None),
        ("14:12:04", "known", "qkd+pqc", 3, "metro k3"),
        ("14:16:00", "unknown", None, 3, "metro k3"),  # killed, nobody knows when
        ("14:20:01", "known", "starting", None, None),
        ("14:20:02", "known", "qkd+pqc", 4, "metro k4"),
        ("14:40:00", "stopped", None, None, None),
        ("15:00:05", "known", "qkd+pqc", 9, "metro k9"),
        ("15:00:30", "unknown", None, 9, "metro k9"),
        ("15:02:00", "known", "qkd+pqc", 11, "metro k11"),
        ("16:00:00", "unknown", None, 11, "metro k11"),  # the log ends at 15:01
    ],
)
def test_what_was_in_force(clock: str, state: str, protection: str | None, epoch: int | None, key: str | None) -> None:
    found = asked(clock)
    assert (found.state, found.protection, found.epoch) == (state, protection, epoch)
    assert found.key_ids == (() if key is None else (key,))


def test_since_and_until_are_the_changes_around_it() -> None:
    found = asked("14:05:00")
    assert (found.since, found.until) == (at("14:01:04"), at("14:06:04"))
    assert [str(place) for place in found.places] == ["audit.jsonl:8"]
    assert found.sources == ("x25519", "ml-kem-1024", "etsi014:metro")
    assert asked("15:02:00").until is None


def test_other_peers_records_say_nothing_of_this_one() -> None:
    assert asked("14:05:00", "carol").protection == "pqc-only"
    assert asked("14:14:30", "carol").state == "removed"


def test_a_crash_is_told_with_the_times_around_it() -> None:
    (words,) = asked("14:16:00").remarks
    assert at("14:15:00") in words
    assert at("14:20:00") in words
