"""``qtunnel run`` as users run it: what is wrong with one peer is said of that peer, and touches no other."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.kmes import READY
from tests.daemon.lab import OFF, Gateway, Lab, Ping, qtunnel, running_lab
from tests.support.netns import wait_until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("lab")) as made:
        yield made


def rejected(gateway: Gateway, reason: str) -> list[str]:
    return [line for line in gateway.log.splitlines() if "message.rejected" in line and f"reason={reason}" in line]


def test_a_wrong_public_file_is_told_at_both_ends_while_the_other_tunnel_goes_on(lab: Lab) -> None:
    """Alice has eve's public file for carol."""
    alice, carol = lab.alice, lab.carol
    with Ping(alice.namespace, "10.77.0.2"):
        carol.ready()
        alice.blamed("carol", "rejected what came from its address: no peer here has the fingerprint")
        carol.blamed("alice", "made for another identity than this gateway's; does the peer have this gateway's public")
    code, status = alice.status("carol")
    assert (code, status["protected"], status["epoch_in_force"]) == (1, False, None)
    fingerprint = qtunnel("identity", "fingerprint", lab.directory / "carol.public").stdout.strip()
    (line,) = rejected(alice, "unknown-peer")
    assert f"no peer here has the fingerprint {fingerprint}" in line
    assert "level=warning" in line
    assert "from=carol" in line
    assert (alice.status("bob")[0], carol.status("alice")[0]) == (0, 1)


def test_a_dead_source_of_one_peer_leaves_the_other_alone(lab: Lab) -> None:
    alice = lab.alice
    with Ping(alice.namespace, "10.77.0.2"):
        status = alice.blamed("frank", "policy requires QKD and there is no key: spare")
        code, output, _ = alice.ask("rekey", "bob")
    assert code == 0, output
    assert status["protected"] is False
    code, output, _ = alice.ask("status", "--json")
    health = {source["name"]: source["healthy"] for source in json.loads(output)["key_sources"]}
    assert health == {"metro": True, "spare": False}
    assert code == 1


def test_a_peer_that_is_not_in_the_configuration_gets_no_answer_and_is_named(lab: Lab) -> None:
    dave = Gateway(lab.directory, lab.alice.namespace, "dave", "10.76.0.1", offset=10)
    dave.peer("bob", "10.76.0.2", "10.99.0.2", OFF)
    with Ping(lab.alice.namespace, "10.77.0.2"):
        dave.start()
        dave.ready().blamed("bob", "no answer yet, after")
    (line,) = rejected(lab.bob, "unknown-peer")
    assert f"no peer here has the fingerprint {dave.identity.public.fingerprint}" in line
    assert dave.status("bob")[0] == 1
    code, status = lab.bob.status("alice")
    assert (code, "dave" in str(status["last_error"])) == (0, False)
    assert "rejected" not in (status["last_error"] or ""), "it came from alice's host, but not from her port"
    assert dave.end() == 0


def test_two_gateways_agree_on_record_mode_and_show_it(lab: Lab) -> None:
    modes = {lab.alice.status("bob")[1]["record_mode"], lab.bob.status("alice")[1]["record_mode"]}
    assert modes in ({"aes-256-gcm"}, {"chacha20-poly1305"})
    _, output, _ = lab.alice.ask("status", "bob")
    assert "in records, " in output


def test_the_exit_codes_of_status_and_rekey(lab: Lab) -> None:
    alice = lab.alice
    assert alice.ask("status", "bob")[0] == 0
    assert alice.ask("rekey", "bob")[0] == 0
    assert alice.ask("status")[0] == 1  # carol and frank
    assert alice.ask("rekey", "frank")[0] == 1
    for command in ("status", "rekey"):
        expected = "qtunnel: no peer 'nobody'; there are: bob, carol, frank\n"
        assert alice.ask(command, "nobody") == (2, "", expected)
    nobody_there = Gateway(lab.directory, alice.namespace, "grace", "10.75.0.1")
    for arguments in (("status",), ("rekey", "bob")):
        code, output, errors = nobody_there.ask(*arguments)
        assert (code, output, errors.count("\n")) == (3, "", 1)
        assert errors.startswith("qtunnel: no daemon: ")


def test_a_port_that_is_taken_is_one_line_and_leaves_nothing(lab: Lab) -> None:
    second = Gateway(lab.directory, lab.alice.namespace, "second", "10.74.0.1")
    second.config["node"]["wireguard_port"] = 51840
    second.peer("bob", "10.74.0.2", "10.99.0.2", OFF)
    second.start()
    assert second.process is not None
    assert second.process.wait(READY) == 1
    (line,) = [line for line in second.log.splitlines() if line.startswith("qtunnel: ")]
    assert line.startswith("qtunnel: listen: 0.0.0.0:51821: ")
    assert "Traceback" not in second.log
    assert second.interface not in lab.alice.namespace.links()
    assert not second.socket.exists()
    assert lab.alice.status("bob")[0] == 0


def test_sigterm_leaves_nothing(lab: Lab) -> None:
    namespace = lab.carol.namespace
    before = (
        namespace.ip("route"),
        namespace.ip("rule"),
        namespace.ip("route", "show", "table", "all", "type", "unicast"),
    )
    gateway = Gateway(lab.directory, namespace, "heidi", "10.73.0.1", offset=20)
    gateway.peer("alice", "10.73.0.2", "10.98.0.1", OFF)
    gateway.start()
    gateway.ready()
    assert gateway.interface in namespace.links()
    assert f"dev {gateway.interface}" in namespace.ip("route")
    engine = json.loads(gateway.ask("status", "--json")[1])["node"]["engine_pid"]
    assert gateway.end() == 0
    assert "Traceback" not in gateway.log
    assert gateway.interface not in namespace.links()
    after = (
        namespace.ip("route"),
        namespace.ip("rule"),
        namespace.ip("route", "show", "table", "all", "type", "unicast"),
    )
    assert after == before
    assert not gateway.socket.exists()
    assert not Path("/run/wireguard", f"{gateway.interface}.sock").exists()
    assert not Path(f"/proc/{engine}").exists()


def test_a_killed_engine_is_restarted_and_the_tunnel_comes_back(lab: Lab) -> None:
    bob = lab.bob

    def engine() -> int | None:
        pid: int | None = json.loads(bob.ask("status", "--json")[1])["node"]["engine_pid"]
        return pid

    first = engine()
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: engine() not in (None, first), "a new engine", READY)
    assert bob.interface in bob.namespace.links()
    bob.protected("alice")
    lab.alice.protected("bob")
    with Ping(lab.alice.namespace, "10.77.0.2"):
        assert bob.ask("rekey", "alice")[0] == 0
    assert "event=engine.died" in bob.log
    assert "event=engine.restarted" in bob.log
