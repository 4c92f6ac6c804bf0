"""Both KMEs are away for many rekeys of real daemons: keys agreed ahead carry them, also over a kill of both daemons,
then policy acts.

``make outage`` has 60 of them with a reservoir of 64; the tests 4.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from qtunnel.kme.pki import create_pki
from tests.daemon.lab import CONFIGS, QTUNNEL, READY, Gateway
from tests.support.netns import stop, two_hosts, wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # fill, run dry at both ends, block, fill again

REKEYS = int(os.environ.get("QTUNNEL_OUTAGE_REKEYS", "4"))
DEPTH = REKEYS + 4


class Pair:
    """alice and bob with a KME each, a rekey every second and a reservoir."""

    def __init__(self, directory: Path, hosts: Any) -> None:
        self.directory, self._hosts = directory, hosts
        create_pki(directory / "pki", now=datetime.now(UTC))
        self.kmes: list[Any] = []
        for name in ("kme-a", "kme-b"):
            text = (CONFIGS / f"{name}.yaml").read_text()
            (directory / f"{name}.yaml").write_text(text)
        self.start_kmes()
        self.gateways: list[Gateway] = []
        for number, (name, other) in enumerate((("alice", "bob"), ("bob", "alice")), 1):
            gateway = Gateway(directory, hosts[number - 1], name, f"10.77.0.{number}")
            gateway.source("metro", "https://127.0.0.1:8443")
            key = directory / f"{name}.store"
            key.touch(0o600)
            key.write_bytes(base64.b64encode(os.urandom(32)))
            reservoir = {"depth": DEPTH, "store": key.name}
            qkd = {"sources": {"metro": {"peer_sae_id": f"sae-{other}"}}, "max_age": "15s", "reservoir": reservoir}
            gateway.peer(other, f"10.77.0.{3 - number}", f"10.99.0.{3 - number}", qkd)
            gateway.config["peers"][0]["rekey"] = {"interval": "1s", "jitter": "0%"}
            self.gateways.append(gateway)
            gateway.start()

    def start_kmes(self) -> None:
        for name, host in zip(("kme-a", "kme-b"), self._hosts, strict=True):
            with (self.directory / f"{name}.log").open("w") as log:
                command = [*QTUNNEL, "kme", "serve", str(self.directory / f"{name}.yaml")]
                self.kmes.append(host.start(*command, stdout=log, stderr=log))
        for name in ("kme-a", "kme-b"):
            said = self.directory / f"{name}.log"
            wait_until(lambda said=said: "kme.ready" in said.read_text(), f"{name} serves", READY)  # type: ignore[misc]

    def stop_kmes(self) -> None:
        for kme in self.kmes:
            stop(kme)
        self.kmes.clear()

    def kill(self) -> None:
        """Both daemons, as the kernel does it, and start them again."""
        for gateway in self.gateways:
            assert gateway.process is not None
            gateway.process.kill()
        for gateway in self.gateways:
            assert gateway.process is not None
            gateway.process.wait(30)
            gateway.start()
        for gateway in self.gateways:
            gateway.ready()

    def peer(self, name: str) -> dict[str, Any]:
        gateway, other = next(
            (its, peer) for its, peer in zip(self.gateways, ("bob", "alice"), strict=True) if its.name == name
        )
        return gateway.status(other)[1]

    def initiator(self) -> str:
        return next((name for name in ("alice", "bob") if self.peer(name)["role"] == "initiator"), "alice")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with two_hosts() as hosts:
        made = Pair(tmp_path, hosts)
        try:
            yield made
        finally:
            for gateway in made.gateways:
                if gateway.process is not None:
                    stop(gateway.process)


def stored(pair: Pair) -> int:
    return int(pair.peer(pair.initiator())["reservoir"][0]["keys"])


def test_rekeys_carry_qkd_keys_through_an_outage_of_both_kmes(pair: Pair) -> None:
    alice, bob = pair.gateways
    alice.ready().protected("bob")
    bob.ready().protected("alice")
    wait_until(lambda: stored(pair) >= DEPTH - 1, "the reservoir is full", 120)
    first = pair.initiator()
    gateway, other = (alice, "bob") if first == "alice" else (bob, "alice")
    used: set[str] = {key["key_id"] for key in pair.peer(first)["key_ids"]}
    pair.stop_kmes()
    pair.kill()
    for its in pair.gateways:
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
    gateway, other = (alice, "bob") if first == "alice" else (bob, "alice")
    used |= {key["key_id"] for key in pair.peer(first)["key_ids"]}
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
    pair.start_kmes()
    alice.protected("bob")
    bob.protected("alice")
    wait_until(lambda: stored(pair) > 4, "the reservoir fills again", 60)
    events = [line for line in gateway.log.splitlines() if "event=epoch.in-force" in line]
    assert len(events) >= REKEYS
    text = json.dumps([pair.peer(name) for name in ("alice", "bob")])
    assert f'"depth": {DEPTH}' in text
    files = [path.name for path in pair.directory.glob("state-*/reservoir-*")]
    assert len(files) == 2, files
    # and without a store a kill costs what was held, which is booked
    del alice.config["peers"][0]["qkd"]["reservoir"]["store"]
    alice.file.touch()  # which it is written by
    code, told, _ = alice.ask("reload")
    assert (code, "qkd.reservoir.store" in told) == (0, True), told
    wait_until(lambda: not list(pair.directory.glob("state-alice/reservoir-*")), "the file is removed", READY)
    pair.kill()
    wait_until(lambda: "event=source.keys-lost" in alice.log, "what was lost is booked", READY)
    assert json.loads(alice.ask("sources", "--json")[1])["key_sources"][0]["keys_lost"] > 0
