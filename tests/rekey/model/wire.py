"""A model of WireGuard between two ends: preshared keys, handshakes, sessions. Nothing of packets.

Times are those of the white paper, section 6. ``plain`` engines (wireguard-go, the kernel) know one preshared key at a
time and handshake when they like; ours also tries the previous key on a response, and begins when it is told.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qtunnel.engines.clocks import Moment
from qtunnel.engines.ledger import EpochLedger

REJECT_AFTER_TIME = 180.0
REKEY_AFTER_TIME = 120.0
REKEY_TIMEOUT = 5.0
LATEST_REKEY = REJECT_AFTER_TIME - 10.0 - REKEY_TIMEOUT
"""Age at which the end that did not begin the session begins the next one (section 6.2)."""

Carry = Callable[[str, Callable[[], None]], None]
"""Take something from the end of that name to the other; it may be lost."""


@dataclass(frozen=True, eq=False)
class Session:
    """number: the same at both ends. epoch: label of the key it was made with; None for a random one."""

    number: int
    psk: bytes
    epoch: int | None
    made: float


class Wire:
    """One end's engine, with one peer. ahead: of the wall clock, by which it tells handshakes, to ``clock``."""

    def __init__(
        self, name: str, plain: bool, rng: random.Random, clock: Callable[[], float], ahead: Callable[[], float],
        carry: Carry,
    ) -> None:  # fmt: skip
        self.name, self.plain = name, plain
        self.held: list[tuple[float, float]] = []
        """Of every key that another one replaced: for how many seconds it was in place, and until when."""
        self._rng, self._clock, self._ahead, self._carry = rng, clock, ahead, carry
        self.other: Wire = self
        self.up = False
        self._ledger = EpochLedger(Moment(0.0, 0.0, 0.0))
        self.last_handshake: float | None = None
        self._stop()

    def _stop(self) -> None:
        self.psk = self._rng.randbytes(32)
        self.epoch: int | None = None
        self.previous: tuple[bytes, int | None, float] | None = None
        self.sending: Session | None = None
        self._began_it = False
        self._unconfirmed: Session | None = None
        self._asked: int | None = None
        self._tried = -1e9
        self._since: float | None = None
        self.held.clear()
        self._ledger.blocked()
        self.last_handshake = None

    # -- what the daemon does

    def start(self) -> None:
        """A new engine: a random key, no session."""
        self._stop()
        self.up = True

    def die(self) -> None:
        self._stop()
        self.up = False

    def install(
        self, psk: bytes, epoch: int, previous: tuple[bytes, int | None, float] | None, handshake_now: bool
    ) -> None:
        """previous: key, label and when it ends."""
        now = self._clock()
        if self._since is not None and epoch != self.epoch:
            self.held.append((now - self._since, now))
        self._since = self._since if epoch == self.epoch else now
        self.psk, self.epoch = psk, epoch
        self._ledger.installed(epoch, self._clock())
        self.previous = None
        if previous is not None and not self.plain:
            self.previous = (*previous[:2], min(previous[2], self._clock() + REJECT_AFTER_TIME))
        if handshake_now and not self.plain:
            self._begin()

    def renew(self, before: Mapping[int | None, float]) -> None:
        """Other ends of epochs before the one in place."""
        if self.previous is not None and self.previous[1] in before:
            psk, epoch, until = self.previous
            self.previous = psk, epoch, min(until, before[epoch])

    def block(self) -> None:
        self._stop()

    def claims(self) -> int | None:
        """The epoch that the engine, or the daemon for it, says is in force."""
        session = self.session
        if self.plain:
            return self._ledger.in_force(self.last_handshake, self._look())
        return None if session is None else session.epoch

    def _look(self) -> Moment:
        """Which takes no time."""
        now = self._clock()
        return Moment(now, now + self._ahead(), now)

    @property
    def newest(self) -> int | None:
        """The newest epoch that it can be, where the engine cannot tell."""
        return self._ledger.newest if self.plain else None

    # -- what it does by itself

    @property
    def session(self) -> Session | None:
        """The one that packets go out with."""
        session = self.sending
        return session if session is not None and self._clock() - session.made < REJECT_AFTER_TIME else None

    def tick(self) -> None:
        """About every second, with traffic both ways."""
        now = self._clock()
        if not self.up:
            return
        if self.previous is not None and now >= self.previous[2]:
            self.previous = None
        session = self.session
        if session is not None:
            self._speak(session)
        if self._wants(session, now) and now >= self._tried + REKEY_TIMEOUT:
            self._begin()

    def _wants(self, session: Session | None, now: float) -> bool:
        if session is None or now - session.made >= (REKEY_AFTER_TIME if self._began_it else LATEST_REKEY):
            return True
        return not self.plain and self._began_it and session.psk != self.psk

    def _speak(self, session: Session) -> None:
        waiting = self.other._unconfirmed
        if waiting is None or waiting.number != session.number:
            return  # one packet more of a session that is known: nothing to look at
        self._carry(self.name, lambda: self.other.hear(session.number))

    def hear(self, number: int) -> None:
        """A packet of that session came."""
        waiting = self._unconfirmed
        if waiting is not None and waiting.number == number:
            self.sending, self._began_it, self._unconfirmed = waiting, False, None
            self.last_handshake = self._look().unix

    def _begin(self) -> None:
        self._tried = self._clock()
        asked = self._asked = self._rng.getrandbits(64)
        self._carry(self.name, lambda: self.other.asked(asked))

    def asked(self, number: int) -> None:
        """The other end's initiation: the response is made with the present key."""
        session = self._unconfirmed = Session(number, self.psk, self.epoch, self._clock())
        self._carry(self.name, lambda: self.other.answered(session))

    def answered(self, theirs: Session) -> None:
        """The response: it opens with the key that it was made with."""
        if theirs.number != self._asked:
            return
        if theirs.psk == self.psk:
            epoch = self.epoch
        elif self.previous is not None and theirs.psk == self.previous[0] and self._clock() < self.previous[2]:
            epoch = self.previous[1]
        else:
            return
        self._asked = None
        self.sending = Session(theirs.number, theirs.psk, epoch, self._clock())
        self._began_it = True
        self.last_handshake = self._look().unix
        self._speak(self.sending)
