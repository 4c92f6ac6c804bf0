"""Which epoch is in force, for engines that tell only when their newest handshake was.

WireGuard mixes the preshared key while a handshake response is made or read. The responder makes the response first and
counts the handshake only when the initiator's first packet arrives: usually a round trip later, but where that packet
is lost or held up, as late as the session lives. The engine does not tell which end it was. So a handshake may be of
any key that was in place within ``SESSION_TIME`` before it, and is put down to the oldest of them: what is claimed is
never newer than the truth, and certain once a key has been in place for that long. ``newest`` is the other end of what
it can be: an epoch in between may be worth less than the oldest.
"""

from __future__ import annotations

from dataclasses import dataclass

SESSION_TIME = 180.0
"""Seconds after which WireGuard uses a session no longer (REJECT_AFTER_TIME, white paper section 6.1), and so the
longest from a response to the packet that confirms it."""

CALL_TIME = 5.0
"""Seconds that a call to an engine takes at most: a key that was there this long after a handshake may have been in use
before its installation was done."""

MAX_INSTALLED = 1024
"""Installations that are remembered: of a dead peer, at one every second, the last 17 minutes."""


@dataclass(frozen=True, slots=True)
class _Installed:
    epoch: int
    at: float


class EpochLedger:
    """One peer's installed keys against its handshakes. All times are Unix seconds of the same clock."""

    def __init__(self) -> None:
        self._installed: list[_Installed] = []
        self._judged: float | None = None
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
        self._judged = None
        self._epoch = self.newest = None

    def has_session(self, now: float) -> bool:
        """Whether there was one when the engine was last asked, and none of it is over by now."""
        return self._judged is not None and now - self._judged < SESSION_TIME

    def in_force(self, last_handshake: float | None, now: float) -> int | None:
        """The epoch of the newest handshake; ``None`` where it used no epoch's key, its session is over, or there was
        none."""
        if last_handshake is not None and last_handshake != self._judged:
            self._judged = last_handshake
            # The key that was in place when the earliest response was made that this may be the confirmation of.
            for position in reversed(range(len(self._installed))):
                if self._installed[position].at < last_handshake - SESSION_TIME:
                    del self._installed[:position]  # no later handshake can be of an older key
                    break
            if self._installed and last_handshake > self._installed[0].at:
                self._epoch = self._installed[0].epoch
                self.newest = max(its.epoch for its in self._installed if its.at < last_handshake + CALL_TIME)
        over = last_handshake is None or now - last_handshake >= SESSION_TIME
        return None if over else self._epoch
