"""A disk that loses power: what was not synced may be there afterwards, in part or not at all."""

from __future__ import annotations

import random

PIECE = 32
"""Bytes that reach the disk together: fewer than a sector of any, so that all that is written can be torn."""


class PowerCutError(Exception):
    """Nothing goes on from here."""


class Power:
    """Runs out after so many things that were done; ``None`` for never."""

    def __init__(self) -> None:
        self.left: int | None = None

    def spend(self) -> None:
        if self.left is None:
            return
        self.left -= 1
        if self.left < 0:
            raise PowerCutError


class Disk:
    """A file as a ``qtunnel.drivers.file_pad.Medium``."""

    def __init__(self, content: bytes, power: Power) -> None:
        self.durable, self.now = bytearray(content), bytearray(content)
        self._pending: list[tuple[int, bytes]] = []
        self._power = power

    def read(self, offset: int, size: int) -> bytearray:
        self._power.spend()
        return self.now[offset : offset + size]

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._pending.append((offset, bytes(data)))
        self._power.spend()  # by then it may have reached the disk, or not
        self.now[offset : offset + len(data)] = data

    def sync(self) -> None:
        self._power.spend()
        for offset, data in self._pending:
            self.durable[offset : offset + len(data)] = data
        self._pending.clear()
        self._power.spend()

    def cut(self, chance: random.Random) -> None:
        """After a power cut: of each write that was not synced any of its pieces may have reached the disk."""
        for offset, data in self._pending:
            for at in range(0, len(data), PIECE):
                if chance.random() < 0.5:
                    part = data[at : at + PIECE]
                    self.durable[offset + at : offset + at + len(part)] = part
        self._pending.clear()
        self.now = bytearray(self.durable)

    def killed(self) -> None:
        """After the death of the process alone: all that it wrote is there."""
        for offset, data in self._pending:
            self.now[offset : offset + len(data)] = data
