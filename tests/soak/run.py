"""A run: two gateways under load and faults, written down as it goes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.daemon.accounts import REPORTS, sections
from tests.faults.lab import FaultLab, fault_lab
from tests.soak.act import MAX_AGES, Acts
from tests.soak.plan import Planned, plan
from tests.soak.verdict import Verdict, judge
from tests.soak.watch import Record, Watch

INTERVAL = "1s"
"""Between rekeys: the shortest that a configuration may have."""
BOUND = 60.0
"""Seconds after a fault within which both ends have a new epoch in common: an exchange with a wrong key takes 30."""
ASK_EVERY = 0.6
"""Seconds between rekeys that are asked for, at most."""


def soak(
    directory: Path, into: Path, *, seconds: float, faults: int, rekeys: int, seed: int, every: float = 5.0,
    say: Callable[[str], None] = print,
) -> Verdict:  # fmt: skip
    """A run in ``directory``, which gets the logs. into: its record. rekeys: as many as there are to be at least; where
    the schedule's and what faults cost would make fewer, more are asked for as an operator does. every: seconds between
    samples."""
    record = Record(into)
    with fault_lab(
        directory, interval=INTERVAL, max_age=MAX_AGES[0], faulty_link=True, prepare=_prepared
    ) as lab:  # fmt: skip
        record.begin = time.monotonic()
        day = datetime.now(UTC).date().isoformat()
        record.write("run", seed=seed, seconds=seconds, faults=faults, rekeys=rekeys, day=day)
        with (
            Watch(lab, record, every) as watch,
            lab.traffic(int(seconds) + 600) as seen,
            Pace(lab, watch, record, rekeys / seconds),
        ):
            run = Faults(lab, watch, record, say)
            run.do(plan(seed, seconds, faults))
            run.rest(seconds)
            loaded = seen.loaded
        for first, last, count in seen.gaps:
            record.write("gap", first=round(first - record.begin, 3), last=round(last - record.begin, 3), count=count)
        record.write(
            "end", sent=seen.sent, lost=seen.lost, loaded=loaded, clear=lab.leaked(), carried=carried(into)
        )  # fmt: skip
        record.close()
    audits = {name: audited(directory / f"log-{name}") for name in lab.sites}
    verdict = judge(read(into), audits)
    for name, site in lab.sites.items():
        code, _, error = site.audit_verified()
        verdict.figures[f"audit log of {name}"] = f"{len(audits[name])} records, " + (
            "whole" if code == 0 else "NOT whole"
        )
        if code != 0:
            verdict.problems.append(f"qtunnel audit verify of {name}: {error}")
    if not loaded:
        verdict.problems.append("the TCP flow ended before the run did")
    return verdict


def _prepared(lab: FaultLab) -> None:
    """An audit log at both ends, reports to a broker at alice, and KMEs that tell each key_ID that they give."""
    for site in lab.sites.values():
        site.relay_options = ("tell",)
        site.config["audit"] = sections(site.name, "go-on")["audit"] | {"rotate": "10MB"}
    lab.alice.config |= REPORTS


class Pace:
    """Asks for a rekey, as an operator does, whenever there are fewer than there should be by now, while the ``with``
    block lasts. An end is asked by turns: each answers one offer a second that costs it a key (FETCH_RATE)."""

    def __init__(self, lab: FaultLab, watch: Watch, record: Record, rate: float) -> None:
        self._lab, self._watch, self._record, self._rate = lab, watch, record, rate
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Pace:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(ASK_EVERY):
            if self._watch.rekeys < self._rate * self._record.now:
                end = "bob" if self._watch.began == "alice" else "alice"
                self._record.write("asked", end=end)
                self._lab.sites[end].rekey()


class Faults:
    """Does what a plan says, one after the other."""

    def __init__(self, lab: FaultLab, watch: Watch, record: Record, say: Callable[[str], None]) -> None:
        self._acts, self._watch, self._record, self._say = Acts(lab), watch, record, say

    def do(self, planned: list[Planned]) -> None:
        for number, fault in enumerate(planned, 1):
            self.rest(fault.at)
            began = self._record.now
            words = self._acts.do(fault)
            undone = self._record.now
            agreed = self._agreed(max(tail.in_force for tail in self._watch.tails.values()))
            self._record.write(
                "fault", fault=fault.kind, end=fault.end, began=began, undone=undone, agreed=agreed, words=words,
                amount=fault.amount,
            )  # fmt: skip
            after = "never" if agreed is None else f"{agreed - undone:.1f} s"
            what = f"{fault.kind} at {fault.end}: {words or f'{undone - began:.1f} s'}"
            self._say(f"{began:7.1f} s  {number:3} {what}; a new epoch after {after}; {self._watch.rekeys} rekeys")

    def _agreed(self, before: int) -> float | None:
        """When both ends had an epoch in force that is later than any was when the fault had gone."""
        deadline = time.monotonic() + BOUND
        while time.monotonic() < deadline:
            if self._watch.common > before:
                return self._record.now
            time.sleep(0.02)
        return None

    def rest(self, until: float) -> None:
        """Until so many seconds after the beginning."""
        time.sleep(max(0.0, until - self._record.now))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def audited(directory: Path) -> list[dict[str, Any]]:
    """All records of an audit log."""
    return [json.loads(line) for file in sorted(directory.glob("*.jsonl")) for line in file.read_text().splitlines()]


def carried(path: Path) -> int:
    """Bytes that came and went through alice's tunnel, as her status told; a new engine begins at 0."""
    total, before = 0, 0
    for line in read(path):
        if line["kind"] == "status" and line["end"] == "alice":
            now = line["rx"] + line["tx"]
            total += now - before if now >= before else now
            before = now
    return total
