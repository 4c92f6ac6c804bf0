"""An interface that is moved to another network namespace, or renamed, while its process runs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.conformance.observe import counted, datagrams_sent, stays_silent
from tests.support.netns import Namespace, namespaces, wait_until
from tests.wireguard.gateways import Gateway, socket_path

pytestmark = pytest.mark.root


@pytest.fixture
def moved(gateways: tuple[Gateway, Gateway]) -> Iterator[tuple[Gateway, Gateway, Namespace]]:
    """Two gateways, the left one's interface in a namespace of its own; and where its process is."""
    left, right = gateways
    outside = left.host
    with namespaces(1) as (inside,):
        outside.ip("link", "set", left.interface, "netns", inside.name)
        left.host = inside
        try:
            yield left, right, outside
        finally:
            left.host = outside


def test_an_interface_that_is_down_there_sends_nothing(moved: tuple[Gateway, Gateway, Namespace]) -> None:
    left, right, outside = moved
    right.meet(left)
    left.meet(right)
    left.ping(right)
    left.host.ip("link", "set", left.interface, "down")
    left.set(f"public_key={right.public.hex()}", "persistent_keepalive_interval=1")
    assert stays_silent(outside)
    sent = datagrams_sent(outside)
    left.host.ip("link", "set", left.interface, "up")
    wait_until(lambda: datagrams_sent(outside) > sent, "the keepalive begins when the link comes up")


def test_a_new_interface_is_down_after_the_move(moved: tuple[Gateway, Gateway, Namespace]) -> None:
    left, right, outside = moved
    left.set(
        f"private_key={left.private.hex()}",
        f"public_key={right.public.hex()}",
        f"endpoint={right.outer(4)}:51820",
        "persistent_keepalive_interval=1",
    )
    assert stays_silent(outside)


def test_the_mtu_there_is_the_one_that_padding_ends_at(moved: tuple[Gateway, Gateway, Namespace]) -> None:
    left, right, _ = moved
    right.meet(left)
    left.meet(right)
    left.ping(right)
    left.host.ip("link", "set", left.interface, "mtu", "1300")
    before = counted(left)[0]
    left.host.run("ping", "-c", "1", "-W", "5", "-s", "1269", right.inner(4))  # 1297 bytes of packet
    assert counted(left)[0] - before == 32 + 1300


def test_the_same_name_in_the_old_namespace_is_another_interface(moved: tuple[Gateway, Gateway, Namespace]) -> None:
    left, right, outside = moved
    right.meet(left)
    left.meet(right)
    left.ping(right)
    (handshake,) = left.get("last_handshake_time_nsec")
    outside.ip("link", "add", left.interface, "type", "veth", "peer", "name", "other")  # it is down
    outside.ip("link", "del", left.interface)
    left.ping(right)
    assert left.get("last_handshake_time_nsec") == [handshake]  # the session never ended


def test_it_ends_when_its_interface_is_deleted_there(moved: tuple[Gateway, Gateway, Namespace]) -> None:
    left, _, _ = moved
    left.host.ip("link", "del", left.interface)
    assert "went away" in left.process.communicate(timeout=10)[0]
    assert not socket_path(left.interface).exists()


def test_it_does_not_keep_the_namespace_alive(gateways: tuple[Gateway, Gateway]) -> None:
    left, _ = gateways
    with namespaces(1) as (inside,):
        left.host.ip("link", "set", left.interface, "netns", inside.name)
        assert left.answers()
    assert "went away" in left.process.communicate(timeout=10)[0]  # with the namespace, its interface


def test_a_renamed_interface(gateways: tuple[Gateway, Gateway]) -> None:
    left, right = gateways
    right.meet(left)
    left.meet(right)
    left.host.ip("link", "set", left.interface, "down")
    left.host.ip("link", "set", left.interface, "name", "renamed")
    left.set(f"public_key={right.public.hex()}", "persistent_keepalive_interval=1")
    assert stays_silent(left.host)
    left.host.ip("link", "set", "renamed", "up")
    left.ping(right)
    left.host.ip("link", "add", left.interface, "type", "veth", "peer", "name", "other")  # whose name it was
    before = [largest(left.host, name) for name in (left.interface, "renamed")]
    left.host.ip("link", "set", "renamed", "mtu", "1300")
    wait_until(lambda: largest(left.host, "renamed") != before[1], "super-packets fit the new MTU")
    assert largest(left.host, left.interface) == before[0]


def largest(host: Namespace, interface: str) -> int:
    """Bytes of a super-packet of that interface."""
    (link,) = json.loads(host.ip("-d", "-j", "link", "show", interface))
    return int(link["gso_max_size"])
