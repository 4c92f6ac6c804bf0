"""The daemon as its unit starts it, without any capability: a steward has the engine and changes the network; a manager
is told how it is; a person watches on a terminal; and no key is to be found anywhere."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.daemon.accounts import REPORTS, sections, start_broker, stop_broker
from tests.daemon.kmes import QTUNNEL, READY
from tests.daemon.lab import Gateway, Lab, Ping
from tests.support.netns import Namespace, gone, join, namespaces, stop, wait_until
from tests.support.secrets import leaked, of_directory, of_process, recorded, recording
from tests.support.terminal import OWN_SCREEN, Terminal, terminal

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]  # one long run
NO_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")


class Manager:
    """What systemd hears at a NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while datagram := self._socket.recv(4096):
            self.heard.append(datagram.decode())

    def hears(self, state: str, after: int = 0) -> str:
        """The first datagram from that place on that has the state in it."""

        def found() -> str:
            return next((told for told in self.heard[after:] if state in told.splitlines()), "")

        return str(wait_until(found, f"{state} among {self.heard}", READY))

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.path))
        self._socket.close()


class Service:
    """alice, with a steward of her own."""

    def __init__(self, lab: Lab, manager: Manager, hook: Path) -> None:
        self.lab, self.alice, self.manager = lab, lab.alice, manager
        self.socket = lab.directory / "steward.sock"
        self.environment = {**os.environ, "PYTHONPATH": str(hook)}
        self.log = (lab.directory / "steward.log").open("w")
        self.processes: list[subprocess.Popen[str]] = []
        self.start()

    def start(self) -> None:
        """The steward."""
        self.steward = self._start(*QTUNNEL, "steward", str(self.socket))
        self.processes.append(self.steward)

    def end(self) -> int:
        """As systemd ends it; its exit code."""
        self.steward.terminate()
        return self.steward.wait(READY)

    def _start(self, *command: str, **more: str) -> subprocess.Popen[str]:
        environment = self.environment | more
        return self.alice.namespace.start(*command, env=environment, stdout=self.log, stderr=self.log)

    def daemon(self) -> subprocess.Popen[str]:
        """Start it, until it is ready."""
        before = len(self.manager.heard)
        told = {"NOTIFY_SOCKET": str(self.manager.path), "WATCHDOG_USEC": "500000"}
        command = (*NO_CAPABILITIES, *QTUNNEL, "run", "--config", str(self.alice.file), "--steward", str(self.socket))
        process = self._start(*command, **told)
        self.processes.append(process)
        self.manager.hears("READY=1", before)
        return process

    def engine(self) -> int:
        pid: int = json.loads(self.alice.ask("status", "--json")[1])["node"]["engine_pid"]
        return pid


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("service")
    hook = tmp_path_factory.mktemp("recorder") / "path"
    recording(hook)
    manager = Manager(directory / "notify")
    with namespaces(3) as (alice, bob, carol):
        join(alice, bob, "eth0")
        alice.address("eth0", "10.99.0.1/24")
        bob.address("eth0", "10.99.0.2/24")
        lab = Lab(directory, alice, bob, carol)
        del lab.alice.config["peers"][1:], lab.alice.config["key_sources"]["spare"]
        for gateway in (lab.alice, lab.bob):
            gateway.config["peers"][0]["rekey"] = {"interval": "2s"}
        told = {"page": {}, "mqtt": {**REPORTS["mqtt"], "discovery": "home-assistant"}}
        lab.alice.config |= {**sections("alice", "go-on"), **told}
        broker = start_broker(directory, alice)
        listeners = [listening(alice, directory / f"alice.{name}", "http", url) for name, (url, _) in PAGES.items()]
        if broker is not None:
            listeners.append(
                listening(alice, directory / "alice.mqtt", "mqtt", "8883", str(directory / "pki"), "kme-b")
            )
        made = Service(lab, manager, hook)
        try:
            start_recorded(lab.bob, made.environment)
            yield made
        finally:
            for process in [*listeners, *made.processes]:
                stop(process)
            stop_broker(broker)
            if lab.bob.process is not None:
                stop(lab.bob.process)
            manager.close()
            made.log.close()


PAGES = {
    "metrics": ("http://127.0.0.1:9586/metrics", ["qtunnel_peer_protected{", "# EOF"]),
    "page": ("http://127.0.0.1:9587/", ["</html>"]),
    "live": ("http://127.0.0.1:9587/live", ["text/event-stream", "epoch.in-force", "qkd+pqc"]),
}
"""What alice serves, and words that have to be there."""


def listening(host: Namespace, file: Path, *what: str) -> subprocess.Popen[str]:
    """Somebody who writes down what there is to be heard."""
    return host.start(sys.executable, "-m", "tests.support.listen", what[0], str(file), *what[1:])


def start_recorded(gateway: Gateway, environment: dict[str, str]) -> None:
    with (gateway.directory / f"{gateway.name}.log").open("w") as log:
        gateway.process = gateway.namespace.start(
            *QTUNNEL, "run", "--config", str(gateway.file), stdout=log, stderr=log, env=environment
        )  # fmt: skip


def capabilities(pid: int, which: str = "CapEff") -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith(f"{which}:"))


def test_a_service_from_its_start_to_its_end(service: Service) -> None:
    """One run, as each step needs the one before."""
    alice, began = service.alice, time.time()
    daemon = service.daemon()
    with terminal(*QTUNNEL, "status", "--watch", "--interval", "0.5", "--socket", str(alice.socket)) as watch:
        steps(service, daemon, began, watch)


def steps(service: Service, daemon: subprocess.Popen[str], began: float, watch: Terminal) -> None:
    manager, alice = service.manager, service.alice
    assert any(line.startswith("STATUS=1 peers on ") for line in manager.hears("READY=1").splitlines())
    manager.hears("WATCHDOG=1")
    alice.protected("bob")
    assert capabilities(daemon.pid) == capabilities(daemon.pid, "CapBnd") == 0
    engine = service.engine()
    parent = Path(f"/proc/{engine}/stat").read_text().rpartition(")")[2].split()[1]
    assert int(parent) == service.steward.pid

    # a reload, which a manager is told of
    before = len(manager.heard)
    alice.config["tunnel"]["addresses"].append("10.78.0.1/24")
    assert alice.file.exists(), "written anew"
    os.kill(daemon.pid, signal.SIGHUP)
    began_at = manager.hears("RELOADING=1", before)
    assert "MONOTONIC_USEC=" in began_at
    manager.hears("READY=1", manager.heard.index(began_at))
    wait_until(lambda: "10.78.0.1/24" in alice.namespace.ip("addr"), "the address that was added", READY)

    # another daemon takes the engine over, and nothing is lost
    with Ping(alice.namespace, "10.77.0.2"):
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait(READY)
        watch.shows("alice: the daemon is away, for")
        daemon = service.daemon()
        assert service.engine() == engine
        alice.protected("bob")
        watch.shows("bob        protected: QKD and post-quantum")
    assert "event=engine.adopted" in (service.lab.directory / "steward.log").read_text()

    # what the steward undoes when somebody takes it away
    alice.namespace.ip("route", "del", "10.77.0.2/32", "dev", alice.interface)
    wait_until(lambda: f"10.77.0.2 dev {alice.interface}" in alice.namespace.ip("route"), "the route is back", READY)

    # an engine that dies
    os.kill(engine, signal.SIGKILL)
    wait_until(lambda: service.engine() not in (None, engine), "another engine", READY)
    alice.protected("bob")
    engine = service.engine()

    # no key is anywhere
    epoch = alice.status("bob")[1]["epoch_in_force"]
    wait_until(lambda: (alice.status("bob")[1]["epoch_in_force"] or 0) > epoch + 1, "a few rekeys", READY)
    no_secret_is_found(service, daemon, engine, began, watch)
    watch.type("\x03")
    assert watch.end() == 0
    assert watch.raw.endswith(("\x1b[?25h", OWN_SCREEN)), watch.raw[-200:]

    # a stop that is a restart: engine and traffic go on
    before = len(manager.heard)
    with Ping(alice.namespace, "10.77.0.2"):
        daemon.terminate()
        assert daemon.wait(READY) == 0
        manager.hears("STOPPING=1", before)
        daemon = service.daemon()
        assert service.engine() == engine
    daemon.terminate()
    assert daemon.wait(READY) == 0

    # but a restart that fails, as its file is wrong, is no end: packets go nowhere after it
    good = alice.config["node"].pop("identity")
    command = (*QTUNNEL, "run", "--config", str(alice.file), "--steward", str(service.socket))
    assert alice.namespace.run(*command, check=False).returncode == 2
    alice.config["node"]["identity"] = good
    assert service.end() == 0
    assert gone(engine)
    assert "unreachable 10.77.0.2" in alice.namespace.ip("route", "show", "table", "all")

    # and one that is none, after which nothing is left
    service.start()
    daemon = service.daemon()
    alice.protected("bob")
    engine = service.engine()
    daemon.terminate()
    assert daemon.wait(READY) == 0
    assert service.end() == 0
    assert gone(engine)
    assert alice.interface not in alice.namespace.links()
    assert "unreachable 10.77.0.2" not in alice.namespace.ip("route", "show", "table", "all")
    assert not service.socket.exists()


def no_secret_is_found(
    service: Service, daemon: subprocess.Popen[str], engine: int, began: float, watch: Terminal
) -> None:
    alice, bob = service.alice, service.lab.bob
    directory, hook = service.lab.directory, Path(service.environment["PYTHONPATH"])
    keys = recorded(hook / "secrets")
    assert len(keys) > 30, "the recorder works"
    assert bob.process is not None
    places: list[tuple[str, bytes]] = []
    for pid in (daemon.pid, service.steward.pid, engine, bob.process.pid):
        places += of_process(pid, began)
    for gateway in (alice, bob):
        for arguments in (("status",), ("status", "--json"), ("rekey", "--json")):
            told = gateway.ask(*arguments, *([] if arguments[0] == "status" else [gateway.config["peers"][0]["name"]]))
            places.append((f"{gateway.name}: {' '.join(arguments)}", "".join(map(str, told)).encode()))
    places.append(("alice: status --watch", watch.raw.encode()))
    assert "\u2588" in watch.raw, "a whole column"
    heard(service)
    secret_files = [directory / f"{name}.identity" for name in ("alice", "bob", "carol")]
    places += of_directory(directory, [*secret_files, *directory.glob("pki/*.key")])
    assert leaked(keys, places) == []
    # the search does find: in an identity's file stands the seed
    assert leaked(keys, [("identity", secret_files[0].read_bytes())]) == ["identity"]


def heard(service: Service) -> None:
    """All that alice tells others is among the files of the directory, and says what it has to."""
    alice, directory = service.alice, service.lab.directory
    (key_id,) = [key["key_id"] for key in alice.status("bob")[1]["key_ids"]]
    wait_until(lambda: key_id in (directory / "log-alice" / "audit.jsonl").read_text(), "it is on record", READY)
    told = [(directory / f"alice.{name}", words) for name, (_, words) in PAGES.items()]
    if (directory / "alice.mqtt").exists():
        told.append((directory / "alice.mqtt", ["qtunnel/alice/peer/bob ", "homeassistant/", "epoch.in-force"]))
    for file, words in told:
        wait_until(partial(says, file, words), f"{file} has {words}", READY)


def says(file: Path, words: list[str]) -> bool:
    text = file.read_text(errors="replace")
    return all(word in text for word in words)
