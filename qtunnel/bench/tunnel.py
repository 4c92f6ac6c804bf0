"""The race of two engines: rounds in which they take turns, medians, ratios."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from qtunnel import __version__
from qtunnel.bench.engine import Contender, Pair, ours, rival
from qtunnel.bench.link import Link, congestion_control
from qtunnel.bench.measure import METRICS, Metric, measure
from qtunnel.bench.options import STANDARD, TunnelOptions
from qtunnel.bench.tools import directory
from qtunnel.errors import BenchError, QtunnelError

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Line:
    """A metric with what each round gave."""

    metric: Metric
    ours: list[float]
    rival: list[float]

    @property
    def medians(self) -> tuple[float, float]:
        return statistics.median(self.ours), statistics.median(self.rival)

    @property
    def ratio(self) -> float | None:
        """Ours to the rival's; ``None`` where there is nothing to divide by, or nothing to compare."""
        mine, its = self.medians
        return mine / its if its and self.metric.higher is not None else None

    def as_dict(self) -> dict[str, Any]:
        mine, its = self.medians
        return {
            "unit": self.metric.unit,
            "higher_is_better": self.metric.higher,
            "ours": _rounded(mine),
            "rival": _rounded(its),
            "ratio": None if self.ratio is None else _rounded(self.ratio),
            "ours_rounds": [_rounded(value) for value in self.ours],
            "rival_rounds": [_rounded(value) for value in self.rival],
        }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


@dataclass(frozen=True, slots=True)
class Race:
    """A finished run.

    rival: path of the program, or ``STANDARD``. records: for each round of record mode, its state at the end, and why
    if it was not active.
    """

    options: TunnelOptions
    began: datetime
    rival: str
    lines: list[Line]
    records: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what was run, where, and ``measured`` by the metrics' keys."""
        options = self.options
        return {
            "bench": "tunnel",
            "began": self.began.isoformat(timespec="seconds"),
            "ours": f"qtunnel {__version__}",
            "rival": self.rival,
            "mode": options.mode,
            "suite": options.suite,
            "link": "datagrams" if options.link.cuts else "gso",
            "loss_percent": options.link.loss,
            "delay_ms": options.link.delay_ms,
            "congestion": options.link.congestion or congestion_control(),
            "seconds": options.seconds,
            "rounds": options.rounds,
            "processors": options.processors,
            "processes": options.processes,
            "kernel": platform.release(),
            "python": platform.python_version(),
            "record_states": self.records,
            "measured": {line.metric.key: line.as_dict() for line in self.lines},
        }


def race(options: TunnelOptions, say: Say) -> Race:
    """Run it in the sandbox. Raises ``QtunnelError`` that names the engine and the round where something fails."""
    began = datetime.now(UTC)
    if options.cores:  # everything that is started from here on inherits it
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    other = rival(options.against)
    contenders = [ours(options.mode, options.suite, options.processes), other]
    values: dict[str, dict[str, list[float]]] = {contender.name: {} for contender in contenders}
    records: list[str] = []
    link = Link(options.link)
    for number in range(1, options.rounds + 1):
        for contender in contenders:
            try:
                _turn(contender, link, options, values[contender.name], records, partial(_say_in_round, say, number))
            except QtunnelError as error:
                raise BenchError(f"round {number}, {contender.name}: {error}") from None
        contenders.reverse()  # the first of a round is not always the same, nor is what it leaves in the caches
    lines = [
        Line(metric, values["ours"][metric.key], values["rival"][metric.key])
        for metric in METRICS
        if metric.key in values["ours"]
    ]
    name = options.against if options.against == STANDARD else other.program.executable
    return Race(options, began, name, lines, records)


def _say_in_round(say: Say, number: int, text: str) -> None:
    say(f"round {number}, {text}")


def _turn(
    contender: Contender,
    link: Link,
    options: TunnelOptions,
    values: dict[str, list[float]],
    records: list[str],
    say: Say,
) -> None:
    """One engine's turn in a round: a fresh pair of it, all measurements."""
    metrics = {metric.key: metric for metric in METRICS}
    with Pair(contender, link, directory()) as pair:
        for key, value in measure(pair, options.kinds, options.seconds):
            values.setdefault(key, []).append(value)
            say(f"{contender.name}: {metrics[key].title}, {metrics[key].unit}: {value:,.4g}")
        if contender.records:
            state = pair.record_state()
            records.append(state)
            say(f"{contender.name}: record mode is {state}")
