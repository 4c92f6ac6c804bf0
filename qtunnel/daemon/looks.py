"""When to look whether the interface is as it should be: after changes on the host, and now and then all the same."""

from __future__ import annotations

from collections.abc import Callable

AFTER_CHANGE = 10
"""Looks after a change, at about one a second: the next look at the host's own routes is among them."""

ANYWAY = 60
"""Turns without a look, about seconds, however quiet the host: whatever changes without a word is found in a minute."""


class Looks:
    """Asked once a second. A look at a hub's interface takes dumps of thousands of routes, and nearly always finds
    nothing.

    heard: whether there may have been a change since it was asked last. cycle: looks that it takes to see everything.
    """

    def __init__(self, heard: Callable[[], bool], cycle: Callable[[], int]) -> None:
        self._heard, self._cycle = heard, cycle
        self._left = self._quiet = 0

    def made(self) -> None:
        """The interface was set up just now, which makes many changes: one look follows, at everything."""
        self._heard()
        self._left, self._quiet = 1, 0

    def due(self, *, trouble: bool) -> bool:
        """Whether to look now. trouble: the last look found some, which may be over."""
        if self._heard():
            self._left = max(AFTER_CHANGE, self._cycle())
        self._quiet += 1
        if not (trouble or self._left > 0 or self._quiet >= ANYWAY):
            return False
        self._left -= 1
        self._quiet = 0
        return True
