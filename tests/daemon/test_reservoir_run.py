"""Both KMEs are away for many rekeys of real daemons: keys agreed ahead carry them, also over a kill of both daemons,
then policy acts; and all of it is on record.

``make outage`` has 60 of them with a reservoir of 64; the tests 4.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.accounts import (
    REPORTS,
    audit,
    fill,
    fleet,
    metrics,
    present,
    recorded,
    sections,
    small_disk,
    start_broker,
    stop_broker,
)
from tests.daemon.keyed import KeyedPair, keyed_pair
from tests.daemon.kmes import READY
from tests.daemon.lab import qtunnel
from tests.support.netns import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # fill, run dry at both ends, block, fill again

REKEYS = int(os.environ.get("QTUNNEL_OUTAGE_REKEYS", "4"))
DEPTH = REKEYS + 4


OPTIONS: dict[str, Any] = {
    "qkd": {"max_age": "15s", "reservoir": {"depth": DEPTH, "store": "reservoir.store"}},
    "rekey": {"interval": "1s", "jitter": "0%"},
    "sections": {"alice": {**sections("alice", "go-on"), **REPORTS}, "bob": sections("bob", "stop")},
}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[KeyedPair]:
    key = tmp_path / "reservoir.store"
    key.touch(0o600)
    key.write_bytes(base64.b64encode(os.urandom(32)))
    with small_disk(tmp_path / "log-bob"), keyed_pair(tmp_path, **OPTIONS) as made:
        yield made


def kill(pair: KeyedPair) -> None:
    """Both daemons, as the kernel does it, and start them again."""
    gateways = [gateway for gateway, _ in pair.ends.values()]
    for gateway in gateways:
        assert gateway.process is not None
        gateway.process.kill()
    for gateway in gateways:
        assert gateway.process is not None
        gateway.process.wait(30)
        gateway.start()
    for gateway in gateways:
        gateway.ready()


def stored(pair: KeyedPair) -> int:
    return int(pair.peer(pair.initiator())["reservoir"][0]["keys"])


def test_rekeys_carry_qkd_keys_through_an_outage_of_both_kmes(pair: KeyedPair, tmp_path: Path) -> None:
    pair.protected()
    wait_until(lambda: stored(pair) >= DEPTH - 1, "the reservoir is full", 120)
    first = pair.initiator()
    gateway, other = pair.ends[first]
    (alice, _), (bob, _) = pair.ends["alice"], pair.ends["bob"]
    broker = start_broker(alice.directory, alice.namespace)
    used: set[str] = {key["key_id"] for key in pair.peer(first)["key_ids"]}
    pair.kmes.stop()
    kill(pair)
    for its, _ in pair.ends.values():
        wait_until(lambda its=its: "event=reservoir.kept" in its.log, "what was kept is told", READY)  # type: ignore[misc]
        assert "event=reservoir.lost" not in its.log
        assert "event=source.keys-lost" not in its.log

    def fresh() -> bool:
        nonlocal first
        first = pair.initiator()
        status = pair.peer(first)
        keys = {key["key_id"] for key in status["key_ids"]}
        return status["protection"] == "qkd+pqc" and bool(keys) and not keys & used

    wait_until(fresh, "a rekey with a key of before the daemons were killed", 60)
    gateway, other = pair.ends[first]
    used |= {key["key_id"] for key in pair.peer(first)["key_ids"]}
    before = pair.peer(first)
    done, last = 0, before["epoch_in_force"]
    shown_keys: dict[int, set[str]] = {}

    def carried() -> bool:
        nonlocal done, last
        status = gateway.status(other)[1]
        if status["epoch_in_force"] != last and status["protection"] == "qkd+pqc":
            last, done = status["epoch_in_force"], status["rekeys_ok"] - before["rekeys_ok"]
            fresh = {key["key_id"] for key in status["key_ids"]}
            assert fresh
            assert not fresh & used, "a key was used twice"
            used.update(fresh)
            shown_keys[last] = {f"{key['source']} {key['key_id']}" for key in status["key_ids"]}
        return done >= REKEYS

    wait_until(carried, f"{REKEYS} rekeys without a KME", 180)
    assert pair.peer(first)["protected"]
    # then the other end takes over, with as many keys of its own
    wait_until(lambda: pair.peer(first)["protection"] == "blocked", "policy blocks, no key is left", 60 + 2 * DEPTH)
    assert "event=reservoir.low" in gateway.log
    wait_until(lambda: "event=peer.blocked" in gateway.log, "it is told", READY)
    blocked_at = present()
    pair.kmes.start()
    pair.protected()
    wait_until(lambda: stored(pair) > 4, "the reservoir fills again", 60)
    events = [line for line in gateway.log.splitlines() if "event=epoch.in-force" in line]
    assert len(events) >= REKEYS
    text = json.dumps([pair.peer(name) for name in pair.ends])
    assert f'"depth": {DEPTH}' in text
    files = [path.name for path in tmp_path.glob("state-*/reservoir-*") if path.suffix != ".new"]  # being written
    assert len(files) == 2, files

    # what the metrics say of it
    shows = metrics(gateway)
    labels = f'{{peer="{other}"}}'
    assert shows[f"qtunnel_peer_protected{labels}"] == 1.0
    assert shows[f"qtunnel_peer_epoch_max_age_seconds{labels}"] == 15.0
    assert shows[f'qtunnel_reservoir_depth_keys{{peer="{other}",source="metro"}}'] == DEPTH
    done_then = shows[f'qtunnel_rekeys_total{{outcome="done",peer="{other}"}}']
    assert REKEYS <= done_then <= pair.peer(first)["rekeys_ok"]
    assert shows['qtunnel_handshake_duration_seconds_count{role="initiator"}'] > 0
    assert shows['qtunnel_source_faults_total{kind="unreachable",source="metro"}'] > 0
    assert shows['qtunnel_source_up{source="metro"}'] == 1.0
    assert shows["qtunnel_audit_failing"] == 0.0

    # and the fleet's view, where there is a broker
    if broker is not None:
        shown_there = wait_until(lambda: fleet(alice), "alice reports", READY)
        assert (shown_there["name"], shown_there["peers"]["bob"]["protection"]) == ("alice", "qkd+pqc")
    stop_broker(broker)

    # what the audit log knows of all that
    assert audit(gateway, "verify")["findings"] == []
    lines = re.findall(r"ts=(\S+) .*event=epoch\.in-force .*\bepoch=(\d+)", gateway.log)
    began = {int(epoch): at for at, epoch in lines}
    epoch = min(began.keys() & shown_keys.keys())
    found = audit(gateway, "show", "--peer", other, "--at", began[epoch])
    assert (found["protection"], found["epoch"], set(found["key_ids"])) == ("qkd+pqc", epoch, shown_keys[epoch])
    assert audit(gateway, "show", "--peer", other, "--at", blocked_at)["protection"] == "blocked"
    assert audit(gateway, "show", "--peer", other, "--at", present())["protection"] == "qkd+pqc"
    qtunnel("rekey", "bob", "--socket", alice.socket)
    for kind in ("control.asked", "source.down", "peer.blocked", "reservoir.low", "daemon.starting"):
        wait_until(lambda kind=kind: f'"kind":"{kind}"' in recorded(alice), kind, READY)  # type: ignore[misc]

    # and without a store a kill costs what was held, which is booked
    alice.config["peers"][0]["qkd"] = {**alice.config["peers"][0]["qkd"], "reservoir": DEPTH}
    alice.file.touch()  # which it is written by
    code, told, _ = alice.ask("reload")
    assert (code, "qkd.reservoir.store" in told) == (0, True), told
    wait_until(lambda: not list(tmp_path.glob("state-alice/reservoir-*")), "the file is removed", READY)
    kill(pair)
    wait_until(lambda: "event=source.keys-lost" in alice.log, "what was lost is booked", READY)
    assert json.loads(alice.ask("sources", "--json")[1])["key_sources"][0]["keys_lost"] > 0

    # and of ends by kill -9 and by a full disk
    assert audit(alice, "verify")["findings"] == []
    fill(bob.directory / "log-bob")
    assert bob.process is not None
    assert bob.process.wait(60) == 1
    assert "no space left on device; make room there (audit.on_failure is stop)" in bob.log
    assert "event=audit.failing" in bob.log
    assert "event=tunnel.guarded" in bob.log
    assert audit(bob, "verify")["findings"] == []
