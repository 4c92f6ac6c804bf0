"""Why an offer brought fewer keys than it named: in full for this end's log, and what of it the peer is told."""

from __future__ import annotations

from collections.abc import Mapping


class Shortage:
    """Of one offer. A source's own words may have addresses and names of this end's site in them; the peer is told
    which source gave no key, and those mistakes of the configuration that both ends have to mend."""

    def __init__(self) -> None:
        self._mistakes: dict[str, str] = {}
        self._failures: dict[str, str] = {}

    def mistake(self, source: str, words: str) -> None:
        """A key that cannot be asked for here, by what the peer named. words: nothing of this end's site."""
        self._mistakes[source] = words

    def failed(self, failures: Mapping[str, str]) -> None:
        """By source, what it said."""
        self._failures |= failures

    def silent(self, words: str) -> None:
        """No source has answered in time."""
        self._mistakes.setdefault("", words)

    @property
    def words(self) -> str:
        """All of it, for this end alone; empty for nothing."""
        return "; ".join([*self._mistakes.values(), *self._failures.values()])

    @property
    def told(self) -> str:
        """For the peer."""
        none = [f"{source}: it gave no key; the log of the other end says why" for source in self._failures]
        return "; ".join([*self._mistakes.values(), *none])
