"""Packets lost over many changes of the preshared key under load."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from qtunnel import __version__
from qtunnel.bench import tools
from qtunnel.bench.engine import Pair, ours
from qtunnel.bench.link import Link
from qtunnel.bench.machine import machine
from qtunnel.bench.options import LinkOptions, RekeyOptions
from qtunnel.crypto.dh import KEY_SIZE
from qtunnel.engines.device import Line
from qtunnel.errors import BenchError
from qtunnel.secret import Secret

PAYLOAD = 1372
"""Bytes; with the inner headers 1,400, which fits the tunnel's MTU of 1,420."""

CAPACITY_SECONDS = 2.0
COMPARISON_SECONDS = 10.0
"""Seconds of the same stream without rekeys, at most: what the machine itself loses at this load."""

IN_FORCE_BOUND = 10.0
"""Seconds for a key to be in force at both ends: a handshake takes milliseconds, one that was lost comes 5 s later."""

POLL = 0.05

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of the stream. queue_drops: packets that the kernel dropped before the sending engine read them."""

    seconds: float
    counted: tools.Counted
    queue_drops: int

    @property
    def lost(self) -> int:
        return self.counted.sent - self.counted.received

    def as_dict(self) -> dict[str, Any]:
        counted = self.counted
        return {
            "seconds": round(self.seconds, 3),
            "sent": counted.sent,
            "received": counted.received,
            "lost": self.lost,
            "lost_in_queue": self.queue_drops,
            "duplicates": counted.duplicates,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run. in_force: rekeys whose key both ends used before the next one came."""

    options: RekeyOptions
    began: datetime
    capacity: float
    rate: float
    without: Stretch
    during: Stretch
    in_force: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "bench": "rekey",
            "began": self.began.isoformat(timespec="seconds"),
            "ours": f"qtunnel {__version__}",
            "mode": self.options.mode,
            "suite": self.options.suite,
            "rekeys": self.options.rekeys,
            "interval": self.options.interval,
            "in_force": self.in_force,
            "payload_bytes": PAYLOAD,
            "capacity_pps": round(self.capacity),
            "offered_pps": round(self.rate),
            **self.during.as_dict(),
            "without_rekeys": self.without.as_dict(),
            **machine(),
        }


def rekey(options: RekeyOptions, say: Say) -> Outcome:
    """Run it in the sandbox; raises ``QtunnelError`` where an engine refuses or a key never comes into force."""
    began = datetime.now(UTC)
    with Pair(ours(options.mode, options.suite), Link(LinkOptions()), tools.directory()) as pair:
        tools.await_up(pair)
        keys = _Keys(pair)
        keys.change()
        keys.await_in_force()
        capacity = tools.udp(pair, PAYLOAD, CAPACITY_SECONDS).in_time / CAPACITY_SECONDS
        if not capacity:
            raise BenchError("no packet came through the tunnel")
        rate = options.rate or capacity / 2
        say(f"capacity {capacity:,.0f} packets/s of {PAYLOAD:,} bytes; the stream has {rate:,.0f}")
        whole = options.rekeys * options.interval
        seconds = min(whole, COMPARISON_SECONDS)
        without, _ = _stream(pair, seconds, rate, lambda: 0)
        say(f"{seconds:g} s without rekeys: {without.lost} of {without.counted.sent:,} packets lost")
        during, in_force = _stream(pair, whole + options.interval, rate, lambda: keys.change_often(options, say))
        keys.await_in_force()
    return Outcome(options, began, capacity, rate, without, during, in_force)


def _stream(pair: Pair, seconds: float, rate: float, meanwhile: Callable[[], int]) -> tuple[Stretch, int]:
    before = pair.engines["alice"].queue_drops()
    with tools.udp_stream(pair, PAYLOAD, seconds, rate) as run:
        time.sleep(tools.LEAD)
        result = meanwhile()
        counted = run.finish()
    return Stretch(seconds, counted, pair.engines["alice"].queue_drops() - before), result


class _Keys:
    """Installs epoch after epoch at both ends, as the daemon does.

    The responder first, then the initiator, which starts a handshake at once; both keep the key before.
    """

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._epoch = 0
        self._key: Secret | None = None

    def change(self) -> None:
        """One rekey."""
        self._epoch += 1
        key, previous = Secret.random(os.urandom, KEY_SIZE), self._key
        lines: list[Line] = [("preshared_key", key), ("epoch", self._epoch)]
        if previous is not None:
            lines += [("previous_preshared_key", previous), ("previous_epoch", self._epoch - 1)]
        self._pair.set_peer("bob", lines)
        self._pair.set_peer("alice", [*lines, ("handshake", "now")])
        if previous is not None:
            previous.wipe()
        self._key = key

    def change_often(self, options: RekeyOptions, say: Say) -> int:
        """A rekey each interval; how many were in force at both ends when the next was due."""
        start = time.monotonic()
        in_force = 0
        for number in range(options.rekeys):
            self.change()
            time.sleep(max(0.0, start + (number + 1) * options.interval - time.monotonic()))
            self._pair.check()
            in_force += self.in_force()
            if (number + 1) % max(1, options.rekeys // 10) == 0:
                say(f"{number + 1} rekeys, {in_force} in force")
        return in_force

    def in_force(self) -> bool:
        """Whether both ends send with a session of the newest key."""
        return all(self._pair.peer_value(end, "epoch") == str(self._epoch) for end in self._pair.engines)

    def await_in_force(self) -> None:
        """Raises ``BenchError`` where it does not come to that."""
        limit = time.monotonic() + IN_FORCE_BOUND
        while not self.in_force():
            if time.monotonic() > limit:
                raise BenchError(f"rekey {self._epoch} is not in force after {IN_FORCE_BOUND:g} s")
            time.sleep(POLL)
