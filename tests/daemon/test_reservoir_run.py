"""Both KMEs are away for many rekeys of real daemons: keys agreed ahead carry them, then policy acts.

``make outage`` has 60 of them with a reservoir of 64; the tests 6.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.keyed import KeyedPair, keyed_pair
from tests.support.netns import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # fill, run dry at both ends, block, fill again

REKEYS = int(os.environ.get("QTUNNEL_OUTAGE_REKEYS", "6"))
DEPTH = REKEYS + 4


OPTIONS: dict[str, Any] = {
    "qkd": {"max_age": "15s", "reservoir": DEPTH},
    "rekey": {"interval": "1s", "jitter": "0%"},
}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[KeyedPair]:
    with keyed_pair(tmp_path, **OPTIONS) as made:
        yield made


def stored(pair: KeyedPair) -> int:
    return int(pair.peer(pair.initiator())["reservoir"][0]["keys"])


def test_rekeys_carry_qkd_keys_through_an_outage_of_both_kmes(pair: KeyedPair) -> None:
    pair.protected()
    wait_until(lambda: stored(pair) >= DEPTH - 1, "the reservoir is full", 120)
    first = pair.initiator()
    gateway, other = pair.ends[first]
    used: set[str] = {key["key_id"] for key in pair.peer(first)["key_ids"]}
    pair.kmes.stop()
    before = pair.peer(first)
    done, last = 0, before["epoch_in_force"]

    def carried() -> bool:
        nonlocal done, last
        status = gateway.status(other)[1]
        if status["epoch_in_force"] != last and status["protection"] == "qkd+pqc":
            last, done = status["epoch_in_force"], status["rekeys_ok"] - before["rekeys_ok"]
            fresh = {key["key_id"] for key in status["key_ids"]}
            assert fresh
            assert not fresh & used, "a key was used twice"
            used.update(fresh)
        return done >= REKEYS

    wait_until(carried, f"{REKEYS} rekeys without a KME", 180)
    assert pair.peer(first)["protected"]
    # then the other end takes over, with as many keys of its own
    wait_until(lambda: pair.peer(first)["protection"] == "blocked", "policy blocks, no key is left", 60 + 2 * DEPTH)
    assert "event=reservoir.low" in gateway.log
    pair.kmes.start()
    pair.protected()
    wait_until(lambda: stored(pair) > 4, "the reservoir fills again", 60)
    events = [line for line in gateway.log.splitlines() if "event=epoch.in-force" in line]
    assert len(events) >= REKEYS
    text = json.dumps([pair.peer(name) for name in pair.ends])
    assert f'"depth": {DEPTH}' in text
