"""Thousands of rekeys, 20 a second, over a link that loses a tenth of all datagrams: each is confirmed, or ends with a
reason and is tried again; no two ends drift apart, and nothing grows.

The suite makes a few hundred; ``make rekeys`` 10,000 in virtual time and 10,000 over real sockets (9 minutes).
"""

from __future__ import annotations

import gc
import os
import tracemalloc
from pathlib import Path

import pytest

from qtunnel.keys import used
from qtunnel.rekey.timing import PENDING_LIMIT
from tests.rekey.fleet import INTERVAL, SPOKES, Counts, Fleet, Sockets, Virtual

REKEYS = int(os.environ.get("QTUNNEL_REKEYS", "0"))
KEYS_REMEMBERED = 8
"""Keys of a peer that each node remembers as used, here: with the usual number it would fill this memory all the
time."""
SAMPLES = 10
WARM = 5
"""The sample from which on nothing may grow: descriptions of epochs are kept for 200 s, of 500."""
GROWTH = 500_000
"""Bytes: what dictionaries and heaps of this size differ by from one moment to another."""
RSS_GROWTH = 6_000_000


def confirmed(fleet: Fleet, number: int) -> bool:
    return fleet.counts.confirmed >= number


def check(fleet: Fleet, seconds: float) -> None:
    """The counts add up, and every pair of ends is on one epoch."""
    counts = fleet.counts
    open_ = sum(sum(link.under_way.values()) for link in fleet.links.values())
    assert counts.started == counts.confirmed + counts.retried + counts.overtaken + open_
    assert counts.blocked == 0
    assert counts.apart < PENDING_LIMIT
    print(show(counts, seconds))


def show(counts: Counts, seconds: float) -> str:
    return (
        f"{counts.confirmed} rekeys in {seconds:.0f} s ({counts.confirmed / seconds:.1f}/s): {counts.retried} retried, "
        f"{counts.overtaken} overtaken, ends apart for {counts.apart:.2f} s at most"
    )


def test_in_virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(used, "REMEMBERED", KEYS_REMEMBERED)
    monkeypatch.setattr(used, "OF_EACH_PEER", KEYS_REMEMBERED)
    goal = REKEYS or 300
    tracemalloc.start()
    try:
        network = Virtual(1, 0.1)
        fleet = network.fleet
        sizes = []
        for part in range(1, SAMPLES + 1):
            network.run_until(lambda part=part: confirmed(fleet, goal * part // SAMPLES))  # type: ignore[misc]
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
            print(show(fleet.counts, network.time - 1000.0), f"{sizes[-1]:,} bytes", flush=True)
    finally:
        tracemalloc.stop()
    seconds = network.time - 1000.0
    assert seconds < 2 * goal * INTERVAL / SPOKES
    network.loss = 0.0
    network.run_until(lambda: fleet.agreed)
    check(fleet, seconds)
    if REKEYS:
        assert max(sizes[WARM:]) - sizes[WARM - 1] < GROWTH


@pytest.mark.root
@pytest.mark.timeout(900)
def test_over_real_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(used, "REMEMBERED", KEYS_REMEMBERED)
    monkeypatch.setattr(used, "OF_EACH_PEER", KEYS_REMEMBERED)
    goal = REKEYS or 200
    network = Sockets(1, 10.0)
    try:
        fleet = network.fleet
        sizes = []
        for part in range(1, SAMPLES + 1):
            network.run_until(lambda part=part: confirmed(fleet, goal * part // SAMPLES))  # type: ignore[misc]
            sizes.append(resident())
            print(show(fleet.counts, fleet.now().mono), f"{sizes[-1] / 1e6:.1f} MB resident", flush=True)
        seconds = fleet.now().mono
        network.stop_losing()
        network.run_until(lambda: fleet.agreed)
    finally:
        network.close()
    check(fleet, seconds)
    if REKEYS:
        assert max(sizes[WARM:]) - sizes[WARM - 1] < RSS_GROWTH


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
