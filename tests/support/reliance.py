"""In place of the rekeying core: hears what looks at key sources say of the keys that are here."""

from __future__ import annotations


class Heard:
    """What is told of keys that are here already."""

    def __init__(self) -> None:
        self.vouched: list[tuple[str, str]] = []
        self.distrusted: list[tuple[str, str, str]] = []

    def vouch(self, peer: str, source: str, at: float) -> None:
        self.vouched.append((peer, source))

    def distrust(self, peer: str, source: str, why: str) -> None:
        self.distrusted.append((peer, source, why))
