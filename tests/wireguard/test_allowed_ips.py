"""Longest-prefix routing against a linear search with the ipaddress module."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from qtunnel.wireguard.allowed_ips import AllowedIps, Prefix, Prefixes, network_of, prefix_of

# Few distinct bytes, so that prefixes nest and collide.
octet = st.sampled_from([0, 1, 127, 128, 255])
ipv4 = st.lists(octet, min_size=4, max_size=4).map(bytes)
ipv6 = st.lists(octet, min_size=16, max_size=16).map(bytes)
prefixes = st.one_of(st.builds(prefix_of, ipv4, st.integers(0, 32)), st.builds(prefix_of, ipv6, st.integers(0, 128)))
actions = st.sampled_from(["insert", "remove", "drop", "sweep"])
operations = st.lists(st.tuples(actions, prefixes, st.integers(1, 4)), max_size=40)


def network(prefix: Prefix) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network((network_of(prefix), prefix[1]))


def search(routes: dict[Prefix, int], address: bytes) -> int | None:
    wanted = ipaddress.ip_address(address)
    holding = [(prefix[1], peer) for prefix, peer in routes.items() if wanted in network(prefix)]
    return max(holding)[1] if holding else None


@given(operations, st.lists(st.one_of(ipv4, ipv6), min_size=1, max_size=20))
def test_it_routes_as_a_linear_search(changes: list[tuple[str, Prefix, int]], addresses: list[bytes]) -> None:
    table: AllowedIps[int] = AllowedIps()
    routes: dict[Prefix, int] = {}
    held = {peer: Prefixes(peer) for peer in range(1, 5)}
    for action, prefix, peer in changes:
        if action == "insert":
            table.insert(prefix, held[peer])
            routes.pop(prefix, None) if routes.get(prefix) != peer else None
            routes[prefix] = peer
        elif action == "remove":
            table.remove(prefix, held[peer])
            if routes.get(prefix) == peer:
                del routes[prefix]
        elif action == "drop":
            table.drop(held[peer])
            held[peer] = Prefixes(peer)
            routes = {prefix: owner for prefix, owner in routes.items() if owner != peer}
        else:
            table.sweep()
        for address in addresses:
            assert table.lookup(address) == search(routes, address)
        for owner in held:
            assert list(held[owner]) == [prefix for prefix, of in routes.items() if of == owner]
    while table.unswept:
        table.sweep()
    assert len(table._routes) == len(routes)


@given(st.one_of(ipv4, ipv6), st.integers(-1, 129))
def test_masking_clears_host_bits(address: bytes, length: int) -> None:
    if not 0 <= length <= len(address) * 8:
        try:
            prefix_of(address, length)
        except ValueError:
            return
        raise AssertionError("an impossible length was accepted")
    expected = ipaddress.ip_network((address, length), strict=False)
    assert network(prefix_of(address, length)) == expected


def test_the_cache_is_bounded() -> None:
    table: AllowedIps[int] = AllowedIps()
    table.insert(prefix_of(bytes(4), 0), Prefixes(1))
    for number in range(20_000):
        assert table.lookup(number.to_bytes(4, "big")) == 1
    assert len(table._cache) <= 4096


def test_very_many_are_dropped_at_once_and_swept_in_pieces() -> None:
    table: AllowedIps[int] = AllowedIps()
    many, one = Prefixes(1), Prefixes(2)
    for number in range(100_000):
        table.insert(prefix_of(number.to_bytes(4, "big"), 32), many)
    table.insert(prefix_of(bytes(4), 0), one)
    table.drop(many)
    assert table.lookup(bytes(4)) == 2
    table.insert(prefix_of(bytes(4), 32), one)  # one that was dropped and not swept yet
    pieces = 0
    while table.unswept:
        table.sweep()
        pieces += 1
    assert pieces >= 50
    assert len(table._routes) == 2
    assert table.lookup(bytes(4)) == 2
