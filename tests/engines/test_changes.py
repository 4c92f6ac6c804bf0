"""Everything that decides where packets go is heard of when it changes; the real kernel tells."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from qtunnel.engines.changes import Changes
from tests.engines.namespaces import Namespace, run

CHANGES = [
    "link set va down",
    "link set va group 7",
    "link set va mtu 1400",
    "addr add 192.0.2.1/24 dev va",
    "addr add fd99::1/64 dev va nodad",
    "route add 198.51.100.0/24 dev va",
    "route add unreachable 203.0.113.0/24 metric 5",
    "-6 route add fd98::/64 dev va",
    "rule add to 198.51.100.0/24 lookup 77",
    "-6 rule add to fd98::/64 lookup 77",
    "link del va",
]


def settled(heard: Changes) -> Changes:
    """Addresses of IPv6 and carriers come by themselves a moment later; here nothing waits for them."""
    while heard.heard():
        pass
    return heard


@pytest.mark.root
@pytest.mark.parametrize("change", CHANGES)
def test_it_is_heard_of_once(namespace: Namespace, change: str) -> None:
    run("sysctl", "-qw", "net.ipv6.conf.default.addr_gen_mode=1")
    run("ip", "link", "add", "va", "type", "veth", "peer", "name", "vb")
    for device in ("va", "vb"):
        run("ip", "link", "set", device, "up")
    heard = settled(Changes())
    run("ip", *change.split())
    assert heard.heard()
    settled(heard)
    heard.close()


@pytest.mark.root
def test_more_changes_than_there_is_room_for_are_changes(namespace: Namespace, tmp_path: Path) -> None:
    heard = settled(Changes())
    routes = [f"route add unreachable 198.18.{number}.{last}/32\n" for number in range(8) for last in range(250)]
    (tmp_path / "routes").write_text("".join(routes))
    run("ip", "-batch", str(tmp_path / "routes"))
    assert heard.heard()
    assert not settled(heard).heard()
    heard.close()


def test_where_it_cannot_listen_everything_may_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(socket, "socket", refuse)
    deaf = Changes()
    assert [deaf.heard(), deaf.heard()] == [True, True]
    deaf.close()
