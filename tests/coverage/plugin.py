"""pytest's plugin for ``make coverage``: what a worker measured is on disk before whoever started it may end it.

xdist gives a worker 10 s to end by itself, which is not always enough on a busy machine.
"""

from __future__ import annotations

from coverage import Coverage


def pytest_sessionfinish() -> None:
    if (measuring := Coverage.current()) is not None:
        measuring.save()
