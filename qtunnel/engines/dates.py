"""The newest handshakes of engines that tell how long ago they were, where the UAPI has a date (boringtun)."""

from __future__ import annotations

from dataclasses import dataclass

from qtunnel.engines.clocks import Moment

FIRST_DATE = 1e9
"""Seconds. As a date it is of 2001, before WireGuard; as an age 31 years, which no session has."""

GRAIN = 0.01
"""Seconds: what reading a clock may take between two looks of which each tells the same handshake."""


@dataclass(slots=True)
class _Handshake:
    """latest: when it was at the latest, seconds of CLOCK_BOOTTIME. date: Unix seconds, by the clock of the first look
    that told of it, and the same from then on, whatever becomes of the clock."""

    latest: float
    date: float


class Dates:
    """By a peer's public key."""

    def __init__(self) -> None:
        self._told: dict[bytes, _Handshake] = {}

    def of(self, public_key: bytes, told: float | None, look: Moment) -> float | None:
        """Unix seconds of what an engine told at that look: itself where it is a date, ``None`` for never."""
        if told is None or told >= FIRST_DATE:
            self._told.pop(public_key, None)
            return told
        before = self._told.get(public_key)
        if before is None or look.asked - told > before.latest + GRAIN:
            before = self._told[public_key] = _Handshake(look.answered - told, look.unix - told)
        before.latest = min(before.latest, look.answered - told)
        return before.date

    def forget(self, public_key: bytes) -> None:
        """The peer is gone."""
        self._told.pop(public_key, None)
