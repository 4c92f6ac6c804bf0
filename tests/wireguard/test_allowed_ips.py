"""Longest-prefix routing against a linear search with the ipaddress module."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from qtunnel.wireguard.allowed_ips import AllowedIps, Prefix

# Few distinct bytes, so that prefixes nest and collide.
octet = st.sampled_from([0, 1, 127, 128, 255])
ipv4 = st.lists(octet, min_size=4, max_size=4).map(bytes)
ipv6 = st.lists(octet, min_size=16, max_size=16).map(bytes)
prefixes = st.one_of(
    st.builds(Prefix.masked, ipv4, st.integers(0, 32)), st.builds(Prefix.masked, ipv6, st.integers(0, 128))
)
operations = st.lists(st.tuples(st.booleans(), prefixes, st.integers(1, 4)), max_size=40)


def network(prefix: Prefix) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network((prefix.network, prefix.length))


def search(routes: dict[Prefix, int], address: bytes) -> int | None:
    wanted = ipaddress.ip_address(address)
    holding = [(prefix.length, peer) for prefix, peer in routes.items() if wanted in network(prefix)]
    return max(holding)[1] if holding else None


@given(operations, st.lists(st.one_of(ipv4, ipv6), min_size=1, max_size=20))
def test_it_routes_as_a_linear_search(changes: list[tuple[bool, Prefix, int]], addresses: list[bytes]) -> None:
    table: AllowedIps[int] = AllowedIps()
    routes: dict[Prefix, int] = {}
    for add, prefix, peer in changes:
        if add:
            assert table.insert(prefix, peer) == routes.get(prefix)
            routes[prefix] = peer
        else:
            table.remove([prefix])
            routes.pop(prefix, None)
        for address in addresses:
            assert table.lookup(address) == search(routes, address)


@given(st.one_of(ipv4, ipv6), st.integers(-1, 129))
def test_masking_clears_host_bits(address: bytes, length: int) -> None:
    if not 0 <= length <= len(address) * 8:
        try:
            Prefix.masked(address, length)
        except ValueError:
            return
        raise AssertionError("an impossible length was accepted")
    expected = ipaddress.ip_network((address, length), strict=False)
    assert network(Prefix.masked(address, length)) == expected


def test_the_cache_is_bounded() -> None:
    table: AllowedIps[int] = AllowedIps()
    table.insert(Prefix(bytes(4), 0), 1)
    for number in range(20_000):
        assert table.lookup(number.to_bytes(4, "big")) == 1
    assert len(table._cache) <= 4096
