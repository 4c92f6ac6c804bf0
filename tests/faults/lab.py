"""Two gateways, ``qtunnel run``, with a real KME each and a relay before it, in namespaces joined by a veth pair."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtunnel.control.client import ControlClient
from qtunnel.control.messages import PeerStatus, Status
from qtunnel.errors import QtunnelError
from qtunnel.identity import Identity
from tests.daemon.accounts import REPORTS, start_broker
from tests.daemon.kmes import READY, Kme, Kmes
from tests.daemon.lab import Gateway, qtunnel
from tests.faults.traffic import RATE, SLOW_RATE, Traffic, kill
from tests.support.clock import SteppedClock
from tests.support.link import Link, emulated
from tests.support.netns import Namespace, join, namespaces, run, stop, wait_until

ROOT = Path(__file__).parents[2]
RELAY_PORT = 9443
OWN = "qtunnel"
TUNNEL = {"alice": "10.77.0.1", "bob": "10.77.0.2"}
KME = {"alice": "kme-a", "bob": "kme-b"}
MESSAGES = {1: "bob", 2: "alice", 3: "bob", 4: "alice"}
"""Who receives it; alice's identity is the higher one, so she begins."""
FILTER = """
table inet fault {
    counter caught { }
    chain in { type filter hook input priority 0; policy accept; }
    chain out { type filter hook output priority 0; policy accept; }
}
table inet leak {
    counter clear { }
    chain out {
        type filter hook output priority 0; policy accept;
        oifname "eth0" ip daddr 10.77.0.0/24 counter name clear
    }
}
"""


@dataclass(frozen=True, slots=True)
class Expiry:
    """When an epoch gets too old, as its end tells: some time from ``low`` to ``high``, monotonic seconds, for an age
    may be read at any moment between question and answer."""

    epoch: int
    low: float
    high: float

    def with_(self, earlier: Expiry | None) -> Expiry:
        """What both tell, where it is about one epoch."""
        if earlier is None or earlier.epoch != self.epoch:
            return self
        return Expiry(self.epoch, max(self.low, earlier.low), min(self.high, earlier.high))


class Filler:
    """A file that takes all the room there is."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fill(self) -> None:
        with suppress(OSError), self._path.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        self._path.unlink(missing_ok=True)


class Site(Gateway):
    """One daemon, its KME and the relay in front of that."""

    def __init__(self, directory: Path, namespace: Namespace, name: str, address: str, kme: Kme) -> None:
        super().__init__(directory, namespace, name, address)
        self.kme = kme
        self.clock = SteppedClock(directory / f"clock-{name}")
        self.relay_options: tuple[str, ...] = ()
        self.outer = ""  # the peer's outer address
        self.said: list[str] = []
        (directory / f"{name}.log").touch()

    # the daemon

    def start(self) -> None:
        with (self.directory / f"{self.name}.log").open("a") as log:
            self.process = self.namespace.start(
                sys.executable, *self.program, "run", "--config", str(self.file), stdout=log, stderr=log,
                env=self.clock.environment,
            )  # fmt: skip

    def restart(self) -> None:
        """Start it, and wait until it is ready."""
        since = len(self.log)
        self.start()
        assert self.process is not None
        process = self.process
        wait_until(
            lambda: "event=daemon.ready" in self.log[since:] or process.poll() is not None, f"{self.name} again", READY
        )
        assert process.poll() is None, self.log[since:]

    def kill(self) -> None:
        assert self.process is not None
        kill(self.process)

    def look(self) -> Status | None:
        with suppress(QtunnelError):
            return ControlClient(self.socket, 5.0).status()
        return None

    @property
    def shown(self) -> PeerStatus | None:
        status = self.look()
        return status.peers[0] if status is not None and status.peers else None

    def audit_verified(self) -> tuple[int, str, str]:
        """``qtunnel audit verify``: exit code, standard output, standard error."""
        done = qtunnel("audit", "verify", "--config", self.file)
        return done.returncode, done.stdout, done.stderr

    def engine(self) -> int:
        status = self.look()
        assert status is not None
        assert status.node.engine_pid is not None
        return status.node.engine_pid

    def expiry(self) -> Expiry | None:
        """Of the epoch in force. None: unprotected."""
        asked = time.monotonic()
        peer = self.shown
        answered = time.monotonic()
        if peer is None or peer.epoch_in_force is None or peer.age_s is None or peer.max_age_s is None:
            return None
        left = peer.max_age_s - peer.age_s
        return Expiry(peer.epoch_in_force, asked + left, answered + left) if peer.protected else None

    def rekey(self) -> None:
        """Begin a rekey; its outcome is for the test to see."""

        def ask() -> None:
            with suppress(QtunnelError):
                ControlClient(self.socket).rekey({"alice": "bob", "bob": "alice"}[self.name])

        threading.Thread(target=ask, daemon=True).start()

    @contextmanager
    def small_disk(self) -> Iterator[Filler]:
        """The state directory on a file system of its own, small enough to be filled: the daemon is started anew."""
        place = self.directory / f"state-{self.name}"
        held = {path.name: path.read_bytes() for path in place.iterdir()}
        self.kill()
        run("mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(place))
        try:
            for name, content in held.items():
                (place / name).write_bytes(content)
                (place / name).chmod(0o600)
            self.restart()
            yield Filler(place / "filler")
        finally:
            self.kill()
            held = {path.name: path.read_bytes() for path in place.iterdir()}
            run("umount", str(place))
            for name, content in held.items():
                (place / name).write_bytes(content)
            self.restart()

    # names

    def know_names(self) -> None:
        """The peer's endpoint is a name, which this host's files know (ip-netns(8)); its name server never answers."""
        peer = self.config["peers"][0]
        peer["endpoint"] = f"{peer['name']}.example"
        self._names.mkdir(parents=True, exist_ok=True)
        (self._names / "hosts").write_text(f"127.0.0.1 localhost\n{self.outer} {peer['endpoint']}\n")
        (self._names / "resolv.conf").write_text("nameserver 198.51.100.1\n")

    def forget_names(self) -> None:
        (self._names / "hosts").write_text("127.0.0.1 localhost\n")

    def remove_names(self) -> None:
        shutil.rmtree(self._names, ignore_errors=True)
        with suppress(OSError):
            self._names.parent.rmdir()

    @property
    def _names(self) -> Path:
        return Path("/etc/netns") / self.namespace.name

    # the KME

    def start_kme(self) -> None:
        self.kme.start()
        self.kme.ready()

    def stop_kme(self) -> None:
        """Nobody listens where the gateway asks, nor where the partner does."""
        assert self.kme.process is not None
        kill(self.kme.process)
        self.tell("refuse")

    def resume_kme(self) -> None:
        self.start_kme()
        self.tell("pass")

    def start_relay(self) -> None:
        sae = f"sae-{self.name}"
        self._relay = self.namespace.start(
            sys.executable, "-m", "tests.faults.relay", str(RELAY_PORT), str(self.directory / "pki"), KME[self.name],
            sae, *self.relay_options, stdin=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        threading.Thread(target=self._listen, args=(self._relay,), daemon=True).start()
        self.hear("ready", 0)

    def _listen(self, relay: subprocess.Popen[str]) -> None:
        assert relay.stdout is not None
        for line in relay.stdout:
            self.said.append(line.strip())

    def tell(self, command: str) -> int:
        """A command for the relay, once it obeys; how many lines it had said before."""
        since = len(self.said)
        assert self._relay.stdin is not None
        self._relay.stdin.write(command + "\n")
        self._relay.stdin.flush()
        self.hear(f"is {command}", since)
        return since

    def hear(self, words: str, since: int) -> None:
        wait_until(lambda: words in self.said[since:], f"the relay of {self.name} says {words!r}: {self.said}", READY)

    # the network

    def rule(self, chain: str, rule: str) -> None:
        self.namespace.run("nft", "add", "rule", "inet", "fault", chain, rule)

    def clear(self) -> None:
        for chain in ("in", "out"):
            self.namespace.run("nft", "flush", "chain", "inet", "fault", chain)
        self.namespace.run("nft", "reset", "counter", "inet", "fault", "caught")

    def counted(self, table: str, counter: str) -> int:
        words = self.namespace.run("nft", "list", "counter", "inet", table, counter).stdout.split()
        return int(words[words.index("packets") + 1])

    @contextmanager
    def dropping(self, message: int) -> Iterator[None]:
        """Handshake messages of that type do not arrive."""
        self.rule("in", f"udp dport 51821 @th,64,8 {message} counter name caught drop")
        try:
            yield
        finally:
            self.clear()

    def caught(self) -> bool:
        return self.counted("fault", "caught") > 0


class FaultLab:
    """alice and bob. interval, max_age: of their rekeys, as in the configuration. engines: of alice and of bob. link:
    where it is an emulated one. subnet: of the gateways' outer addresses; the KMEs' is always 10.99.0."""

    def __init__(
        self, directory: Path, hosts: tuple[Namespace, Namespace], *, interval: str, max_age: str,
        engines: tuple[str, str] = (OWN, OWN), link: Link | None = None, subnet: str = "10.99.0",
    ) -> None:  # fmt: skip
        self.directory, self.own, self._link = directory, engines == (OWN, OWN), link
        self.broker: subprocess.Popen[str] | None = None
        kmes = Kmes(directory, hosts, saes=(("sae-carol",), ()))
        self.alice, self.bob = (
            Site(directory, host, name, TUNNEL[name], kme)
            for host, name, kme in zip(hosts, TUNNEL, kmes.each, strict=True)
        )
        self.sites = {"alice": self.alice, "bob": self.bob}
        higher, lower = sorted((Identity.create(os.urandom) for _ in range(2)), key=lambda one: one.public.id)[::-1]
        for site, identity in ((self.alice, higher), (self.bob, lower)):
            (directory / f"{site.name}.identity").unlink()
            identity.save(directory / f"{site.name}.identity")
            (directory / f"{site.name}.public").write_text(identity.public.to_text())
            site.identity = identity
            site.namespace.run("nft", "-f", "-", input=FILTER)
        pairs = ((self.alice, self.bob, f"{subnet}.2"), (self.bob, self.alice, f"{subnet}.1"))
        for (site, other, there), engine in zip(pairs, engines, strict=True):
            site.outer = there
            site.source("metro", f"https://127.0.0.1:{RELAY_PORT}")
            site.config["key_sources"]["metro"]["timeout"] = "15s"
            sources = {"metro": {"peer_sae_id": f"sae-{other.name}"}}
            site.peer(other.name, TUNNEL[other.name], there, {"sources": sources, "max_age": max_age})
            site.config["peers"][0]["rekey"] = {"interval": interval, "jitter": "0%"}
            site.config["tunnel"]["engine"] = engine
            site.config["node"]["listen"] = ["0.0.0.0:51821"]

    def start(self) -> None:
        for site in self.sites.values():
            site.start_kme()
            site.start_relay()
        for site in self.sites.values():
            site.start()
        for site in self.sites.values():
            site.ready()
        self.agree(0)

    def stop(self) -> None:
        """Also engines that outlived their daemons."""
        for site in self.sites.values():
            if site.process is not None and site.process.poll() is not None:
                with suppress(AssertionError):
                    site.restart()
            if site.process is not None:
                stop(site.process)
            site.remove_names()

    @property
    def link(self) -> Link:
        assert self._link is not None
        return self._link

    def traffic(self, seconds: int = 900) -> Traffic:
        rate = RATE if self.own else SLOW_RATE
        return Traffic(self.alice.namespace, self.bob.namespace, TUNNEL["bob"], seconds, rate)

    @property
    def epoch(self) -> int:
        """The newest that is installed at either end."""
        peers = [site.shown for site in self.sites.values()]
        return max((peer.epoch_installed or 0 for peer in peers if peer is not None), default=0)

    def agree(self, after: int, bound: float = 60.0) -> tuple[int, float]:
        """Until both ends are protected by the same epoch, later than ``after``, installed and in force. That epoch,
        and how many seconds it took."""
        begin = time.monotonic()

        def agreed() -> int:
            here, there = (site.shown for site in self.sites.values())
            if here is None or there is None or not (here.protected and there.protected):
                if not self.own:  # other engines begin no handshake before there is traffic
                    self.alice.namespace.run("ping", "-c", "1", "-W", "1", TUNNEL["bob"], check=False)
                return 0
            epochs = {here.epoch_installed, there.epoch_installed}
            if self.own:  # others tell for certain only what was in place 180 s ago
                epochs |= {here.epoch_in_force, there.epoch_in_force}
            return next(iter(epochs)) or 0 if len(epochs) == 1 else 0

        epoch: int = wait_until(lambda: (found := agreed()) > after and found, "a common epoch", bound)
        return epoch, time.monotonic() - begin

    def lead(self) -> None:
        """A fresh epoch that alice began, so that she is the one to begin the next."""
        before = self.epoch
        self.alice.rekey()
        self.agree(before)

    def leaked(self) -> int:
        """Packets for the other site that left in the clear, since the start."""
        return sum(site.counted("leak", "clear") for site in self.sites.values())

    @contextmanager
    def trap(self, message: int) -> Iterator[None]:
        """A rekey, of which that message never arrives while the block lasts."""
        receiver = self.sites[MESSAGES[message]]
        with receiver.dropping(message):
            self.alice.rekey()
            wait_until(receiver.caught, f"message {message} on its way")
            yield

    @contextmanager
    def hang(self, name: str, call: str) -> Iterator[None]:
        """A rekey that waits for the KME of that end."""
        site = self.sites[name]
        since = site.tell(f"hold {call}")
        try:
            self.alice.rekey()
            site.hear(f"held {call}", since)
            yield
        finally:
            site.tell("pass")


def reporting(lab: FaultLab) -> None:
    """Alice reports to a broker, where there is Mosquitto."""
    lab.broker = start_broker(lab.directory, lab.alice.namespace)
    if lab.broker is not None:
        lab.alice.config |= REPORTS


def named(lab: FaultLab) -> None:
    """Both know each other by names."""
    for site in lab.sites.values():
        site.know_names()


@contextmanager
def fault_lab(
    directory: Path, *, faulty_link: bool = False, prepare: Callable[[FaultLab], None] | None = None, **options: Any
) -> Iterator[FaultLab]:
    """With both ends protected; afterwards nothing of it is left. faulty_link: one that can be told to lose. prepare:
    what is done before anything is started."""
    with ExitStack() as stack:
        left, right = stack.enter_context(namespaces(2))
        link = stack.enter_context(emulated(left, right)) if faulty_link else None
        if link is None:
            join(left, right)
        left.address("eth0", "10.99.0.1/24")
        right.address("eth0", "10.99.0.2/24")
        if (subnet := options.get("subnet")) is not None:
            left.address("eth0", f"{subnet}.1/24")
            right.address("eth0", f"{subnet}.2/24")
        lab = FaultLab(directory, (left, right), link=link, **options)
        stack.callback(lab.stop)
        if prepare is not None:
            prepare(lab)
        lab.start()
        yield lab
