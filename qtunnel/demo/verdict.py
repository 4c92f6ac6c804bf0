"""Whether a run went as policy demands, and in which words it is told. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from qtunnel.demo.observe import FULL, Observer, Period
from qtunnel.demo.options import MAX_AGE_INTERVALS, RETRY, DemoOptions
from qtunnel.demo.traffic import Gap

SLACK = 1.5
"""Seconds between what happens and what a look at the status can show: two looks, and a daemon under load."""

LOOK_SLACK = 0.5
"""Seconds that a gateway's answer may be old when it is taken down."""

MAX_ERRORS = 40
"""Errors told one by one; a run that goes wrong says the same in many wordings."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run brought. began, ended, outage: monotonic seconds; gbps: ``None`` if not measured.

    silences: times in which no echo was answered, from and to, in monotonic seconds.

    failures: what went wrong with the run itself (a program ended, an interruption).
    """

    began: float
    ended: float
    pings_sent: int = 0
    pings_lost: int = 0
    gaps: Sequence[Gap] = ()
    silences: Sequence[tuple[float, float]] = ()
    gbps: float | None = None
    outage: tuple[float, float] | None = None
    outage_kme: str = ""
    failures: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """What ``--json`` prints, key for key. throughput_gbps: ``None`` where it was not measured."""

    ok: bool
    seconds: float
    rekeys: int
    pings_sent: int
    pings_lost: int
    throughput_gbps: float | None
    protection: str
    sources: list[str]
    errors: list[str]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(slots=True)
class _Findings:
    """expected: told, as policy asked for it; wrong: makes the run fail."""

    expected: list[tuple[float, str]] = field(default_factory=list)
    wrong: list[tuple[float, str]] = field(default_factory=list)


def judge(options: DemoOptions, observer: Observer, measured: Measured) -> Summary:
    """The summary of a run."""
    found = _Findings()
    found.wrong += [(measured.ended, text) for text in measured.failures]
    if measured.outage is None:
        _protection_unbroken(observer, measured, found)
        _nothing_lost(measured, found)
        found.wrong += _errors(observer)
    else:
        _in_outage(options, observer, measured, found)
    if not measured.failures:  # of a run that was cut short nothing can be expected
        _at_the_end(options, observer, measured, found)
    errors = [text for _, text in sorted(found.wrong + found.expected, key=lambda one: one[0])]
    if len(errors) > MAX_ERRORS:
        errors = [*errors[:MAX_ERRORS], f"and {len(errors) - MAX_ERRORS} more"]
    return Summary(
        ok=not found.wrong,
        seconds=round(measured.ended - measured.began, 1),
        rekeys=observer.rekeys,
        pings_sent=measured.pings_sent,
        pings_lost=measured.pings_lost,
        throughput_gbps=None if measured.gbps is None else round(measured.gbps, 3),
        protection=observer.protection,
        sources=observer.sources,
        errors=errors,
    )


def _errors(observer: Observer) -> list[tuple[float, str]]:
    return [(when, f"{name}: {what}") for name, side in observer.sides.items() for when, what in side.errors]


def _since(measured: Measured, when: float) -> str:
    return f"{max(0.0, when - measured.began):.1f} s"


def _span(measured: Measured, first: float, last: float) -> str:
    return f"from {_since(measured, first)} to {_since(measured, last)}"


def _show(measured: Measured, period: Period) -> str:
    return f"{period.gateway}: protection {period.protection} {_span(measured, period.first, period.last)}"


def _protection_unbroken(observer: Observer, measured: Measured, found: _Findings) -> None:
    found.wrong += [(one.first, _show(measured, one)) for one in observer.periods if one.protection != FULL]


def _nothing_lost(measured: Measured, found: _Findings) -> None:
    found.wrong += [
        (first, f"{count} {'ping' if count == 1 else 'pings'} lost {_span(measured, first, last)}")
        for first, last, count in measured.gaps
    ]


def _at_the_end(options: DemoOptions, observer: Observer, measured: Measured, found: _Findings) -> None:
    end = measured.ended
    for name, side in observer.sides.items():
        if side.protection != FULL:
            found.wrong.append((end, f"{name}: protection is {side.protection} at the end instead of {FULL}"))
    if observer.rekeys < options.rekeys_expected:
        found.wrong.append((end, f"{observer.rekeys} rekeys, expected {options.rekeys_expected} or more"))
    if measured.gbps is None:
        found.wrong.append((end, "no throughput was measured"))
    if not measured.pings_sent:
        found.wrong.append((end, "no ping was sent"))


def _in_outage(options: DemoOptions, observer: Observer, measured: Measured, found: _Findings) -> None:
    """A KME was away on purpose: what policy demands is expected, everything else is wrong."""
    assert measured.outage is not None
    stopped, started = measured.outage
    found.expected.append((stopped, f"{measured.outage_kme} was stopped {_span(measured, stopped, started)}"))
    # a retry that began before the KME was back may still fail a moment later
    settled = started + RETRY + options.interval + SLACK
    errors = _errors(observer)
    if not any(stopped - SLACK <= when <= settled for when, _ in errors):
        found.wrong.append((settled, "no gateway told of the KME's outage"))
    for when, text in errors:
        (found.expected if stopped - SLACK <= when <= settled else found.wrong).append((when, text))
    allowed = "blocked" if options.policy == "required" else "pqc-only"
    lowered = [one for one in observer.periods if one.protection != FULL]
    for one in lowered:
        fits = one.protection == allowed or (allowed == "blocked" and one.protection == "starting")
        during = stopped - SLACK <= one.first and one.last <= settled
        (found.expected if fits and during else found.wrong).append((one.first, _show(measured, one)))
    if options.policy == "required":
        _blocked(options, measured, lowered, found)
    else:
        for name in observer.sides:
            if not any(one.gateway == name and one.protection == "pqc-only" for one in lowered):
                found.wrong.append((started, f"{name}: never showed that it went on without QKD"))
        _nothing_lost(measured, found)


def _blocked(options: DemoOptions, measured: Measured, lowered: list[Period], found: _Findings) -> None:
    """With ``qkd: required`` traffic stops in time, all of it, and comes back."""
    assert measured.outage is not None
    stopped, started = measured.outage
    blocked = [one for one in lowered if one.protection in ("blocked", "starting")]
    if not blocked:
        found.wrong.append((started, f"traffic was not blocked although the key got older than {options.max_age:g} s"))
        _nothing_lost(measured, found)
        return
    first, last = min(one.first for one in blocked), max(one.last for one in blocked)
    latest = stopped + MAX_AGE_INTERVALS * options.interval + SLACK
    if first > latest:
        found.wrong.append((first, f"blocked at {_since(measured, first)}, due by {_since(measured, latest)}"))
    inside = [gap for gap in measured.gaps if first - SLACK <= gap[0] and gap[1] <= last + SLACK]
    for gap in measured.gaps:
        if gap not in inside:
            _nothing_lost(Measured(measured.began, measured.ended, gaps=[gap]), found)
    # While a gateway says "blocked" no answer may come. Echoes of the last moments before it ends may be answered
    # afterwards: the engine holds some packets back until it has a session, and that one has the new key.
    if not any(begin <= first + LOOK_SLACK and end >= last - LOOK_SLACK for begin, end in measured.silences):
        found.wrong.append((last, f"pings went through while blocked {_span(measured, first, last)}"))
    count = sum(gap[2] for gap in inside)
    found.expected.append((last, f"{count} pings lost while blocked, as qkd: required asks"))
