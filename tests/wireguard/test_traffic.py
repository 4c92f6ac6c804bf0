"""Real packets through real interfaces: with ourselves and with wireguard-go, in both roles and both families."""

from __future__ import annotations

import signal
import time

import pytest

from tests.support.netns import Namespace, namespaces, wait_until
from tests.support.ping import all_answered, answered, gaps, ping
from tests.wireguard.gateways import PORT, Gateway, tcp

pytestmark = pytest.mark.root

PSK = "5a" * 32
SIZE = 400_000


def both(sender: Gateway, receiver: Gateway) -> None:
    """Ping and TCP with IPv4 and IPv6 inside."""
    for version in (4, 6):
        sender.ping(receiver, version)
        tcp(sender, receiver, version, SIZE)


@pytest.mark.parametrize("outer", [4, 6])
def test_with_itself(gateways: tuple[Gateway, Gateway], outer: int) -> None:
    left, right = gateways
    right.meet(left, outer=outer, psk=PSK, endpoint=False)
    left.meet(right, outer=outer, psk=PSK)
    both(left, right)
    both(right, left)
    assert right.get("endpoint") == [f"{left.outer(outer)}:{PORT}"]


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("role", ["initiator", "responder"])
def test_with_wireguard_go(hosts: tuple[Namespace, Namespace], role: str, outer: int) -> None:
    ours = Gateway(hosts[0], 0)
    theirs = Gateway(hosts[1], 1, program="wireguard-go")
    initiator, responder = (ours, theirs) if role == "initiator" else (theirs, ours)
    try:
        responder.meet(initiator, outer=outer, psk=PSK, endpoint=False)
        initiator.meet(responder, outer=outer, psk=PSK)
        both(initiator, responder)
        both(responder, initiator)
        assert int(ours.get("rx_bytes")[0]) > 2 * SIZE
    finally:
        ours.close()
        theirs.close()


def test_counters_are_exact(gateways: tuple[Gateway, Gateway]) -> None:
    left, right = gateways
    right.meet(left)
    left.meet(right)
    left.ping(right, count=10)
    assert left.get("tx_bytes") == right.get("rx_bytes") == ["1428"]
    assert left.get("rx_bytes") == right.get("tx_bytes") == ["1372"]


def test_roaming_to_another_address_and_port(gateways: tuple[Gateway, Gateway]) -> None:
    left, right = gateways
    right.meet(left, endpoint=False)
    left.meet(right)
    left.ping(right)
    left.set("listen_port=0", f"public_key={right.public.hex()}", f"endpoint={right.outer(6)}:{PORT}")
    left.ping(right)
    (port,) = left.get("listen_port")
    assert port != str(PORT)
    assert right.get("endpoint") == [f"{left.outer(6)}:{port}"]
    right.ping(left)


def test_fwmark_is_on_outer_packets(gateways: tuple[Gateway, Gateway]) -> None:
    left, right = gateways
    right.meet(left)
    left.meet(right)
    left.ping(right)
    mark = "4294967295"  # which is no int of C
    left.set(f"fwmark={mark}")
    left.host.ip("rule", "add", "fwmark", mark, "prohibit")
    done = left.host.run("ping", "-c", "1", "-W", "1", right.inner(4), check=False)
    assert "100% packet loss" in done.stdout
    left.set("fwmark=0")
    left.ping(right)
    left.set("fwmark=2147483648", "listen_port=0")  # new sockets
    left.ping(right)


def test_a_link_set_down_and_up_again(gateways: tuple[Gateway, Gateway]) -> None:
    left, right = gateways
    right.meet(left)
    left.meet(right)
    left.ping(right)
    left.host.ip("link", "set", left.interface, "down")
    left.host.address(left.interface, f"{left.inner(6)}/64")
    left.ping(right)  # a new session; the old one ended with the link
    right.ping(left)


def test_an_interface_moved_to_another_namespace(gateways: tuple[Gateway, Gateway]) -> None:
    """Its sockets stay where it was made: the usual way to give a namespace nothing but the tunnel."""
    left, right = gateways
    right.meet(left)
    with namespaces(1) as (inside,):
        left.host.ip("link", "set", left.interface, "netns", inside.name)
        outside, left.host = left.host, inside
        left.meet(right)
        left.ping(right)
        right.ping(left, 6)
        left.host = outside


def test_a_psk_rotated_every_half_second_loses_no_ping(gateways: tuple[Gateway, Gateway]) -> None:
    left, right = gateways
    first = [f"preshared_key={1:064x}", "epoch=1"]
    right.meet(left)
    left.meet(right)
    right.set(f"public_key={left.public.hex()}", *first)
    left.set(f"public_key={right.public.hex()}", *first, "handshake=now")
    left.ping(right)
    pings = left.host.start("ping", "-n", "-i", "0.01", right.inner(4))
    for epoch in range(2, 9):
        keys = [f"preshared_key={epoch:064x}", f"epoch={epoch}"]
        keys += [f"previous_preshared_key={epoch - 1:064x}", f"previous_epoch={epoch - 1}"]
        ends = (right, left) if epoch % 2 else (left, right)  # either may be the first to switch
        ends[0].set(f"public_key={(left if ends[0] is right else right).public.hex()}", *keys, "handshake=now")
        time.sleep(0.1)
        ends[1].set(f"public_key={(left if ends[1] is right else right).public.hex()}", *keys, "handshake=now")
        wait_until(
            lambda: left.get("epoch") == right.get("epoch") == [str(epoch)],  # noqa: B023
            f"epoch {epoch} in force",
        )
        time.sleep(0.4)
    left.ping(right)
    pings.send_signal(signal.SIGINT)
    report = pings.communicate()[0]
    assert not gaps(report)
    assert len(answered(report)) > 7 * 10


def test_sessions_dropped_are_gone_at_once(gateways: tuple[Gateway, Gateway]) -> None:
    left, right = gateways
    right.meet(left)
    left.meet(right)
    left.ping(right)
    left.set(f"public_key={right.public.hex()}", f"preshared_key={7:064x}", "drop_sessions=true")
    done = left.host.run("ping", "-c", "2", "-W", "1", "-i", "0.2", right.inner(4), check=False)
    assert "100% packet loss" in done.stdout


def test_pings_are_answered_while_the_tunnel_is_full(gateways: tuple[Gateway, Gateway]) -> None:
    left, right = gateways
    right.meet(left)
    left.meet(right)
    left.ping(right)
    server = right.host.start("iperf3", "-s", "-1", "--forceflush")
    assert server.stdout is not None
    for line in server.stdout:
        if "listening" in line:
            break
    load = left.host.start("iperf3", "-c", right.inner(4), "-t", "3")
    done = left.host.run(*ping(right.inner(4), 30), check=False)
    assert all_answered(done.stdout, 30), done.stdout
    said = load.communicate(timeout=30)[0]
    assert "receiver" in said, said
