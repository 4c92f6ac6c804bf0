"""A peer's deadlines (white paper section 6) and the order in which they come.

| timer         | armed                                      | disarmed                  | when it fires       |
| ------------- | ------------------------------------------ | ------------------------- | ------------------- |
| RETRANSMIT    | initiation sent: 5 s + jitter              | handshake complete        | initiate or give up |
| KEEPALIVE     | data received: 10 s, unless armed          | authenticated packet sent | send a keepalive    |
| NEW_HANDSHAKE | data sent: 15 s + jitter, unless armed     | authenticated packet got  | initiate            |
| ZERO_KEYS     | session derived: 540 s; given up: the same |                           | wipe all keys       |
|               | unless armed                               |                           |                     |
| PERSISTENT    | authenticated packet sent or got: interval | interval set to 0         | send a keepalive    |
| PREVIOUS_PSK  | preshared key set with the previous: 180 s |                           | wipe the previous   |
| PSK_ENDS      | preshared key set with an end: then        | another one set           | block the peer      |
| RECORD        | record received: 0.1 s, unless armed; a    | record mode unset         | report              |
|               | peer is asked for record mode: 0.25 - 64 s |                           |                     |
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import TYPE_CHECKING

from qtunnel.wireguard.limits import (
    KEEPALIVE_TIMEOUT,
    NEW_HANDSHAKE_TIME,
    REJECT_AFTER_TIME,
    REKEY_JITTER,
    REKEY_TIMEOUT,
    ZERO_KEYS_TIME,
)

if TYPE_CHECKING:
    from qtunnel.wireguard.peer import Peer

NEVER = float("inf")


class Timer(IntEnum):
    RETRANSMIT = 0
    KEEPALIVE = 1
    NEW_HANDSHAKE = 2
    ZERO_KEYS = 3
    PERSISTENT = 4
    PREVIOUS_PSK = 5
    RECORD = 6
    PSK_ENDS = 7


# Attributes of an enumeration, and indices of its type, take several times as long; these are used with every packet.
_KEEPALIVE, _NEW_HANDSHAKE = int(Timer.KEEPALIVE), int(Timer.NEW_HANDSHAKE)

_POOL = 64
"""Random bytes fetched at a time: a timer with jitter is armed with almost every packet of a slow exchange."""

_OF_A_SESSION = (Timer.RETRANSMIT, Timer.KEEPALIVE, Timer.NEW_HANDSHAKE, Timer.ZERO_KEYS, Timer.RECORD)


class Schedule:
    """The deadlines of all peers in order.

    Re-arming happens on every packet, so it only writes the new time down; the heap is corrected later.
    """

    __slots__ = ("_heap", "_sequence")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, PeerTimers, Timer]] = []
        self._sequence = 0

    def push(self, when: float, timers: PeerTimers, timer: Timer) -> None:
        self._sequence += 1
        timers.queued[timer] = when
        heapq.heappush(self._heap, (when, self._sequence, timers, timer))

    def next_deadline(self) -> float:
        """When the next timer fires; ``NEVER`` where none is armed."""
        while self._heap:
            when, _, timers, timer = self._heap[0]
            at = timers.at[timer]
            if when == at:
                return when
            self._pop()
        return NEVER

    def due(self, now: float) -> Iterator[tuple[Peer, Timer]]:
        """The timers that fire now, each disarmed before it is given out."""
        while self._heap and self._heap[0][0] <= now:
            timers, timer = self._heap[0][2], self._heap[0][3]
            fires = timers.at[timer] == self._heap[0][0]
            if fires:
                timers.at[timer] = NEVER
            self._pop()
            if fires:
                yield timers.peer, timer

    def _pop(self) -> None:
        when, _, timers, timer = heapq.heappop(self._heap)
        if timers.queued[timer] != when:
            return  # replaced by an earlier entry
        timers.queued[timer] = NEVER
        at = timers.at[timer]
        if at != NEVER:
            self.push(at, timers, timer)


class PeerTimers:
    """The deadlines of one peer; ``at`` holds them by ``Timer``. ``jitter`` gives seconds, at most REKEY_JITTER."""

    __slots__ = ("_jitter", "_schedule", "another_keepalive", "at", "peer", "persistent", "queued")

    def __init__(self, peer: Peer, schedule: Schedule, jitter: Callable[[], float]) -> None:
        self.peer = peer
        self.at = [NEVER] * len(Timer)
        self.queued = [NEVER] * len(Timer)
        self.persistent = 0
        self.another_keepalive = False
        self._schedule = schedule
        self._jitter = jitter

    def arm(self, timer: Timer, when: float) -> None:
        self.at[timer] = when
        if when < self.queued[timer]:
            self._schedule.push(when, self, timer)

    def disarm(self, timer: Timer) -> None:
        self.at[timer] = NEVER

    def stop(self) -> None:
        """Disarm all."""
        self.at[:] = [NEVER] * len(Timer)
        self.another_keepalive = False

    def session_ended(self) -> None:
        """Disarm what belongs to a session or a handshake; a persistent keepalive begins the next one."""
        for timer in _OF_A_SESSION:
            self.at[timer] = NEVER
        self.another_keepalive = False

    def data_sent(self, now: float) -> None:
        if self.at[_NEW_HANDSHAKE] == NEVER:
            self.arm(Timer.NEW_HANDSHAKE, now + NEW_HANDSHAKE_TIME + self._jitter())

    def data_received(self, now: float) -> None:
        if self.at[_KEEPALIVE] == NEVER:
            self.arm(Timer.KEEPALIVE, now + KEEPALIVE_TIMEOUT)
        else:
            self.another_keepalive = True

    def authenticated_sent(self, now: float) -> None:
        self.at[_KEEPALIVE] = NEVER
        if self.persistent:
            self.arm(Timer.PERSISTENT, now + self.persistent)

    def authenticated_received(self, now: float) -> None:
        self.at[_NEW_HANDSHAKE] = NEVER
        if self.persistent:
            self.arm(Timer.PERSISTENT, now + self.persistent)

    def initiation_sent(self, now: float) -> None:
        self.arm(Timer.RETRANSMIT, now + REKEY_TIMEOUT + self._jitter())

    def session_derived(self, now: float) -> None:
        self.arm(Timer.ZERO_KEYS, now + ZERO_KEYS_TIME)

    def previous_psk_set(self, now: float) -> None:
        """A peer that has not switched by the time at which sessions end will not."""
        self.arm(Timer.PREVIOUS_PSK, now + REJECT_AFTER_TIME)

    def psk_set(self, ends: float) -> None:
        """A preshared key that ends at that time, ``NEVER`` for one that does not."""
        self.disarm(Timer.PSK_ENDS)
        if ends != NEVER:
            self.arm(Timer.PSK_ENDS, ends)

    def given_up(self, now: float) -> None:
        """No answer to any initiation; it must not put off the end of the keys that are there."""
        if self.at[Timer.ZERO_KEYS] == NEVER:
            self.arm(Timer.ZERO_KEYS, now + ZERO_KEYS_TIME)


def jitter_from(random_bytes: Callable[[int], bytes]) -> Callable[[], float]:
    """A source of jitter, 0 to REKEY_JITTER seconds."""
    pool = b""

    def jitter() -> float:
        nonlocal pool
        if not pool:
            pool = random_bytes(_POOL)
        value, pool = int.from_bytes(pool[:2], "big"), pool[2:]
        return value / 65535 * REKEY_JITTER

    return jitter
