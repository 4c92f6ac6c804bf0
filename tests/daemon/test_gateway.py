"""What a gateway does to the host that it runs on, and what not: real daemons, real interfaces and routes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qtunnel.engines.bypass import mark_of
from qtunnel.engines.interface import guard_metric_of
from tests.daemon.sites import Site, protected, two_sites
from tests.support.netns import gone, wait_until

pytestmark = pytest.mark.root

MARK = mark_of(51820)
INSIDE = "10.8.1.1"
"""An address that alice's configuration sends into the tunnel."""
BREAKS = """
import sys
from qtunnel.daemon.tunnel import Tunnel
from qtunnel.cli.main import main
async def fails(self):
    raise RuntimeError("for the test")
Tunnel.reconcile = fails
main()
"""


BREAKS_ONCE = """
import functools
from qtunnel.daemon.endpoints import Endpoints
from qtunnel.daemon.gateway import Gateway
from qtunnel.daemon.tunnel import Tunnel
from qtunnel.cli.main import main
def once(owner, name, after=0):
    real, calls = getattr(owner, name), []
    @functools.wraps(real)
    async def fails(self, *arguments):
        calls.append(name)
        if len(calls) == 1 + after:
            raise RuntimeError(f"for the test: {name}")
        return await real(self, *arguments)
    setattr(owner, name, fails)
once(Tunnel, "reconcile")
once(Tunnel, "mend")
once(Gateway, "_look")
once(Tunnel, "_bring_up", after=1)
once(Endpoints, "_look_up", after=1)
main()
"""
"""Each kind of look fails once; the second start of the engine, and the look-ups after the first, which starts need.
The look itself, and not what it asks the engine for: whoever wants the status asks for the same, and on a busy machine
is the first to do so. Then the look never failed, and the test waited for that in vain."""


BREAKS_AT_THE_END = """
import asyncio
from qtunnel.daemon.endpoints import Endpoints
from qtunnel.cli.main import main
async def fails(self):
    try:
        await asyncio.Event().wait()
    finally:
        raise RuntimeError("for the test")
Endpoints.watch = fails
main()
"""


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    with two_sites(tmp_path) as made:
        yield made


@pytest.fixture
def alice(sites: tuple[Site, Site]) -> Site:
    """A host with a default route elsewhere; the peer does not run."""
    host = sites[0].host
    host.ip("route", "add", "default", "via", "10.99.0.2")
    wait_until(
        lambda: "tentative" not in host.ip("-6", "addr") and "fe80" in host.ip("-6", "route"), "the link to settle"
    )
    return sites[0]


def ends(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
    process.send_signal(number)
    return process.wait(30)


def test_a_second_daemon_is_refused_and_takes_nothing_from_the_first(sites: tuple[Site, Site]) -> None:
    alice, bob = sites
    alice.host.ip("route", "add", "default", "via", "10.99.0.2")
    first = alice.start()
    bob.start()
    wait_until(lambda: protected(alice), "a first epoch")
    before = alice.host.ip("route"), alice.host.ip("-6", "route"), alice.host.ip("rule")
    assert "control" in alice.refused()
    # Another configuration file with the same interface, ports and state, as of a name that was changed.
    text = alice.config.read_text()
    for words, remedy in (
        ("another qtunnel", "state_dir: state-alice"),
        ("port 51821 is taken", "state_dir: state-other"),
        ("interface name", "state_dir: state-other\n  listen: ['0.0.0.0:40000']"),
    ):
        other = text.replace("alice.sock", "other.sock").replace("state_dir: state-alice", remedy)
        alice.config.write_text(other)
        assert words in alice.refused()
    alice.config.write_text(text)
    assert (alice.host.ip("route"), alice.host.ip("-6", "route"), alice.host.ip("rule")) == before
    assert alice.ping("10.77.0.2")
    assert first.poll() is None
    assert "interface.altered" not in alice.log, "it was undone, and put back"


def test_a_network_interface_of_that_name_is_left_as_it_is(alice: Site) -> None:
    alice.write(interface="eth0")
    before = alice.host.ip("-br", "addr", "show", "eth0"), alice.host.ip("route"), alice.host.ip("-6", "route")
    assert "interface name eth0 is taken" in alice.refused()
    after = alice.host.ip("-br", "addr", "show", "eth0"), alice.host.ip("route"), alice.host.ip("-6", "route")
    assert after == before


def test_a_clean_end_takes_everything_away(alice: Site) -> None:
    before = alice.host.ip("route"), alice.host.ip("-6", "route"), alice.host.ip("rule"), alice.host.ip("-6", "rule")
    process = alice.start()
    assert alice.way(INSIDE) == alice.interface
    assert ends(process) == 0
    after = alice.host.ip("route"), alice.host.ip("-6", "route"), alice.host.ip("rule"), alice.host.ip("-6", "rule")
    assert after == before
    assert alice.interface not in alice.host.links()


def test_an_internal_error_leaves_nothing_to_go_in_the_clear(alice: Site) -> None:
    broken = alice.start(program=("-c", BREAKS))
    assert broken.wait(30) == 1
    assert alice.interface not in alice.host.links()
    assert (alice.way(INSIDE), alice.way("10.77.0.2"), alice.way("192.0.2.1")) == ("unreachable", "unreachable", "eth0")
    assert "event=tunnel.guarded" in alice.log
    assert f"ip route del unreachable PREFIX metric {guard_metric_of(51820)}" in alice.log
    (alice.directory / "alice.log").write_text("")
    process = alice.start()
    assert alice.way(INSIDE) == alice.interface
    assert ends(process) == 0
    assert alice.way(INSIDE) == "eth0"


def test_a_look_that_fails_once_is_told_and_the_next_one_goes_on(sites: tuple[Site, Site]) -> None:
    alice, bob = sites
    process = alice.start(program=("-c", BREAKS_ONCE))
    bob.start()
    wait_until(lambda: protected(alice) and alice.ping("10.77.0.2"), "traffic", 60)
    os.kill(alice.status()["node"]["engine_pid"], signal.SIGKILL)
    wait_until(lambda: "event=engine.restarted" in alice.log, "another engine", 60)
    wait_until(lambda: protected(alice) and alice.ping("10.77.0.2"), "traffic again", 60)
    wait_until(lambda: alice.log.count("event=look.defect") >= 5, "all of them have failed", 60)
    for name, look in (
        ("reconcile", "reconcile"), ("mend", "mend"), ("_look", "look"), ("_bring_up", "restart"),
        ("_look_up", "endpoints"),
    ):  # fmt: skip
        assert any(
            f"for the test: {name}" in line and f"look={look}" in line
            for line in alice.log.splitlines()
            if "event=look.defect" in line
        ), alice.log
    assert process.poll() is None
    assert ends(process) == 0


def test_a_part_that_fails_as_it_is_ended_does_not_turn_a_wish_into_a_failure(alice: Site) -> None:
    process = alice.start(program=("-c", BREAKS_AT_THE_END))
    assert ends(process) == 0
    assert "event=daemon.defect" in alice.log, "it is told all the same"
    assert alice.way(INSIDE) == "eth0"


@pytest.fixture
def names() -> Iterator[Callable[[Site, str], None]]:
    """Sets what a site's programs find in the hosts file; all else they would ask a name server that nobody runs."""
    made: list[Path] = []

    def of(site: Site, hosts: str) -> None:
        directory = Path("/etc/netns") / site.host.name  # where ip-netns(8) finds a namespace's own files
        directory.mkdir(parents=True, exist_ok=True)
        made.append(directory)
        (directory / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}\n")
        (directory / "resolv.conf").write_text("nameserver 198.51.100.1\n")

    yield of
    for directory in made:
        shutil.rmtree(directory, ignore_errors=True)
    with contextlib.suppress(OSError):
        Path("/etc/netns").rmdir()


def test_a_name_that_can_be_looked_up_only_through_the_tunnel_does_not_lock_the_gateway_out(
    sites: tuple[Site, Site], names: Callable[[Site, str], None]
) -> None:
    alice, bob = sites
    alice.write(endpoint="gw.example", allowed="0.0.0.0/0, '::/0'")
    bob.write(endpoint="10.99.0.9")  # nobody: alice has to begin
    names(alice, "10.99.0.2 gw.example")
    bob.start()
    first = alice.start()
    wait_until(lambda: protected(alice), "a first epoch")
    engine = alice.status()["node"]["engine_pid"]
    ends(first, signal.SIGKILL)
    os.kill(engine, signal.SIGKILL)  # which would go on else, and with it the tunnel
    wait_until(lambda: gone(engine), "the engine's end")
    # The kernel takes its interface away a moment later.
    wait_until(lambda: alice.way("198.51.100.1") == "unreachable", "DNS to be kept in, too")
    (alice.directory / "alice.log").write_text("")
    names(alice, "")
    alice.start()
    assert "event=endpoint.unresolved" in alice.log
    wait_until(lambda: protected(alice), "another epoch")


def test_what_somebody_undoes_is_told_and_put_back(sites: tuple[Site, Site]) -> None:
    alice, bob = sites
    alice.start()
    bob.start()
    wait_until(lambda: protected(alice), "a first epoch")
    alice.host.ip("link", "set", alice.interface, "down")
    wait_until(lambda: "event=interface.altered" in alice.log, "the link's end is noticed")
    wait_until(lambda: alice.ping("10.77.0.2"), "traffic again")
    assert (alice.way(INSIDE), alice.way("fd77::2")) == (alice.interface, alice.interface)
    assert "the link is down" in str(alice.status()["peers"][0]["last_error"])
    wait_until(lambda: alice.status()["node"]["state"] == "up", "the status is good again")
    alice.host.ip("route", "del", "10.8.0.0/16", "dev", alice.interface)
    wait_until(lambda: "missing: route to 10.8.0.0/16; put back" in alice.log, "the route's end is noticed")
    wait_until(lambda: alice.way(INSIDE) == alice.interface, "the route")


def test_a_prefix_that_another_interface_gets_is_not_protected(alice: Site) -> None:
    process = alice.start()
    wait_until(lambda: alice.status()["node"]["state"] == "up", "the start")
    alice.host.ip("route", "add", "10.8.0.0/16", "dev", "eth0", "table", "100")
    alice.host.ip("rule", "add", "lookup", "100", "pref", "100")
    assert alice.way(INSIDE) == "eth0"
    wait_until(lambda: alice.status()["node"]["state"] == "interface-altered", "it is noticed")
    assert "missing: way to 10.8.0.0/16 (eth0 has it, by a route, an address or a rule); remove that" in alice.log
    alice.host.ip("rule", "del", "pref", "100")
    wait_until(lambda: alice.status()["node"]["state"] == "up", "the status is good again")
    assert ends(process) == 0


@pytest.mark.parametrize("engine", ["qtunnel", "wireguard-go"])
@pytest.mark.parametrize("version", [4, 6])
def test_an_endpoint_inside_the_tunnel_is_passed_by_the_tunnels_own_datagrams_alone(
    sites: tuple[Site, Site], engine: str, version: int
) -> None:
    """With names as endpoints, an answer that nobody has authenticated chooses the address."""
    alice, bob = sites
    there, here = ("10.99.0.2", "10.99.0.1") if version == 4 else ("fd99::2", "fd99::1")
    inside = f"{there}/32" if version == 4 else f"{there}/128"  # more specific than the link's own prefix
    alice.write(engine=engine, endpoint=there, allowed=f'10.77.0.2/32, "fd77::2/128", "{inside}", 0.0.0.0/0, ::/0')
    bob.write(engine=engine, endpoint=here)
    alice.start()
    bob.start()
    wait_until(lambda: alice.ping("10.77.0.2"), "traffic")
    assert alice.ping("fd77::2")
    assert alice.way(there) == alice.interface, "the peer's own address is no exception"
    assert alice.way(there, MARK) == "eth0"
    assert alice.way("198.51.100.1") == alice.interface
    counters = "cat", f"/sys/class/net/{alice.interface}/statistics/tx_packets"
    before = int(alice.host.run(*counters).stdout)
    alice.ping(there)  # nobody answers in there, but this is where it has to go
    assert int(alice.host.run(*counters).stdout) > before
