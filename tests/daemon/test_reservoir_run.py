"""Both KMEs are away for many rekeys of real daemons: keys agreed ahead carry them, then policy acts; all of it is on
record, whatever ends a daemon.

``make outage`` has 60 of them with a reservoir of 64; the tests 6.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from qtunnel.kme.pki import create_pki
from tests.daemon.lab import CONFIGS, QTUNNEL, READY, Gateway, qtunnel
from tests.support.mosquitto import MOSQUITTO
from tests.support.netns import run, stop, two_hosts, wait_until
from tests.support.promtool import PROMTOOL, promtool

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # fill, run dry at both ends, block, fill again

REKEYS = int(os.environ.get("QTUNNEL_OUTAGE_REKEYS", "6"))
DEPTH = REKEYS + 4


class Pair:
    """alice and bob with a KME each, a rekey every second and a reservoir."""

    def __init__(self, directory: Path, hosts: Any) -> None:
        self.directory, self._hosts = directory, hosts
        create_pki(directory / "pki", now=datetime.now(UTC))
        self.kmes: list[Any] = []
        rules = "user kme-b\ntopic read #\nuser sae-alice\ntopic write #\n"
        (directory / "acl").write_text(rules)
        (directory / "broker.conf").write_text(BROKER.format(directory))
        for name in ("acl", "broker.conf"):
            (directory / name).chmod(0o600)
        for name in ("kme-a", "kme-b"):
            text = (CONFIGS / f"{name}.yaml").read_text()
            (directory / f"{name}.yaml").write_text(text)
        self.broker: Any = None
        self.start_kmes()
        self.gateways: list[Gateway] = []
        self.bobs_disk = directory / "log-bob"
        self.bobs_disk.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(self.bobs_disk))
        for number, (name, other) in enumerate((("alice", "bob"), ("bob", "alice")), 1):
            gateway = Gateway(directory, hosts[number - 1], name, f"10.77.0.{number}")
            gateway.source("metro", "https://127.0.0.1:8443")
            qkd = {"sources": {"metro": {"peer_sae_id": f"sae-{other}"}}, "max_age": "15s", "reservoir": DEPTH}
            gateway.peer(other, f"10.77.0.{3 - number}", f"10.99.0.{3 - number}", qkd)
            gateway.config["peers"][0]["rekey"] = {"interval": "1s", "jitter": "0%"}
            rule = {"alice": "go-on", "bob": "stop"}[name]
            gateway.config["metrics"] = {"listen": "127.0.0.1:9586"}
            gateway.config["audit"] = {"path": f"log-{name}/audit.jsonl", "rotate": "100kB", "on_failure": rule}
            self.gateways.append(gateway)
            if name == "alice":
                gateway.config["mqtt"] = {
                    "broker": "mqtts://127.0.0.1:8883", "ca": "pki/ca.pem", "certificate": "pki/sae-alice.pem",
                    "private_key": "pki/sae-alice.key", "interval": "2s",
                }  # fmt: skip
                if MOSQUITTO is not None:
                    self.broker = hosts[0].start(MOSQUITTO, "-c", str(directory / "broker.conf"))
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
            if made.broker is not None:
                stop(made.broker)
            run("umount", "-l", str(made.bobs_disk))


def present() -> str:
    return datetime.now(UTC).isoformat()


def audit(gateway: Gateway, command: str, *arguments: str) -> dict[str, Any]:
    """What ``qtunnel audit`` says as JSON."""
    done = qtunnel("audit", command, "--config", gateway.file, "--json", *arguments)
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def recorded(gateway: Gateway) -> str:
    """All that its audit log holds."""
    return "".join(path.read_text() for path in (gateway.directory / f"log-{gateway.name}").iterdir())


def metrics(gateway: Gateway) -> dict[str, float]:
    """By name and labels, these in the order of their names."""
    code = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9586/metrics', timeout=20).read().decode())"
    text = gateway.namespace.run(sys.executable, "-c", code).stdout
    if PROMTOOL is not None:
        promtool("check", "metrics", text=text)
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


BROKER = """
user root
listener 8883 127.0.0.1
cafile {0}/pki/ca.pem
certfile {0}/pki/kme-a.pem
keyfile {0}/pki/kme-a.key
require_certificate true
use_identity_as_username true
allow_anonymous false
acl_file {0}/acl
persistence false
"""


def fleet(gateway: Gateway) -> dict[str, Any] | None:
    """What the fleet's view has, once there is somebody in it."""
    pki = gateway.directory / "pki"
    command = [*QTUNNEL, "fleet", "status", "--json", "--broker", "mqtts://127.0.0.1:8883", "--ca", str(pki / "ca.pem")]
    command += ["--certificate", str(pki / "kme-b.pem"), "--private-key", str(pki / "kme-b.key")]
    done = gateway.namespace.run(*command, check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    return next((its for its in found["gateways"] if its["well"]), None)


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
    pair.start_kmes()
    alice.protected("bob")
    bob.protected("alice")
    wait_until(lambda: stored(pair) > 4, "the reservoir fills again", 60)
    events = [line for line in gateway.log.splitlines() if "event=epoch.in-force" in line]
    assert len(events) >= REKEYS
    text = json.dumps([pair.peer(name) for name in ("alice", "bob")])
    assert f'"depth": {DEPTH}' in text

    # what the metrics say of it
    shows = metrics(gateway)
    shown = pair.peer(first)
    labels = f'{{peer="{other}"}}'
    assert shows[f"qtunnel_peer_protected{labels}"] == 1.0
    assert shows[f"qtunnel_peer_epoch_max_age_seconds{labels}"] == 15.0
    assert shows[f'qtunnel_reservoir_depth_keys{{peer="{other}",source="metro"}}'] == DEPTH
    assert REKEYS <= shows[f'qtunnel_rekeys_total{{outcome="done",peer="{other}"}}'] <= shown["rekeys_ok"]
    assert shows['qtunnel_handshake_duration_seconds_count{role="initiator"}'] > 0
    assert shows['qtunnel_source_faults_total{kind="unreachable",source="metro"}'] > 0
    assert shows['qtunnel_source_up{source="metro"}'] == 1.0
    assert shows["qtunnel_audit_failing"] == 0.0

    # and the fleet's view, where there is a broker
    if pair.broker is not None:
        shown_there = wait_until(lambda: fleet(alice), "alice reports", READY)
        assert (shown_there["name"], shown_there["peers"]["bob"]["protection"]) == ("alice", "qkd+pqc")

    # what the audit log knows of all that, of a daemon that goes on, and of ends that nobody asked for
    assert audit(gateway, "verify")["findings"] == []
    began = {
        int(epoch): at for at, epoch in re.findall(r"ts=(\S+) .*event=epoch\.in-force .*\bepoch=(\d+)", gateway.log)
    }
    epoch = min(began.keys() & shown_keys.keys())
    found = audit(gateway, "show", "--peer", other, "--at", began[epoch])
    assert (found["protection"], found["epoch"], set(found["key_ids"])) == ("qkd+pqc", epoch, shown_keys[epoch])
    assert audit(gateway, "show", "--peer", other, "--at", blocked_at)["protection"] == "blocked"
    assert audit(gateway, "show", "--peer", other, "--at", present())["protection"] == "qkd+pqc"
    qtunnel("rekey", "bob", "--socket", alice.socket)
    for kind in ("control.asked", "source.down", "peer.blocked", "reservoir.low", "daemon.starting"):
        wait_until(lambda kind=kind: f'"kind":"{kind}"' in recorded(alice), kind, READY)  # type: ignore[misc]
    assert alice.process is not None
    alice.process.kill()
    alice.process.wait()
    alice.start()
    alice.ready().protected("bob")
    assert audit(alice, "verify")["findings"] == []
    with suppress(OSError), (pair.bobs_disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert bob.process is not None
    assert bob.process.wait(60) == 1
    assert "no space left on device; make room there (audit.on_failure is stop)" in bob.log
    assert "event=audit.failing" in bob.log
    assert "event=tunnel.guarded" in bob.log
    assert audit(bob, "verify")["findings"] == []
