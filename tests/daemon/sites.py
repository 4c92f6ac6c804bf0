"""Two real gateways, ``qtunnel run``, in namespaces of their own; keyed by X25519 and ML-KEM alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qtunnel.cli.selectors import open_client
from qtunnel.errors import ControlError
from qtunnel.identity import Identity
from tests.support.netns import Namespace, stop, two_hosts, unique_name, wait_until

CONFIG = """\
node:
  name: {name}
  identity: {name}.identity
  state_dir: state-{name}
  control_socket: {name}.sock
tunnel:
  interface: {interface}
  addresses: [10.77.0.{here}/24, "fd77::{here}/64"]
  engine: {engine}
peers:
  - name: {peer}
    public: {peer}.public
    endpoint: "{endpoint}"
    allowed_ips: [{allowed}]
    rekey: {{interval: {interval}}}
    qkd: {{policy: off}}
"""
TUNNEL = {"alice": "10.77.0.1", "bob": "10.77.0.2"}
ALLOWED = {"alice": '10.77.0.2/32, "fd77::2/128", 10.8.0.0/16', "bob": '10.77.0.1/32, "fd77::1/128"'}
ENDPOINT = {"alice": "10.99.0.2", "bob": "10.99.0.1"}
OTHER = {"alice": "bob", "bob": "alice"}


class Site:
    """One gateway's directory and namespace; ``start`` runs the daemon, ``log`` is what it said."""

    def __init__(self, name: str, directory: Path, host: Namespace) -> None:
        self.name, self.directory, self.host = name, directory, host
        self.interface = unique_name("qg")  # UAPI sockets share one directory whatever the namespace
        self.config = directory / f"{name}.yaml"
        self.processes: list[subprocess.Popen[str]] = []
        self.write()

    def write(self, **changes: str) -> None:
        """The configuration, with other values where ``changes`` has them."""
        values = {
            "name": self.name, "peer": OTHER[self.name], "interface": self.interface, "engine": "qtunnel",
            "here": TUNNEL[self.name][-1], "endpoint": ENDPOINT[self.name], "allowed": ALLOWED[self.name],
            "interval": "2s",
        }  # fmt: skip
        self.config.write_text(CONFIG.format(**values | changes))

    @property
    def log(self) -> str:
        return (self.directory / f"{self.name}.log").read_text()

    def start(self, *, program: tuple[str, ...] = ("-m", "qtunnel"), ready: bool = True) -> subprocess.Popen[str]:
        """Run the daemon, until it is ready."""
        with open(self.directory / f"{self.name}.log", "a") as log:
            process = self.host.start(
                sys.executable, *program, "run", "--config", str(self.config), stdout=log, stderr=log
            )  # fmt: skip
        self.processes.append(process)
        if ready:
            wait_until(lambda: "event=daemon.ready" in self.log or process.poll() is not None, "ready", 60)
            assert process.poll() is None, self.log
        return process

    def refused(self) -> str:
        """Run a daemon that does not start; its last words."""
        command = (sys.executable, "-m", "qtunnel", "run", "--config", str(self.config))
        done = self.host.run(*command, check=False, env={**os.environ, "COLUMNS": "500"})
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        return done.stderr.splitlines()[-1]

    def status(self) -> dict[str, Any]:
        """What ``qtunnel status --json`` says, without a process for each look; empty where no daemon answers."""
        try:
            told: dict[str, Any] = json.loads(open_client(self.config, None, None).status().model_dump_json())
        except ControlError:
            return {}
        return told

    def ping(self, target: str) -> bool:
        return self.host.run("ping", "-c", "1", "-W", "1", target, check=False).returncode == 0

    def way(self, target: str, mark: int = 0) -> str:
        """The device that a packet leaves by; ``unreachable`` where the kernel refuses it."""
        marked = ("mark", str(mark)) if mark else ()
        done = self.host.run("ip", "route", "get", target, *marked, check=False)
        if done.returncode:
            assert "unreachable" in done.stderr.lower() or "no route" in done.stderr.lower(), done.stderr
            return "unreachable"
        line = done.stdout.split()
        return "unreachable" if line[0] == "unreachable" else line[line.index("dev") + 1]


@contextmanager
def two_sites(directory: Path) -> Iterator[tuple[Site, Site]]:
    """alice and bob, whose hosts 10.99.0.1 and 10.99.0.2 are joined by ``eth0``; not running yet."""
    for name in TUNNEL:
        identity = Identity.create(os.urandom)
        identity.save(directory / f"{name}.identity")
        (directory / f"{name}.public").write_text(identity.public.to_text())
    with two_hosts() as hosts:
        sites = Site("alice", directory, hosts[0]), Site("bob", directory, hosts[1])
        try:
            yield sites
        finally:
            for process in [process for site in sites for process in site.processes]:
                stop(process)


def protected(site: Site) -> bool:
    """Whether its one peer is protected, and traffic passes."""
    peers = site.status().get("peers", [])
    return bool(peers) and bool(peers[0]["protected"])
