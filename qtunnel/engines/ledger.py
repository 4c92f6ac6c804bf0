"""Which epoch is in force, for engines that tell only when their newest handshake was.

WireGuard mixes the preshared key while a handshake response is made or read. The responder makes the response first and
counts the handshake only when the initiator's first packet arrives: usually a round trip later, but where that packet
is lost or held up, as late as the session lives. The engine does not tell which end it was. So a handshake may be of
any key that was in place within ``SESSION_TIME`` before it, and is put down to the oldest of them: what is claimed is
never newer than the truth, and certain once a key has been in place for that long. ``newest`` is the other end of what
it can be: an epoch in between may be worth less than the oldest.

Engines tell their handshakes by the wall clock as it was at each, and somebody may have set it since. So a handshake is
believed to have been between the look that first told of it and the one before, by a clock that nobody sets; within
that, where it says, if the wall clock did not move meanwhile. One that was at no such time, by any setting of the clock
that there was, is not known, and nothing is claimed of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from qtunnel.engines.clocks import Moment

SESSION_TIME = 180.0
"""Seconds after which WireGuard uses a session no longer (REJECT_AFTER_TIME, white paper section 6.1), and so the
longest from a response to the packet that confirms it."""

CALL_TIME = 5.0
"""Seconds that a call to an engine takes at most: a key that was there this long after a handshake may have been in use
before its installation was done."""

MAX_INSTALLED = 1024
"""Installations that are remembered: of a dead peer, at one every second, the last 17 minutes."""


GRAIN = 0.001
"""Seconds by which two clocks may say something else of the same moment: the rounding of Unix seconds in a float is a
thousandth of that."""


@dataclass(frozen=True, slots=True)
class _Installed:
    epoch: int
    at: float


class EpochLedger:
    """One peer's installed keys against its handshakes. Times are seconds of CLOCK_BOOTTIME, but for handshakes, which
    are told in Unix seconds. made: when the peer was added, with a random key."""

    def __init__(self, made: Moment) -> None:
        self._installed: list[_Installed] = []
        self._look = made
        """The newest look at the engine."""
        self._seen: float | None = None
        """The handshake that it told."""
        self._since: float | None = None
        """When that was at the earliest."""
        self._epoch: int | None = None
        self.newest: int | None = None
        """The newest epoch that the handshake of the last ``in_force`` can be of."""

    def installed(self, epoch: int, at: float) -> None:
        """The key of ``epoch`` was handed to the engine, done at ``at``."""
        self._installed.append(_Installed(epoch, at))
        del self._installed[:-MAX_INSTALLED]

    def blocked(self) -> None:
        """A random key took the place of all epochs, and the sessions are gone."""
        self._installed.clear()
        self._since = self._epoch = self.newest = None

    def has_session(self, now: float) -> bool:
        """Whether there was one when the engine was last asked, and none of it is over by now."""
        return self._since is not None and now - self._since < SESSION_TIME

    def in_force(self, last_handshake: float | None, look: Moment) -> int | None:
        """The epoch of the newest handshake; ``None`` where it used no epoch's key, its session is over, or there was
        none. look: when the engine was asked for it."""
        # An answer from before the first key that is remembered, or one that was overtaken, says nothing new.
        first = self._installed[0].at if self._installed else look.asked
        if look.asked >= max(first, self._look.asked):
            if last_handshake != self._seen:
                self._judge(last_handshake, look)
            self._look, self._seen = look, last_handshake
        return self._epoch if last_handshake is not None and self.has_session(look.answered) else None

    def _judge(self, handshake: float | None, look: Moment) -> None:
        self._since = self._epoch = self.newest = None
        if handshake is None:
            return
        looks = self._look, look
        least, most = min(its.unix - its.answered for its in looks), max(its.unix - its.asked for its in looks)
        earliest = max(self._look.asked, handshake - most - GRAIN)
        latest = min(look.answered, handshake - least + GRAIN)
        if earliest > latest:
            return
        self._since = earliest
        # The key that was in place when the earliest response was made that this may be the confirmation of.
        for position in reversed(range(len(self._installed))):
            if self._installed[position].at < earliest - SESSION_TIME:
                del self._installed[:position]  # no later handshake can be of an older key
                break
        if self._installed and latest > self._installed[0].at:
            self._epoch = self._installed[0].epoch
            self.newest = max(its.epoch for its in self._installed if its.at < latest + CALL_TIME)
