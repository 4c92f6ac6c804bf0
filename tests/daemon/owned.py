"""An interface that somebody else made, and what a daemon with ``manage: psk`` may do to it."""

from __future__ import annotations

import base64
import json
import os
import signal
from pathlib import Path
from typing import Any

from qtunnel.crypto.dh import public_key
from qtunnel.identity import Identity
from qtunnel.secret import Secret
from tests.daemon.sites import Site, protected
from tests.daemon.unequal import carries, done
from tests.support.netns import wait_until
from tests.support.ping import answered, gaps

STRANGER = base64.b64encode(public_key(Secret(os.urandom(32)))).decode()
"""A peer of the owner's, of whom the daemon is told nothing."""


class OwnedSite:
    """alice's host with a WireGuard interface of the administrator's: own private key, addresses, one more peer."""

    def __init__(self, site: Site) -> None:
        self.site, self.host, self.interface = site, site.host, site.interface
        self.private = os.urandom(32)
        self.public = base64.b64encode(public_key(Secret(self.private))).decode()
        self.peer = ""

    def make_in_kernel(self) -> None:
        self.host.ip("link", "add", self.interface, "type", "wireguard")
        self._set_up()

    def make_in_userspace(self, program: str) -> int:
        """The program's process."""
        env = {**os.environ, "WG_PROCESS_FOREGROUND": "1"}
        process = self.host.start(program, "-f", self.interface, env=env)
        path = Path("/run/wireguard") / f"{self.interface}.sock"
        wait_until(path.is_socket, "the program serves its socket")
        self._set_up()
        return process.pid

    def _set_up(self) -> None:
        file = self.site.directory / "owner.key"
        file.write_text(base64.b64encode(self.private).decode())
        bob = Identity.load(self.site.directory / "bob.identity").public.wireguard
        self.peer = base64.b64encode(bob).decode()
        self.wg("set", self.interface, "private-key", str(file), "listen-port", "51820")
        self.wg("set", self.interface, "peer", self.peer, "endpoint", "10.99.0.2:51820", "allowed-ips",
                "10.77.0.2/32,fd77::2/128,10.7.0.0/16", "persistent-keepalive", "21")  # fmt: skip
        self.wg("set", self.interface, "peer", STRANGER, "endpoint", "10.99.0.77:7", "allowed-ips", "10.55.0.0/16")
        self.host.address(self.interface, "10.77.0.1/24")

    def wg(self, *arguments: str) -> str:
        return self.host.run("wg", *arguments).stdout

    def take_key_away(self) -> None:
        """As ``wg syncconf`` does with a file that has none."""
        self.wg("set", self.interface, "peer", self.peer, "preshared-key", "/dev/null")

    def key_is_missed(self) -> bool:
        """Whether the daemon has noticed; taken away again where not, as a rekey may have been quicker than a look."""
        missed = "our preshared key of peer bob" in self.site.log
        if not missed:
            self.take_key_away()
        return missed

    def peers(self) -> dict[str, list[str]]:
        """By public key, what ``wg show dump`` tells of each: PSK, endpoint, allowed IPs, ..., keepalive."""
        lines = self.wg("show", self.interface, "dump").splitlines()[1:]
        return {fields[0]: fields[1:] for fields in (line.split("\t") for line in lines)}

    def settings(self) -> tuple[Any, ...]:
        """All that is the owner's."""
        peers = {key: (peer[1], sorted(peer[2].split(",")), peer[6]) for key, peer in self.peers().items()}
        private, port = (self.wg("show", self.interface, what) for what in ("private-key", "listen-port"))
        addresses = json.loads(self.host.run("ip", "-n", self.host.name, "-j", "addr", "show", self.interface).stdout)
        here = [address["local"] for address in addresses[0]["addr_info"]]
        return peers, self.peers()[STRANGER][0], private, port, here, self.host.ip("route"), self.host.ip("rule")

    def configure(self, interval: str, endpoint: str = "10.99.0.2", before: tuple[dict[str, Any], ...] = ()) -> None:
        """alice's file: her interface's name and peer, and nothing of the rest. before: peers that stand before it."""
        config: dict[str, Any] = {
            "node": {
                "name": "alice", "identity": "alice.identity", "state_dir": "state-alice",
                "control_socket": "alice.sock",
            },
            "tunnel": {"interface": self.interface, "manage": "psk"},
            "peers": [
                *before,
                {"name": "bob", "public": "bob.public", "endpoint": endpoint, "rekey": {"interval": interval},
                 "qkd": {"policy": "off"}}
            ],
        }  # fmt: skip
        self.site.config.write_text(json.dumps(config))

    def named_by(self, bob: Site) -> None:
        """Bob's file names this interface's key."""
        text, public = bob.config.read_text(), "    public: alice.public"
        bob.config.write_text(text.replace(public, f"{public}\n    wireguard_key: {self.public}"))


def keys_only(owned: OwnedSite, bob: Site, *, interval: str = "2s", rekeys: int = 4) -> None:
    """From the first key to the daemon's end and what is left then."""
    alice = owned.site
    owned.configure(interval)
    bob.write(interval=interval)
    owned.named_by(bob)
    before = owned.settings()
    assert owned.peers()[owned.peer][0] == "(none)"
    alice.start()
    assert owned.peers()[owned.peer][0] != "(none)", "a random one from the first moment on"
    assert not alice.ping("10.77.0.2")
    bob.start()
    wait_until(lambda: carries(alice) and carries(bob), "both are protected", 60)
    assert owned.settings() == before

    ping = alice.host.start("ping", "-n", "-i", "0.05", "10.77.0.2")
    count = done(alice)
    wait_until(lambda: done(alice) >= count + rekeys, f"{rekeys} rekeys", 120)
    os.kill(ping.pid, signal.SIGINT)
    output = ping.communicate(timeout=30)[0]
    assert not gaps(output), sorted(gaps(output))
    assert len(answered(output)) > 10 * rekeys
    assert owned.settings() == before

    # The owner's tools take the key away: noticed, and put back.
    wait_until(owned.key_is_missed, "it is noticed")
    assert "our preshared key of peer bob; put back" in alice.log
    wait_until(lambda: owned.peers()[owned.peer][0] != "(none)" and alice.ping("10.77.0.2"), "traffic again", 60)
    assert owned.settings() == before
    # And a peer that is taken away is missed, not made.
    wait_until(lambda: alice.status()["node"]["state"] == "up", "the status is good again")
    owned.wg("set", owned.interface, "peer", owned.peer, "remove")
    wait_until(lambda: "missing: peer bob" in alice.log, "it is missed")
    assert owned.peer not in owned.peers()
    owned.wg("set", owned.interface, "peer", owned.peer, "endpoint", "10.99.0.2:51820", "allowed-ips",
             "10.77.0.2/32,fd77::2/128,10.7.0.0/16", "persistent-keepalive", "21")  # fmt: skip
    wait_until(lambda: carries(alice) and alice.ping("10.77.0.2"), "traffic again", 60)
    assert owned.settings() == before

    # Killed: everything stays, the last epoch's key too, and another start goes on from there.
    alice.processes[-1].send_signal(signal.SIGKILL)
    alice.processes[-1].wait(30)
    assert owned.settings() == before
    wait_until(lambda: alice.ping("10.77.0.2"), "traffic goes on")
    (alice.directory / "alice.log").write_text("")
    process = alice.start()
    wait_until(lambda: carries(alice) and alice.ping("10.77.0.2"), "traffic again", 60)
    assert protected(alice)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert owned.settings() == before
    assert owned.peers()[owned.peer][0] != "(none)"
    assert "Traceback" not in alice.log
