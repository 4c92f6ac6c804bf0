"""When to rekey, as the configuration says it: by time, by volume, and how far the supply of keys may move the time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from qtunnel.config.amounts import Bytes, Count, at_least_amount
from qtunnel.config.document import Location, Problem
from qtunnel.config.types import Duration, Percentage, Section, at_least, format_duration
from qtunnel.keys.schedule import OVERDUE_SLACK, ceiling

if TYPE_CHECKING:
    from qtunnel.config.model import QkdConfig

MIN_INTERVAL = at_least(1, "the shortest a KME and a handshake over a long link keep up with; the usual is 120s")

MAX_JITTER = 0.5
"""Above half the interval the schedule is no longer one."""

MIN_BYTES = at_least_amount(1_000_000, "which a busy tunnel carries many times a second; the usual is 10G", "B")
MIN_PACKETS = at_least_amount(1000, "which a busy tunnel carries many times a second; the usual is 50M")

ENGINES_THAT_COUNT_PACKETS = ("qtunnel",)
"""WireGuard's own interfaces, UAPI and netlink, tell bytes alone; ours also tells what it sealed and opened."""


class RekeyConfig(Section):
    """Whatever comes first. interval in seconds; jitter as a fraction of it, by which a rekey comes earlier or later.
    min_interval, max_interval: seconds in which the supply of keys moves the interval, ``None`` for not at all. bytes,
    packets: through the tunnel in both directions since the last rekey, ``None`` for any.
    """

    interval: Annotated[Duration, MIN_INTERVAL] = 120.0
    jitter: Percentage = 0.1
    min_interval: Annotated[Duration, MIN_INTERVAL] | None = None
    max_interval: Annotated[Duration, MIN_INTERVAL] | None = None
    bytes: Annotated[Bytes, MIN_BYTES] | None = None
    packets: Annotated[Count, MIN_PACKETS] | None = None

    @property
    def moves(self) -> bool:
        """Whether the supply of keys moves the interval."""
        return any(bound is not None and bound != self.interval for bound in (self.min_interval, self.max_interval))


def check_rekey(rekey: RekeyConfig, qkd: QkdConfig, engine: str, peer: Location) -> Iterator[Problem]:
    """What the parts of a schedule say against each other. peer: where the peer stands."""
    at = (*peer, "rekey")
    usual = format_duration(rekey.interval)
    if rekey.jitter > MAX_JITTER:
        yield Problem((*at, "jitter"), f"is more than {MAX_JITTER:.0%}; the usual is 10%")
    if rekey.packets is not None and engine not in ENGINES_THAT_COUNT_PACKETS:
        words = f"needs engine: qtunnel; {engine} does not count packets: use bytes, at some 1400 a packet"
        yield Problem((*at, "packets"), words, (("tunnel", "engine"),))
    if rekey.min_interval is not None and rekey.min_interval > rekey.interval:
        words = f"is longer than interval, {usual}; it bounds how far the interval may shrink when keys abound"
        yield Problem((*at, "min_interval"), words, ((*at, "interval"),))
    if rekey.max_interval is not None:
        yield from _check_longest(rekey, rekey.max_interval, qkd, peer)
    if qkd.policy == "off":
        by_volume = rekey.bytes is not None or rekey.packets is not None  # min_interval is a bound of that, too
        for name in ("max_interval",) if by_volume else ("min_interval", "max_interval"):
            if getattr(rekey, name) is not None:
                words = "qkd.policy is off, so there is no supply of keys that could move the interval; remove it"
                yield Problem((*at, name), words, ((*peer, "qkd", "policy"),))


def too_late(rekey: RekeyConfig, qkd: QkdConfig) -> str | None:
    """What to say where a key gets too old although nothing is wrong: one lost datagram, or a KME that has to be asked
    again, takes time as well."""
    latest = rekey.interval * (1 + rekey.jitter)
    if qkd.max_age > latest + OVERDUE_SLACK:
        return None
    return (
        f"max_age {format_duration(qkd.max_age)} may block traffic although nothing is wrong: a rekey may come "
        f"only after {format_duration(latest)} (interval and jitter), and one that does not go through at once takes "
        f"up to {format_duration(OVERDUE_SLACK)} more; raise max_age, or shorten interval"
    )


def _check_longest(rekey: RekeyConfig, longest: float, qkd: QkdConfig, peer: Location) -> Iterator[Problem]:
    at, usual = (*peer, "rekey"), format_duration(rekey.interval)
    if longest < rekey.interval:
        words = f"is shorter than interval, {usual}; it bounds how far the interval may grow when keys run low"
        yield Problem((*at, "max_interval"), words, ((*at, "interval"),))
        return
    allowed = int(ceiling(rekey.jitter, qkd.max_age))
    if longest > max(allowed, rekey.interval):
        room = f"lower it to at most {format_duration(allowed)}" if allowed > rekey.interval else "leave it out"
        yield Problem(
            (*at, "max_interval"),
            f"is {format_duration(longest)}, and a key gets at most {format_duration(qkd.max_age)} old (qkd.max_age): "
            f"that leaves no time for a second try, by either end; {room}, or raise max_age",
            ((*peer, "qkd", "max_age"),),
        )
