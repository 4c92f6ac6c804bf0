"""Which epoch is in force, for engines that tell only when their newest handshake was.

WireGuard mixes the preshared key while a handshake response is made or read, so a handshake used the newest key that
was installed before it. One thing blurs this: the responder makes the response first and counts the handshake only when
the initiator's first packet arrives, a round trip later. A handshake within ``ROUND_TRIP`` after an installation is
therefore put down to the key before, unless there was none that the peer could have.
"""

from __future__ import annotations

from dataclasses import dataclass

ROUND_TRIP = 1.0
"""Seconds. More than any round trip on earth, satellites included; an underclaim lasts until the next handshake."""

SESSION_TIME = 180.0
"""Seconds after which WireGuard uses a session no longer (REJECT_AFTER_TIME, white paper section 6.1)."""

MAX_INSTALLED = 256
"""Installations without a handshake that are remembered: of a dead peer, at one every 2 s, the last 8 minutes."""


@dataclass(frozen=True, slots=True)
class _Installed:
    epoch: int
    counts_from: float


class EpochLedger:
    """One peer's installed keys against its handshakes. All times are Unix seconds of the same clock."""

    def __init__(self) -> None:
        self._installed: list[_Installed] = []
        self._blocked = True
        self._judged: float | None = None
        self._epoch: int | None = None

    def installed(self, epoch: int, at: float) -> None:
        """The key of ``epoch`` was handed to the engine, done at ``at``."""
        self._installed.append(_Installed(epoch, at if self._blocked else at + ROUND_TRIP))
        self._blocked = False
        del self._installed[:-MAX_INSTALLED]

    def blocked(self) -> None:
        """A random key took the place of all epochs, and the sessions are gone."""
        self._installed.clear()
        self._blocked = True
        self._judged = None
        self._epoch = None

    def in_force(self, last_handshake: float | None, now: float) -> int | None:
        """The epoch of the newest handshake; ``None`` where it used no epoch's key, its session is over, or there was
        none."""
        if last_handshake is not None and last_handshake != self._judged:
            self._judged = last_handshake
            for position in reversed(range(len(self._installed))):
                if last_handshake > self._installed[position].counts_from:
                    self._epoch = self._installed[position].epoch
                    del self._installed[:position]  # no later handshake can have used an older key
                    break
        over = last_handshake is None or now - last_handshake >= SESSION_TIME
        return None if over else self._epoch
