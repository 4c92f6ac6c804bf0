"""Another configuration while the daemon runs: real daemons, engines and routes; traffic over what stays the same."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime
from typing import Any

import pytest

from qtunnel.constants import UAPI_DIRECTORY
from qtunnel.engines.uapi_client import UapiClient
from qtunnel.identity import Identity
from qtunnel.kme.pki import create_pki
from qtunnel.terms import CHAIN_REMEDY
from tests.daemon.hub import TUNNEL, Hub, running_hub
from tests.daemon.kmes import READY
from tests.daemon.lab import Gateway, Lab, Ping, running_lab
from tests.support.netns import wait_until
from tests.support.ping import all_answered, ping

pytestmark = pytest.mark.root


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Hub]:
    with running_hub(tmp_path) as made:
        yield made


def reaches(hub: Hub, address: str) -> bool:
    done = hub.hub.namespace.run(*ping(address, 2, patience=3), check=False)
    return all_answered(done.stdout, 2)


def epoch(hub: Hub, peer: str) -> int:
    found = hub.hub.status(peer)[1]["epoch_in_force"]
    assert isinstance(found, int)
    return found


def leases(hub: Hub) -> dict[str, float]:
    """When the hub's engine ends each peer's key, as it tells itself; seconds of CLOCK_BOOTTIME."""
    path = f"{UAPI_DIRECTORY}/{hub.hub.interface}.sock"
    peers = asyncio.run(UapiClient(hub.hub.interface, path).get()).peers
    ends = {
        name: peers[gateway.identity.public.wireguard].values.get("expires_boottime_msec")
        for name, gateway in (("b", hub.b), ("c", hub.c))
    }
    return {name: int(text) / 1000 for name, text in ends.items() if text is not None}


def test_another_max_age_is_the_end_of_keys_that_are_in_place_already(lab: Hub) -> None:
    """Longer or shorter; the other peer's key keeps its end."""
    wanted = {"b": 600.0, "c": 600.0}
    for name, age in (("b", 7200), ("c", 900), ("b", 9000), ("b", 400)):
        policy(lab, name, policy="off", max_age=f"{age}s")
        wanted[name] = age
        assert lab.reloaded()[0] == f"peer {name} changed: qkd.max_age"
        for peer in wanted:
            number = epoch(lab, peer)
            ends, before = leases(lab)[peer], clock_gettime(CLOCK_BOOTTIME)
            status = lab.hub.status(peer)[1]
            earliest = before - status["age_s"]
            latest = clock_gettime(CLOCK_BOOTTIME) - status["age_s"]
            if status["epoch_in_force"] == status["epoch_installed"] == number:  # no rekey came in between
                assert earliest - 0.01 <= ends - wanted[peer] <= latest


def test_what_changes_for_others_costs_a_tunnel_nothing(lab: Hub) -> None:
    """Peers, sources, addresses and the log's level come, change and go while numbered packets pass."""
    before, engine = lab.hub.status("b")[1], lab.node()["engine_pid"]
    of_c = lab.peer("c")
    with Ping(lab.hub.namespace, TUNNEL["b"]), Ping(lab.b.namespace, TUNNEL["hub"]):
        lab.config["peers"].remove(of_c)
        assert lab.reloaded()[0] == "peer c removed"
        assert not reaches(lab, TUNNEL["c"])
        lab.config["peers"].insert(0, of_c | {"rekey": {"interval": "3s"}})
        assert lab.reloaded()[0] == "peer c added"
        lab.hub.protected("c")
        wait_until(lambda: reaches(lab, TUNNEL["c"]), "c is reached again", READY)
        lab.peer("c")["allowed_ips"].append("10.9.0.0/16")
        lab.config["tunnel"] |= {"addresses": ["10.77.0.1/24", "10.66.0.1/24"], "mtu": 1400}
        lab.config["log"] = {"level": "debug"}
        assert lab.reloaded()[:3] == [
            "log changed: level",
            "tunnel changed: addresses, mtu",
            "peer c changed: allowed_ips",
        ]
        assert reaches(lab, TUNNEL["c"])
    after = lab.hub.status("b")[1]
    assert after["epoch_in_force"] == before["epoch_in_force"], "and no rekey was needed"
    assert after["last_handshake_age_s"] > before["last_handshake_age_s"], "its session is the one of before"
    assert after["next_rekey_s"] < before["next_rekey_s"], "its timers went on"
    assert lab.node()["engine_pid"] == engine
    assert "level=debug" in lab.hub.log
    links = lab.hub.namespace.links()[lab.hub.interface]
    assert links["mtu"] == 1400
    assert "10.66.0.1/24" in lab.hub.namespace.ip("addr", "show", "dev", lab.hub.interface)
    assert f"10.9.0.0/16 dev {lab.hub.interface}" in lab.hub.namespace.ip("route")
    assert "interface.altered" not in lab.hub.log


def test_a_peer_that_goes_takes_everything_with_it(lab: Hub) -> None:
    host = lab.hub.namespace
    lab.peer("c")["allowed_ips"] = ["10.77.0.3/32", "10.9.0.0/16", "fd09::/64"]
    lab.reloaded()
    assert "10.9.0.0/16" in host.ip("route")
    key = base64.b64encode(lab.c.identity.public.wireguard).decode()
    assert key in lab.engine_peers()
    lab.config["peers"].remove(lab.peer("c"))
    lab.reloaded()
    assert key not in lab.engine_peers()
    routes = host.ip("route", "show", "table", "all") + host.ip("-6", "route", "show", "table", "all")
    assert "10.9.0.0/16" not in routes
    assert "fd09::" not in routes
    assert "10.77.0.3" not in routes
    assert host.ip("-6", "rule").count("fwmark") == 0, "nothing of IPv6 is left in the tunnel"
    code, _, errors = lab.hub.ask("status", "c")
    assert (code, errors) == (2, "qtunnel: no peer 'c'; there are: b\n")


BAD = [
    ("{", "not valid YAML"),
    ("node: {}", "node.name: is missing"),
]


@pytest.mark.parametrize(("text", "words"), BAD)
def test_a_file_with_errors_changes_nothing_and_says_why(tmp_path: Path, text: str, words: str) -> None:
    with running_hub(tmp_path, start=("hub", "b")) as lab:
        before, peers = epoch(lab, "b"), lab.engine_peers()
        with Ping(lab.hub.namespace, TUNNEL["b"]):
            for _ in range(4):
                code, said, errors = lab.reload(text)
                assert (code, said) == (2, "")
        assert words in errors
        assert words in str(lab.node()["config_error"])
        assert words in lab.hub.ask("status")[1], "and people see it in the status"
        assert "event=config.refused" in lab.hub.log
        assert lab.hub.status("b")[0] == 0, "the tunnel is as protected as before"
        assert (epoch(lab, "b"), lab.engine_peers()) == (before, peers)
        assert lab.reloaded()[0].startswith("nothing has changed")
        assert lab.node()["config_error"] is None


RESTART = {
    "node.wireguard_port": ("node", "wireguard_port", 40000),
    "node.listen": ("node", "listen", ["0.0.0.0:40001"]),
    "node.state_dir": ("node", "state_dir", "elsewhere"),
    "tunnel.interface": ("tunnel", "interface", "other0"),
    "tunnel.engine": ("tunnel", "engine", "wireguard-go"),
    "tunnel.routes": ("tunnel", "routes", "off"),
}


def test_what_takes_a_restart_is_refused_with_all_else(tmp_path: Path) -> None:
    with running_hub(tmp_path, start=("hub",)) as lab:
        for key, (section, name, value) in RESTART.items():
            good = lab.config[section].get(name)
            lab.config[section][name] = value
            of_c = lab.config["peers"].pop()
            code, _, errors = lab.reload()
            assert (code, errors.count("\n")) == (2, 1)
            assert f"{key} cannot change while the daemon runs; restart it, or put the old value back" in errors
            assert len(lab.engine_peers()) == 2, "the peer that is taken out there stays"
            lab.config["peers"].append(of_c)
            if good is None:
                del lab.config[section][name]
            else:
                lab.config[section][name] = good
        (lab.directory / "hub.identity").unlink()
        Identity.create(os.urandom).save(lab.directory / "hub.identity")
        assert "node.identity cannot change" in lab.reload()[2]


def test_another_public_file_is_another_peer(lab: Hub) -> None:
    public = lab.directory / "c.public"
    real, eve = public.read_text(), Identity.create(os.urandom).public
    public.rename(lab.directory / "moved.public")
    lab.peer("c")["public"] = "moved.public"
    public = lab.directory / "moved.public"
    assert lab.reloaded()[0].startswith("nothing has changed"), "it is the same identity"
    public.write_text(eve.to_text())
    with Ping(lab.hub.namespace, TUNNEL["b"]):
        assert lab.reloaded()[0] == "peer c replaced: public"
        assert not reaches(lab, TUNNEL["c"])
        assert base64.b64encode(eve.wireguard).decode() in lab.engine_peers()
        public.write_text(real)
        lab.reloaded()
        lab.hub.protected("c")
        wait_until(lambda: reaches(lab, TUNNEL["c"]), "c is itself again", READY)
    state = (lab.directory / "state-hub" / "peers.json").read_text()
    assert lab.c.identity.public.id.hex() in state


def test_a_hangup_reloads_too(lab: Hub) -> None:
    lab.peer("b")["rekey"] = {"interval": "2s"}
    before, _ = epoch(lab, "b"), lab.hub.file
    lab.hang_up()
    wait_until(lambda: "event=config.reloaded" in lab.hub.log, "the hub has read it", READY)
    wait_until(lambda: epoch(lab, "b") >= before + 2, "the new interval is in use", READY)
    lab.hub.file.write_text("{")
    lab.hang_up()
    wait_until(lambda: lab.node()["config_error"], "the hub has refused it", READY)
    assert lab.hub.status("b")[0] == 0


def policy(lab: Hub, name: str, **qkd: Any) -> None:
    lab.peer(name)["qkd"] = qkd


def test_a_stricter_policy_blocks_at_once_and_a_laxer_one_lets_pass_again(lab: Hub) -> None:
    create_pki(lab.directory / "pki", now=datetime.now(UTC), saes=("sae-hub",))
    lab.hub.source("metro", "https://127.0.0.1:9")  # nobody is there
    with Ping(lab.hub.namespace, TUNNEL["b"]):
        policy(lab, "c", policy="required", sources={"metro": {"peer_sae_id": "sae-c"}})
        assert lab.reloaded()[:2] == ["key source metro added", "peer c changed: qkd.policy, qkd.sources"]
        code, status = lab.hub.status("c")
        assert (code, status["protection"], status["epoch_in_force"]) == (1, "blocked", None)
        assert "the policy has become stricter" in lab.hub.log
        assert not reaches(lab, TUNNEL["c"])
        policy(lab, "c", policy="off")
        lab.reloaded()
        lab.hub.protected("c")
        wait_until(lambda: reaches(lab, TUNNEL["c"]), "c is reached again", READY)
        before = epoch(lab, "c")
        lab.peer("c")["rekey"] = {"interval": "100s", "jitter": "0%"}
        lab.reloaded()
        assert epoch(lab, "c") == before, "what is in force satisfies the policy, so it stays"
        policy(lab, "c", policy="off", max_age="101s")
        lab.reloaded()
        assert lab.hub.status("c")[1]["expires_in_s"] <= 101
        assert reaches(lab, TUNNEL["c"])


def test_a_required_chain_that_died_with_a_daemon_is_begun_anew_as_both_ends_say(lab: Hub) -> None:
    """Neither end begins a new one by itself, and what people do about it costs no packet."""
    ends = (lab.hub, "b"), (lab.b, "hub")

    def both(chain: str) -> None:
        for gateway, name in ends:
            next(peer for peer in gateway.config["peers"] if peer["name"] == name)["qkd"] = {
                "policy": "off",
                "chain": chain,
            }
            assert reload(gateway)[0] == 0

    both("required")
    assert lab.hub.ask("rekey", "b")[0] == 0
    with Ping(lab.b.namespace, TUNNEL["hub"]):
        assert lab.hub.process is not None
        lab.hub.process.kill()
        lab.hub.process.wait()
        lab.hub.start()
        lab.hub.ready()
        assert "event=epoch.kept" in lab.hub.log
        assert f"no epoch follows and traffic ends at max_age; {CHAIN_REMEDY}" in lab.hub.log
        assert lab.hub.ask("rekey", "b")[0] != 0
        lab.hub.blamed("b", CHAIN_REMEDY)
        assert lab.b.ask("rekey", "hub")[0] != 0
        lab.b.blamed("hub", CHAIN_REMEDY)
        both("reset-allowed")
        assert lab.hub.ask("rekey", "b")[0] == 0
        assert "event=chain.reset" in lab.hub.log
        both("required")
        assert lab.b.ask("rekey", "hub")[0] == 0
        wait_until(lambda: lab.hub.status("b")[1]["chained"], "the hub builds on the epoch before", READY)
        wait_until(lambda: lab.b.status("hub")[1]["chained"], "so does b", READY)


@pytest.fixture
def with_kmes(tmp_path: Path) -> Iterator[Lab]:
    with running_lab(tmp_path) as made:
        yield made


def reload(gateway: Gateway) -> tuple[int, str, str]:
    assert gateway.file
    return gateway.ask("reload")


def test_key_sources_come_change_and_go_while_others_deliver(with_kmes: Lab) -> None:
    alice = with_kmes.alice
    certificate = with_kmes.directory / "pki" / "sae-alice.pem"
    with Ping(alice.namespace, TUNNEL["b"]):
        alice.config["key_sources"]["metro"]["timeout"] = "4s"
        assert reload(alice)[1].startswith("key source metro changed: timeout\n")
        good = certificate.read_text()
        certificate.write_text("rubbish\n")
        code, _, errors = reload(alice)
        assert code == 2
        assert str(certificate) in errors
        certificate.write_text(good)
        alice.config["peers"] = alice.config["peers"][:2]
        del alice.config["key_sources"]["spare"]
        code, said, _ = reload(alice)
        assert code == 0
        assert said.startswith("key source spare removed\npeer frank removed\n")
        code, said, _ = alice.ask("rekey", "bob")
        assert code == 0
        assert "etsi014:metro" in said
        sources = json.loads(alice.ask("status", "--json")[1])["key_sources"]
        assert [source["name"] for source in sources] == ["metro"]
        alice.config["peers"][0]["qkd"] = {"sources": {"metro": {"peer_sae_id": "nobody"}}}
        assert reload(alice)[1].startswith("peer bob changed: qkd.sources.metro.peer_sae_id\n")
        code, said, _ = alice.ask("rekey", "bob")
        assert code == 1
        assert "metro" in said
    assert alice.status("bob")[0] == 0, "the key in force is as old as it may be"
