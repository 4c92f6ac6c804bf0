"""What an engine refused in one go over several peers, and how that is told: one that fails keeps no other from its
turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qtunnel.errors import EngineError, MissingPeerError

NAMED = 6
"""Routes or peers that a line of the log names; a hub may have thousands."""


def short(names: list[str]) -> str:
    """The first ones, and how many more."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


class Refusals:
    """The refusals of one go, in their order."""

    def __init__(self) -> None:
        self.by_peer: dict[str, EngineError] = {}
        self.others: list[EngineError] = []
        """What concerned no peer of the configuration, or all of them."""

    @contextmanager
    def of(self, peer: str) -> Iterator[None]:
        """What is done for that peer."""
        try:
            yield
        except EngineError as refusal:
            self.by_peer.setdefault(peer, refusal)

    @contextmanager
    def of_all(self) -> Iterator[None]:
        """What is done for no peer by name."""
        try:
            yield
        except EngineError as refusal:
            self.others.append(refusal)

    def error(self, *, missing: bool = True) -> EngineError | None:
        """One that names the peers, if there was any refusal. missing: peers that are not there count, too."""
        found = {
            peer: its for peer, its in self.by_peer.items() if missing or not isinstance(its, MissingPeerError)
        }  # fmt: skip
        if self.others:
            return self.others[0]
        if not found:
            return None
        (peer, first), more = next(iter(found.items())), len(found) - 1
        return EngineError(f"peer {peer}: {first}" + (f" (and {more} more peers)" if more else ""))
