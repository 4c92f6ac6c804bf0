"""``qtunnel run`` and ``qtunnel kme serve`` as processes of their own, in namespaces joined by veth pairs.

Alice is joined to bob (10.99.0.1 and .2, as in configs/) and to carol (10.98.0.1 and .2).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qtunnel.control.client import ControlClient
from qtunnel.identity import Identity
from tests.daemon.kmes import QTUNNEL, READY, URL, Kmes
from tests.support.netns import Namespace, join, namespaces, stop, unique_name, wait_until
from tests.support.ping import all_answered, answered, gaps, ping

OFF: dict[str, Any] = {"policy": "off"}


def qtunnel(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A command of the user's; its errors are one line and no traceback."""
    done = subprocess.run(
        [*QTUNNEL, *map(str, arguments)], capture_output=True, text=True, timeout=90, check=False
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


class Gateway:
    """One daemon with its files. offset: added to both its ports."""

    def __init__(self, directory: Path, namespace: Namespace, name: str, address: str, offset: int = 0) -> None:
        self.directory, self.namespace, self.name = directory, namespace, name
        self.identity = Identity.create(os.urandom)
        self.identity.save(directory / f"{name}.identity")
        self.interface = unique_name("t")
        self.socket = directory / f"{name}.sock"
        self.config: dict[str, Any] = {
            "node": {
                "name": name, "identity": f"{name}.identity", "listen": [f"0.0.0.0:{51821 + offset}"],
                "wireguard_port": 51820 + offset, "state_dir": f"state-{name}", "control_socket": f"{name}.sock",
            },
            "tunnel": {"interface": self.interface, "addresses": [f"{address}/24"]},
            "peers": [],
        }  # fmt: skip
        self.program: tuple[str, ...] = ("-m", "qtunnel")
        self.process: subprocess.Popen[str] | None = None
        (directory / f"{name}.public").write_text(self.identity.public.to_text())

    def source(self, name: str, url: str) -> None:
        """A key source, asked with the certificate of this gateway's SAE."""
        sae = f"sae-{self.name}"
        self.config.setdefault("key_sources", {})[name] = {
            "driver": "etsi014", "url": url, "sae_id": sae, "ca": "pki/ca.pem",
            "certificate": f"pki/{sae}.pem", "private_key": f"pki/{sae}.key",
        }  # fmt: skip

    def peer(self, name: str, address: str, endpoint: str, qkd: dict[str, Any], public: Identity | None = None) -> None:
        """public: in the place of what the peer really has."""
        file = f"{name}.public"
        if public is not None:
            file = f"{name}-as-{self.name}-has-it.public"
            (self.directory / file).write_text(public.public.to_text())
        self.config["peers"].append(
            {"name": name, "public": file, "endpoint": endpoint, "allowed_ips": [f"{address}/32"], "qkd": qkd}
        )

    @property
    def file(self) -> Path:
        path = self.directory / f"{self.name}.yaml"
        path.write_text(json.dumps(self.config, indent=1))
        return path

    @property
    def log(self) -> str:
        return (self.directory / f"{self.name}.log").read_text()

    def start(self) -> None:
        with (self.directory / f"{self.name}.log").open("w") as log:
            self.process = self.namespace.start(
                sys.executable, *self.program, "run", "--config", str(self.file), stdout=log, stderr=log
            )  # fmt: skip

    def ready(self, patience: float = READY) -> Gateway:
        wait_until(lambda: "event=daemon.ready" in self.log or self._ended(), f"{self.name} is ready", patience)
        return self

    def _ended(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        return False

    def end(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        stop(self.process)
        return self.process.returncode

    def ask(self, command: str, *arguments: str) -> tuple[int, str, str]:
        """``qtunnel status`` or ``rekey``: exit code, standard output, standard error."""
        done = qtunnel(command, *arguments, "--socket", self.socket)
        return done.returncode, done.stdout, done.stderr

    def status(self, peer: str) -> tuple[int, dict[str, Any]]:
        """The exit code of ``qtunnel status PEER``, and that peer's status, without a process for each look."""
        told = ControlClient(self.socket).status(peer)
        return int(not told.protected), json.loads(told.model_dump_json())["peers"][0]

    def blamed(self, peer: str, words: str) -> dict[str, Any]:
        """The peer's status once its last error has these words."""

        def found() -> dict[str, Any] | None:
            status = self.status(peer)[1]
            return status if words in (status["last_error"] or "") else None

        status: dict[str, Any] = wait_until(found, f"{self.name} says of {peer}: {words}", READY)
        return status

    def protected(self, peer: str) -> Gateway:
        wait_until(lambda: self.status(peer)[0] == 0, f"{self.name}: {peer} is protected", READY)
        return self


LEAST = 1.0
"""Seconds that echoes are sent for, however quick what is done meanwhile."""


class Ping:
    """Echoes every 20 ms until the end of the ``with`` block, none of which may stay without an answer."""

    def __init__(self, namespace: Namespace, address: str) -> None:
        self._namespace, self._address = namespace, address
        self._process = namespace.start("ping", "-n", "-i", "0.02", address)
        self._began = time.monotonic()

    def __enter__(self) -> Ping:
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(max(0.0, self._began + LEAST - time.monotonic()))
        os.kill(self._process.pid, 2)  # ping(8) sums up at SIGINT
        output = self._process.communicate(timeout=30)[0]
        assert not gaps(output), output
        assert len(answered(output)) > 10, output
        done = self._namespace.run(*ping(self._address, 1), check=False)
        assert all_answered(done.stdout, 1), done.stdout  # so it was not the end that went unanswered


class Lab:
    """alice with two KMEs and a good peer bob; carol's and frank's side of it is wrong."""

    def __init__(self, directory: Path, alice: Namespace, bob: Namespace, carol: Namespace) -> None:
        self.directory = directory
        Kmes(directory, (alice, bob)).start()
        self.alice = Gateway(directory, alice, "alice", "10.77.0.1")
        self.bob = Gateway(directory, bob, "bob", "10.77.0.2")
        self.carol = Gateway(directory, carol, "carol", "10.77.0.3")
        self.eve = Identity.create(os.urandom)
        metro = {"sources": {"metro": {"peer_sae_id": "sae-bob"}}}
        self.alice.source("metro", URL)
        self.alice.source("spare", "https://127.0.0.1:9")  # nobody is there
        self.alice.peer("bob", "10.77.0.2", "10.99.0.2", metro)
        self.alice.peer("carol", "10.77.0.3", "10.98.0.2", OFF, self.eve)
        self.alice.peer("frank", "10.77.0.4", "10.98.0.9", {"sources": {"spare": {"peer_sae_id": "sae-f"}}},
                        Identity.create(os.urandom))  # fmt: skip
        self.bob.source("metro", URL)
        self.bob.peer("alice", "10.77.0.1", "10.99.0.1", {"sources": {"metro": {"peer_sae_id": "sae-alice"}}})
        self.carol.peer("alice", "10.77.0.1", "10.98.0.1", OFF)


@contextmanager
def running_lab(directory: Path) -> Iterator[Lab]:
    """All of it, with alice and bob protected."""
    with namespaces(3) as (alice, bob, carol):
        for other, interface, network in ((bob, "eth0", "10.99.0"), (carol, "eth1", "10.98.0")):
            join(alice, other, interface)
            alice.address(interface, f"{network}.1/24")
            other.address(interface, f"{network}.2/24")
        lab = Lab(directory, alice, bob, carol)
        everybody = (lab.alice, lab.bob, lab.carol)
        for gateway in everybody:
            gateway.start()
        try:
            lab.alice.ready()
            lab.bob.ready().protected("alice")
            lab.alice.protected("bob")
            yield lab
        finally:
            for gateway in everybody:
                if gateway.process is not None:
                    stop(gateway.process)
