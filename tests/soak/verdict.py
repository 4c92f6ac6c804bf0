"""What a run's record says of it. Pure: lines in, a verdict out."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.soak.plan import ENDS, KINDS

Line = dict[str, Any]
MARGIN = 0.5
"""Seconds after a fault of the link in which a packet of before may still be missing, e.g. a fragment's."""
EARLY = 0.3
"""Seconds by which an event in a log may be late."""
WARM = 60.0
"""Seconds in which a process loads what it needs."""
LONG = 240.0
"""Seconds that a process has to live for its memory to say anything."""
GROWTH_KB, GROWTH = 3000, 0.05
"""Growth of a process from the first to the last quarter that is no leak: allocators keep what they had once."""
NAMED = {"rss": "memory, kB", "fds": "descriptors", "threads": "threads"}
FEW = 8
"""Descriptors or threads more at the end than at the beginning, such as connections that happen to be open."""


@dataclass
class Verdict:
    """figures: for the reader; problems: what must not be."""

    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.problems

    def text(self) -> str:
        lines = [f"{name}: {value}" for name, value in self.figures.items()]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, *(f"PROBLEM: {problem}" for problem in self.problems), self.word])

    @property
    def word(self) -> str:
        return "holds" if self.holds else "FAILS"


def judge(lines: Iterable[Line], audits: dict[str, list[Line]] | None = None) -> Verdict:
    """lines: of the record (watch.py). audits: the records of both ends' audit logs."""
    kinds: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        kinds[line["kind"]].append(line)
    verdict = Verdict()
    _rekeys(verdict, kinds)
    _faults(verdict, kinds)
    _losses(verdict, kinds)
    _keys(verdict, kinds, audits or {})
    for what, slack in (("rss", GROWTH_KB), ("fds", FEW), ("threads", FEW)):
        _steady(verdict, kinds["sample"], what, slack)
    traces = [line for line in kinds["event"] if line["event"] == "traceback"]
    if traces:
        verdict.problems.append(f"{len(traces)} tracebacks in the logs")
    return verdict


def done(events: Iterable[Line], end: str) -> list[Line]:
    return [line for line in events if line["event"] == "rekey.done" and line["end"] == end]


def _rekeys(verdict: Verdict, kinds: dict[str, list[Line]]) -> None:
    ends = {end: done(kinds["event"], end) for end in ENDS}
    both = {line["epoch"] for line in ends["alice"]} & {line["epoch"] for line in ends["bob"]}
    verdict.figures["rekeys"] = f"{len(both)} agreed by both ends ({len(ends['alice'])} told by alice, "
    verdict.figures["rekeys"] += f"{len(ends['bob'])} by bob); an end was asked for one {len(kinds['asked'])} times"
    took = sorted(float(line["seconds"]) * 1000 for one in ends.values() for line in one if line["role"] == "initiator")
    if took:
        named = {"median": 0.5, "95 %": 0.95, "99 %": 0.99}
        told = [f"{name} {took[int(share * (len(took) - 1))]:.0f}" for name, share in named.items()]
        verdict.figures["rekey, ms"] = f"{', '.join(told)}, longest {took[-1]:.0f}"
    failed = Counter(line["reason"] for line in kinds["event"] if line["event"] == "rekey.failed")
    verdict.figures["rekeys failed"] = ", ".join(f"{name} {count}" for name, count in failed.most_common()) or "none"


def _faults(verdict: Verdict, kinds: dict[str, list[Line]]) -> None:
    faults = kinds["fault"]
    counts = Counter(line["fault"] for line in faults)
    verdict.figures["faults"] = f"{len(faults)}: " + ", ".join(
        f"{name} {count}" for name, count in sorted(counts.items())
    )
    for line in faults:
        if line["agreed"] is None:
            verdict.problems.append(
                f"no common new epoch after {line['fault']} at {line['end']}, {line['undone']:.1f} s into the run"
            )
    waits = [line["agreed"] - line["undone"] for line in faults if line["agreed"] is not None]
    if waits:
        verdict.figures["new common epoch after a fault, s"] = (
            f"median {statistics.median(waits):.1f}, longest {max(waits):.1f}"
        )


def blocked(events: Iterable[Line]) -> list[tuple[float, float]]:
    """When policy did not allow traffic at one end or the other."""
    since: dict[str, float] = {}
    found = []
    for line in events:
        end = line["end"]
        if line["event"] == "peer.blocked" or (line["event"] == "protection.in-force" and line["after"] == "blocked"):
            since.setdefault(end, line["at"])
        elif line["event"] == "protection.in-force" and line["after"] == "qkd+pqc" and end in since:
            found.append((since.pop(end) - EARLY, line["at"] + EARLY))
    return found + [(at - EARLY, float("inf")) for at in since.values()]


def _losses(verdict: Verdict, kinds: dict[str, list[Line]]) -> None:
    link = [(line["began"] - EARLY, line["undone"] + MARGIN) for line in kinds["fault"] if KINDS[line["fault"]].lossy]
    policy = blocked(kinds["event"])
    lost: Counter[str] = Counter()
    for gap in kinds["gap"]:
        if any(begin <= gap["first"] and gap["last"] <= end for begin, end in link):
            lost["link"] += gap["count"]
        elif any(begin <= gap["first"] and gap["last"] <= end for begin, end in policy):
            lost["policy"] += gap["count"]
        else:
            lost["allowed"] += gap["count"]
            verdict.problems.append(f"{gap['count']} echoes lost from {gap['first']:.2f} to {gap['last']:.2f} s: "
                                    + _meanwhile(kinds["fault"], gap))  # fmt: skip
    (end,) = kinds["end"] or [{}]
    sent = end.get("sent", 0)
    verdict.figures["echoes"] = (
        f"{sent} sent, {lost['link']} lost by the link's faults, {lost['policy']} while policy blocked traffic, "
        f"{lost['allowed']} while it allowed it"
    )
    verdict.figures["carried, MB"] = round(end.get("carried", 0) / 1e6)
    verdict.figures["blocked"] = f"{len(policy)} times at one end or the other"
    if end.get("clear"):
        verdict.problems.append(f"{end['clear']} packets for the other site left in the clear")


def _meanwhile(faults: Iterable[Line], gap: Line) -> str:
    near = [
        f"{line['fault']} at {line['end']} ({line['began']:.1f} to {line['undone']:.1f} s)"
        for line in faults
        if line["began"] - 1 <= gap["last"] and gap["first"] <= (line["agreed"] or line["undone"] + 60) + 1
    ]
    return "; ".join(near) or "no fault then"


def _keys(verdict: Verdict, kinds: dict[str, list[Line]], audits: dict[str, list[Line]]) -> None:
    given = Counter((line["end"], line["call"], line["key_id"]) for line in kinds["key"])
    again = [key for key, count in given.items() if count > 1]
    calls = Counter(call for _, call, _ in given)
    told = [f"{count} by {call}" for call, count in sorted(calls.items())]
    verdict.figures["keys given"] = ", ".join([*told, f"{len(again)} twice"])
    if again:
        verdict.problems.append(f"a KME gave the same key twice: {again[:5]}")
    used = {end: _used(kinds["event"], audits.get(end, []), end) for end in ENDS}
    twice = {end: {key: epochs for key, epochs in its.items() if len(epochs) > 1} for end, its in used.items()}
    total = sum(map(len, twice.values()))
    verdict.figures["keys used twice"] = total
    if total:
        verdict.problems.append(f"keys in two epochs: {twice}")
    by_epoch = {end: _by_epoch(its) for end, its in used.items()}
    common = by_epoch["alice"].keys() & by_epoch["bob"].keys()
    differ = sorted(epoch for epoch in common if by_epoch["alice"][epoch] != by_epoch["bob"][epoch])
    verdict.figures["divergence"] = f"{len(differ)} of {len(common)} epochs with other keys at the two ends"
    if differ:
        verdict.problems.append(f"epochs with other keys at the two ends: {differ[:10]}")


def _used(events: Iterable[Line], audit: Iterable[Line], end: str) -> dict[str, set[int]]:
    """The epochs that each key_ID went into, by the log and by the audit log."""
    found: dict[str, set[int]] = defaultdict(set)
    for line in done(events, end):
        for key_id in str(line.get("key_ids", "")).split(","):
            found[key_id].add(int(line["epoch"]))
    for record in audit:
        if record["kind"] == "rekey.done":
            for key_id in record["fields"]["key_ids"]:
                found[key_id].add(int(record["fields"]["epoch"]))
    found.pop("", None)
    return found


def _by_epoch(used: dict[str, set[int]]) -> dict[int, set[str]]:
    found: dict[int, set[str]] = defaultdict(set)
    for key_id, epochs in used.items():
        for epoch in epochs:
            found[epoch].add(key_id)
    return found


def lives(samples: Iterable[Line], what: str) -> Iterator[tuple[Line, list[float], list[float]]]:
    """Of each process that lived long: its last sample, and when and what was seen since it was warm."""
    by_pid: dict[tuple[str, str, int], list[Line]] = defaultdict(list)
    for line in samples:
        by_pid[line["end"], line["process"], line["pid"]].append(line)
    for its in by_pid.values():
        warm = [line for line in its if line["at"] >= its[0]["at"] + WARM]
        if its[-1]["at"] - its[0]["at"] >= LONG and len(warm) >= 8:
            yield its[-1], [line["at"] for line in warm], [line[what] for line in warm]


def _steady(verdict: Verdict, samples: list[Line], what: str, slack: float) -> None:
    told = []
    for last, _, values in lives(samples, what):
        part = max(2, len(values) // 4)
        first, final = statistics.median(values[:part]), statistics.median(values[-part:])
        name = f"{last['end']}'s {last['process']} ({last['pid']})"
        told.append(f"{name} {first:.0f} to {final:.0f}, at most {max(values):.0f}")
        if final - first > max(slack, GROWTH * first if what == "rss" else 0):
            verdict.problems.append(f"{what} of {name} grew from {first:.0f} to {final:.0f}")
    verdict.figures[NAMED[what]] = "; ".join(told) or "too short a run"
