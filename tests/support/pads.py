"""A pad at two ends, each with a directory of its own."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from qtunnel.drivers import file
from qtunnel.drivers.file_format import HEADER_SIZE, PadInfo, Side
from qtunnel.drivers.file_make import make_pad

SIZE = 8192


@dataclass
class Site:
    """Copies of one pad. content: its random bytes."""

    directory: Path
    info: PadInfo
    content: bytes
    hubs: list[tuple[str, file.Hub]] = field(default_factory=list)

    def pad(self, name: str) -> Path:
        return self.directory / name / "link.pad"

    def ledger(self, name: str) -> Path:
        return self.directory / name / "ledger"

    def options(self, name: str, side: Side) -> file.PeerOptions:
        return file.PeerOptions(pad=self.pad(name), side=side)

    def source(self, name: str, side: Side) -> file.Source:
        hub = file.Hub("pads", file.Options(ledger=self.ledger(name)))
        self.hubs.append((name, hub))
        return hub.for_peer(self.options(name, side))

    async def close(self, name: str | None = None) -> None:
        """All sources of that end, or of both, as when the daemon ends."""
        for owner, hub in self.hubs:
            if name in (None, owner):
                await hub.close()
        self.hubs = [(owner, hub) for owner, hub in self.hubs if name not in (None, owner)]


def site_of(directory: Path, size: int = SIZE) -> Site:
    """A new pad of ``size`` bytes, and a copy of it, for ``alice`` and ``bob``."""
    for name in ("alice", "bob"):
        (directory / name).mkdir(parents=True)
    info = make_pad(directory / "alice" / "link.pad", size, size // 2, os.urandom)
    shutil.copy(directory / "alice" / "link.pad", directory / "bob" / "link.pad")
    site = Site(directory, info, b"")
    site.content = site.pad("alice").read_bytes()[HEADER_SIZE:]
    return site
