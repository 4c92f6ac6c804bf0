"""Gateways that move, stand behind NAT, are known by name, or have a clock that goes back: real ones, in namespaces."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon.hub import TUNNEL, Hub, running_hub
from tests.daemon.kmes import QTUNNEL
from tests.daemon.lab import Gateway
from tests.support.netns import Namespace, join, wait_until
from tests.support.ping import all_answered, ping

pytestmark = pytest.mark.root

LONG = 90.0
"""Seconds for what takes a failed attempt and another one; several times what an idle machine needs."""
RESPONSE, COMMIT, COMMITTED = 2, 3, 4


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Hub]:
    """Not running yet; both rekey every 2 s."""
    with running_hub(tmp_path, start=()) as made:
        made.config["peers"] = [made.peer("b")]
        for gateway in (made.hub, made.b):
            gateway.config["peers"][0]["rekey"] = {"interval": "2s"}
        yield made


@pytest.fixture
def hosts() -> Iterator[Callable[[Gateway, str], None]]:
    """Writes the hosts file that a gateway's host has; it can be written anew while that runs."""
    made: list[Path] = []

    def of(gateway: Gateway, text: str) -> None:
        directory = Path("/etc/netns") / gateway.namespace.name  # where ip-netns(8) finds a namespace's own files
        directory.mkdir(parents=True, exist_ok=True)
        made.append(directory)
        (directory / "hosts").write_text(f"127.0.0.1 localhost\n{text}\n")
        (directory / "resolv.conf").write_text("nameserver 198.51.100.1\n")

    yield of
    for directory in made:
        shutil.rmtree(directory, ignore_errors=True)
    with contextlib.suppress(OSError):
        Path("/etc/netns").rmdir()


def entry(gateway: Gateway) -> dict[str, object]:
    found: dict[str, object] = gateway.config["peers"][0]
    return found


def epoch(gateway: Gateway, peer: str) -> int:
    return gateway.status(peer)[1]["epoch_in_force"] or 0


def reaches(host: Namespace, address: str) -> bool:
    return all_answered(host.run(*ping(address, 2, patience=4), check=False).stdout, 2)


def start(*gateways: Gateway) -> None:
    for gateway in gateways:
        gateway.start()
    for gateway in gateways:
        gateway.ready()


def goes_on(lab: Hub, *, by: str = "hub") -> None:
    """More epochs come into force at both ends, and packets pass that ``by`` sends first."""
    before = max(epoch(lab.hub, "b"), epoch(lab.b, "hub"))  # one that has just started has none in force
    wait_until(lambda: epoch(lab.hub, "b") >= before + 2, "more epochs at the hub", LONG)
    wait_until(lambda: epoch(lab.b, "hub") >= before + 2, "more epochs at the branch", LONG)
    here, there = (lab.hub, TUNNEL["b"]) if by == "hub" else (lab.b, TUNNEL["hub"])
    wait_until(lambda: reaches(here.namespace, there), "packets", LONG)


def moves(host: Namespace, old: str, new: str, interface: str = "eth0") -> None:
    """Another address on the same link. The old one goes first: with it go those that came after it."""
    host.ip("addr", "del", f"{old}/24", "dev", interface)
    host.address(interface, f"{new}/24")


@pytest.mark.parametrize("initiator", ["hub", "b"])
def test_a_gateway_that_moves_is_found_by_its_name(
    lab: Hub, hosts: Callable[[Gateway, str], None], initiator: str
) -> None:
    """Where only one end has an endpoint for the other, so nothing but the name tells it; there and back again."""
    one, other = (lab.hub, lab.b) if initiator == "hub" else (lab.b, lab.hub)
    home, away = ("10.99.0.2", "10.99.0.22") if other is lab.b else ("10.99.0.1", "10.99.0.11")
    entry(one)["endpoint"] = "gw.example"
    del entry(other)["endpoint"]
    # A host with IPv6 tries that first (RFC 6724); the gateway on it has no socket for it.
    one.namespace.address("eth0", "fd99::1/64")
    six = "fd99::9 gw.example\n"
    hosts(one, f"{six}{home} gw.example")
    assert one.namespace.run("getent", "ahosts", "gw.example").stdout.startswith("fd99::9")
    start(other, one)
    assert one.status("b" if other is lab.b else "hub")[1]["handshake_endpoint"] == f"{home}:51821"
    goes_on(lab, by=initiator)
    for old, new in ((home, away), (away, home)):
        moves(other.namespace, old, new)
        hosts(one, f"{six}{new} gw.example")
        goes_on(lab, by=initiator)


def test_a_gateway_that_moves_tells_the_one_that_has_no_name_for_it(lab: Hub) -> None:
    start(lab.hub, lab.b)
    goes_on(lab)
    moves(lab.b.namespace, "10.99.0.2", "10.99.0.22")
    goes_on(lab)
    assert "event=endpoint.moved" in lab.hub.log


def test_a_name_that_changes_from_ipv4_to_ipv6(lab: Hub, hosts: Callable[[Gateway, str], None]) -> None:
    lab.hub.namespace.address("eth0", "fd99::1/64")
    lab.b.namespace.address("eth0", "fd99::2/64")
    for gateway in (lab.hub, lab.b):
        gateway.config["node"]["listen"] = ["0.0.0.0:51821", "[::]:51821"]
    entry(lab.hub)["endpoint"] = "gw.example"
    hosts(lab.hub, "10.99.0.2 gw.example")
    del entry(lab.b)["endpoint"]
    start(lab.b, lab.hub)
    goes_on(lab)
    lab.b.namespace.ip("addr", "del", "10.99.0.2/24", "dev", "eth0")
    hosts(lab.hub, "fd99::2 gw.example")
    goes_on(lab)
    assert lab.hub.status("b")[1]["handshake_endpoint"] == "[fd99::2]:51821"


def drop(host: Namespace, kind: int) -> None:
    """Messages of one type of the handshake do not leave."""
    host.run("nft", "add", "table", "ip", "stop")
    host.run("nft", "add", "chain", "ip", "stop", "out", "{ type filter hook output priority 0; }")
    host.run(
        "nft", "add", "rule", "ip", "stop", "out", "udp", "sport", "51821", "@th,64,8", str(kind), "counter", "drop"
    )


def dropped(host: Namespace) -> bool:
    return "packets 0 " not in host.run("nft", "list", "chain", "ip", "stop", "out").stdout


def pass_again(host: Namespace) -> None:
    host.run("nft", "delete", "table", "ip", "stop")


@pytest.mark.parametrize("who", ["hub", "b"])
@pytest.mark.parametrize("kind", [RESPONSE, COMMIT, COMMITTED])
def test_an_address_that_changes_between_two_messages(lab: Hub, kind: int, who: str) -> None:
    """Whichever end moves, and whichever of the three messages after the first is under way then."""
    start(lab.hub, lab.b)
    goes_on(lab)
    ends = (lab.hub.namespace, lab.b.namespace)
    for host in ends:
        drop(host, kind)
    wait_until(lambda: any(dropped(host) for host in ends), "the message", LONG)
    if who == "hub":
        moves(ends[0], "10.99.0.1", "10.99.0.11")
    else:
        moves(ends[1], "10.99.0.2", "10.99.0.22")
    for host in ends:
        pass_again(host)
    goes_on(lab)


def test_behind_nat_whose_outer_address_changes(tmp_path: Path) -> None:
    """The branch stands behind a router that masquerades; the hub has no endpoint for it and never had."""
    with running_hub(tmp_path, start=()) as lab:
        router, branch = lab.b.namespace, lab.c
        join(router, branch.namespace, "inner")
        router.address("inner", "192.168.5.1/24")
        branch.namespace.address("inner", "192.168.5.2/24")
        branch.namespace.ip("link", "del", "eth1")
        branch.namespace.ip("route", "add", "default", "via", "192.168.5.1")
        router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        router.run("nft", "add", "table", "ip", "nat")
        router.run("nft", "add", "chain", "ip", "nat", "post", "{ type nat hook postrouting priority 100; }")
        router.run("nft", "add", "rule", "ip", "nat", "post", "oifname", "eth0", "masquerade", "fully-random")
        of_branch = lab.peer("c")
        lab.config["peers"] = [of_branch]
        del of_branch["endpoint"]
        of_branch["rekey"] = {"interval": "2s"}
        branch.config["peers"][0] |= {
            "endpoint": "10.99.0.1",
            "persistent_keepalive": "1s",
            "rekey": {"interval": "2s"},
        }
        start(lab.hub, branch)
        lab.hub.protected("c")

        def on() -> None:
            before = epoch(lab.hub, "c")
            wait_until(lambda: epoch(lab.hub, "c") >= before + 2, "more epochs", LONG)
            wait_until(lambda: reaches(lab.hub.namespace, TUNNEL["c"]), "the hub reaches the branch", LONG)
            wait_until(lambda: reaches(branch.namespace, TUNNEL["hub"]), "the branch reaches the hub", LONG)

        on()
        assert lab.hub.status("c")[1]["endpoint"].startswith("10.99.0.2:")
        moves(router, "10.99.0.2", "10.99.0.22")  # which makes masquerade forget its connections
        on()
        assert lab.hub.status("c")[1]["endpoint"].startswith("10.99.0.22:")
        assert "event=endpoint.moved" in lab.hub.log


CLOCK = """
import os, time
_time, _time_ns = time.time, time.time_ns
def _offset():
    try:
        with open({file!r}) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0
time.time = lambda: _time() + _offset()
time.time_ns = lambda: _time_ns() + _offset() * 10**9
"""
HOUR = 3600


class Clock:
    """The wall clock of one gateway's processes, daemon and engine, which a test sets."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._place = gateway.directory / f"clock-{gateway.name}"
        self._place.mkdir()
        (self._place / "sitecustomize.py").write_text(CLOCK.format(file=str(self._place / "offset")))

    def set(self, seconds: int) -> None:
        new = self._place / "new"
        new.write_text(str(seconds))
        new.replace(self._place / "offset")

    def start(self) -> None:
        path = os.pathsep.join([str(self._place), os.environ.get("PYTHONPATH", os.getcwd())])
        with (self._gateway.directory / f"{self._gateway.name}.log").open("w") as log:
            self._gateway.process = self._gateway.namespace.start(
                *QTUNNEL, "run", "--config", str(self._gateway.file), stdout=log, stderr=log,
                env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip
        self._gateway.ready()


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("who", ["hub", "b"])
def test_a_clock_that_is_set_back(lab: Hub, who: str, restarts: bool) -> None:
    """By a day, which no overlap of the two ends explains; the other end sends nothing by itself."""
    one, other = (lab.hub, lab.b) if who == "hub" else (lab.b, lab.hub)
    del entry(other)["endpoint"]
    clock = Clock(one)
    clock.set(24 * HOUR)
    start(other)
    clock.start()
    goes_on(lab, by=who)
    clock.set(0)
    if restarts:
        one.end()
        clock.start()
    goes_on(lab, by=who)
