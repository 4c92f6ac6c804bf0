"""Loops that look at something again and again: one look that fails unexpectedly does not end them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qtunnel.telemetry import log

logger = log.get("daemon")

MOST = 3
"""Failures in a row that end the daemon: what is not looked at is not enforced either, and one that does not manage it
ends, with its engine, rather than to run on with a part missing."""


class Steady:
    """Of one loop, or of one step of it. name: of what it looks at, for the log."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._failed = 0

    @contextmanager
    def look(self) -> Iterator[None]:
        """One look. A defect in it is told, with its traceback, and the next one may do better."""
        try:
            yield
        except Exception as error:
            self._failed += 1
            logger.defect("look.defect", error, look=self._name, in_a_row=self._failed)
            if self._failed >= MOST:
                raise
        else:
            self._failed = 0
