"""A plain WireGuard peer, wireguard-go with ``wg``, on a gateway's interface beside a qtunnel peer."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.hub import TUNNEL, Hub, running_hub
from tests.daemon.kmes import READY
from tests.daemon.lab import Ping
from tests.support.netns import unique_name, wait_until
from tests.support.ping import all_answered, ping

pytestmark = pytest.mark.root

PHONE = "10.77.0.9"


class Phone:
    """WireGuard alone, on the host of ``c``."""

    def __init__(self, lab: Hub) -> None:
        self.lab, self.host, self.interface = lab, lab.c.namespace, unique_name("p")
        self._private = self.host.run("wg", "genkey").stdout
        self.public_key = self.host.run("wg", "pubkey", input=self._private).stdout.strip()
        self.psk = base64.b64encode(os.urandom(32)).decode()
        self.write_psk(self.psk)
        self.host.start("wireguard-go", "-f", self.interface, env={**os.environ, "WG_PROCESS_FOREGROUND": "1"})
        wait_until(lambda: self.interface in self.host.links(), "wireguard-go runs", READY)
        hub = base64.b64encode(lab.hub.identity.public.wireguard).decode()
        (lab.directory / "phone.key").write_text(self._private)
        wait_until(lambda: self._set("private-key", str(lab.directory / "phone.key")), "it answers", READY)
        self._set("peer", hub, "endpoint", "10.98.0.1:51820", "preshared-key", str(lab.directory / "phone.psk"),
                  "allowed-ips", "10.77.0.0/24")  # fmt: skip
        self.host.address(self.interface, f"{PHONE}/24")

    def _set(self, *words: str) -> bool:
        return self.host.run("wg", "set", self.interface, *words, check=False).returncode == 0

    def write_psk(self, psk: str) -> None:
        path = self.lab.directory / "phone.psk"
        path.write_text(psk + "\n")
        path.chmod(0o600)

    def reaches_the_hub(self) -> bool:
        done = self.host.run(*ping(TUNNEL["hub"], 2, patience=3), check=False)
        return all_answered(done.stdout, 2)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Hub]:
    with running_hub(tmp_path, start=("hub", "b")) as made:
        made.config["peers"] = [made.peer("b")]
        yield made


def test_a_plain_peer_shares_the_interface_and_is_told_as_what_it_is(lab: Hub) -> None:
    phone = Phone(lab)
    assert not phone.reaches_the_hub(), "nobody has told the hub of it"
    entry = {
        "name": "phone", "protection": "wireguard-only", "public_key": phone.public_key,
        "preshared_key": "phone.psk", "allowed_ips": [f"{PHONE}/32"],
    }  # fmt: skip
    with Ping(lab.hub.namespace, TUNNEL["b"]):
        lab.config["plain_peers"] = [entry]
        assert "plain peer phone added" in lab.reloaded()
        wait_until(phone.reaches_the_hub, "the phone is let in", READY)
        # What is said of it, and that it changes nothing of what is said of the others.
        code, told, _ = lab.hub.ask("status", "--json")
        status = json.loads(told)
        (plain,) = status["plain_peers"]
        assert (code, [peer["name"] for peer in status["peers"]]) == (0, ["b"])
        assert (plain["name"], plain["protection"], plain["preshared_key"]) == ("phone", "wireguard-only", True)
        assert plain["endpoint"].startswith("10.98.0.2:")
        assert plain["last_handshake_age_s"] < 60
        assert plain["rx_bytes"] > 0
        words = lab.hub.ask("status")[1]
        assert "plain peer phone: WireGuard only, without qtunnel's protection" in words
        assert lab.hub.ask("status", "phone")[0] == 1, "a plain peer alone is nothing that is protected"
        assert lab.hub.ask("status", "b")[0] == 0
        code, _, errors = lab.hub.ask("rekey", "phone")
        assert code == 2
        assert "plain WireGuard peer" in errors
        # Another key in the file ends the session of the old one.
        phone.write_psk(base64.b64encode(os.urandom(32)).decode())
        assert "plain peer phone replaced: preshared_key" in lab.reloaded()
        assert not phone.reaches_the_hub()
        phone.write_psk(phone.psk)
        lab.reloaded()
        wait_until(phone.reaches_the_hub, "with the old key it is let in again", READY)
        entry["allowed_ips"].append("10.78.0.0/24")  # type: ignore[attr-defined]
        assert "plain peer phone changed: allowed_ips" in lab.reloaded()
        assert phone.reaches_the_hub()
        assert "10.78.0.0/24" in lab.hub.namespace.ip("route")
        lab.config["plain_peers"] = []
        assert "plain peer phone removed" in lab.reloaded()
        assert not phone.reaches_the_hub()
        assert phone.public_key not in lab.engine_peers()
    assert phone.psk not in lab.hub.log


def test_it_is_there_from_the_start_and_after_an_engine_that_died(tmp_path: Path) -> None:
    with running_hub(tmp_path, start=()) as lab:
        phone = Phone(lab)
        lab.config["plain_peers"] = [
            {"name": "phone", "protection": "wireguard-only", "public_key": phone.public_key, "endpoint": "10.98.0.2",
             "preshared_key": "phone.psk", "allowed_ips": [f"{PHONE}/32"]}
        ]  # fmt: skip
        lab.hub.start()
        lab.hub.ready()
        wait_until(phone.reaches_the_hub, "the phone is let in", READY)
        os.kill(lab.node()["engine_pid"], 9)
        wait_until(lambda: "event=engine.restarted" in lab.hub.log, "another engine", READY)
        wait_until(phone.reaches_the_hub, "the phone is let in again", READY)
