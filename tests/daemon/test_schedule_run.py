"""Schedules in real daemons: by what went through a real engine, and by what a real KME has left."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.keyed import KeyedPair, keyed_pair
from tests.daemon.sites import Site, protected, two_sites
from tests.support.netns import wait_until

pytestmark = pytest.mark.root

LOOKS_OFTEN = """
import qtunnel.daemon.watch
qtunnel.daemon.watch.LOOK_INTERVAL = 0.5
from qtunnel.cli.main import main
main()
"""
"""The daemon with a KME's level seen at once: the test would take minutes."""


def peer(site: Site) -> dict[str, Any]:
    peers: list[dict[str, Any]] = site.status().get("peers", [])
    return peers[0] if peers else {}


@pytest.mark.parametrize(("limit", "size"), [("bytes: 1M", 1300), ("packets: 1500", 64)], ids=["bytes", "packets"])
def test_what_goes_through_the_tunnel_brings_the_next_rekey(tmp_path: Path, limit: str, size: int) -> None:
    with two_sites(tmp_path) as (alice, bob):
        for site in (alice, bob):
            rekey = f"{{interval: 5m, min_interval: 1s, {limit}}}" if site is alice else "{interval: 5m}"
            site.config.write_text(site.config.read_text().replace("{interval: 2s}", rekey))
            site.start()
        wait_until(lambda: protected(alice) and protected(bob) and alice.ping("10.77.0.2"), "a first epoch", 60)
        before = peer(alice)
        assert "event=rekey.due" not in alice.log
        alice.host.run("ping", "-q", "-n", "-i", "0.002", "-c", "900", "-s", str(size), "10.77.0.2")
        wait_until(lambda: peer(alice)["epoch_in_force"] > before["epoch_in_force"], "the next epoch", 30)
        line = next(line for line in alice.log.splitlines() if "event=rekey.due" in line)
        assert f"limit={limit.partition(':')[0]}" in line
        after = peer(alice)
        assert after["rekeys_ok"] > before["rekeys_ok"]
        assert (after["max_bytes"], after["max_packets"]) == (
            (10**6, None) if limit.startswith("bytes") else (None, 1500)
        )
        assert after["epoch_bytes"] < 10**6
        text = alice.host.run(
            sys.executable, "-m", "qtunnel", "status", "--config", str(alice.config), check=False
        ).stdout
        assert "since the last rekey" in text


SCARCE: dict[str, Any] = {
    "qkd": {"max_age": "60s"},
    "rekey": {"interval": "2s", "min_interval": "1s", "max_interval": "12s"},
    "kme": "key: {max_count: 12, rate: 51}",
    "program": ("-c", LOOKS_OFTEN),
}
"""KMEs that store 12 keys and make one in 5 s."""


@pytest.fixture
def scarce(tmp_path: Path) -> Iterator[KeyedPair]:
    with keyed_pair(tmp_path, **SCARCE) as made:
        yield made


def test_a_kme_that_runs_low_stretches_the_interval_and_the_status_says_why(scarce: KeyedPair) -> None:
    scarce.protected()

    def stretched() -> str | None:
        for name, (gateway, other) in scarce.ends.items():
            status = gateway.status(other)[1]
            if status["role"] == "initiator" and status["interval_s"] > 2.5:
                return name
        return None

    name = wait_until(stretched, "keys run low, and the interval grows", 120)
    gateway, other = scarce.ends[name]
    status = gateway.status(other)[1]
    assert (status["protected"], status["protection"]) == (True, "qkd+pqc")
    assert status["interval_usual_s"] == 2.0
    assert status["interval_s"] <= 12.0
    assert "of 12 keys left" in status["interval_reason"]
    assert any("of 12 keys left" in line for line in status["supply"])
    changes = [line for line in gateway.log.splitlines() if "event=schedule.changed" in line]
    assert changes
    assert "of 12 keys left" in changes[-1]
    _, text, _ = gateway.ask("status", other)
    assert "longer than the usual 2 s" in text
    source = json.loads(gateway.ask("status", "--json")[1])["key_sources"][0]
    assert source["max_keys"] == 12

    # A KME that is gone changes nothing of the interval, and is shown.
    scarce.kmes.each[0 if name == "alice" else 1].stop()
    told = wait_until(
        lambda: [line for line in gateway.status(other)[1]["supply"] if "the last look failed" in line], "it shows", 30
    )
    assert "keys left" in told[0]
    assert gateway.status(other)[1]["interval_s"] > 2.0
