"""Vnet headers of others: what goes with which packet."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.offload import vnet
from qtunnel.offload.errors import OffloadError
from qtunnel.offload.headers import parse
from qtunnel.offload.items import MAX_RULES, MIN_SEGMENT, NOTHING, ItemRules, header_size
from tests.offload.reference import TCP, UDP, Packet
from tests.offload.strategies import super_packets


def size(item: bytes) -> int:
    return header_size(ItemRules().rule(item[: vnet.SIZE]), memoryview(item))


def packet(version: int, protocol: int, payload: int = 3000, *, options: bytes = b"") -> Packet:
    return Packet(version=version, protocol=protocol, payload=bytes(payload), ip_options=options, flags=0x10)


def with_header(item: bytes, **fields: int) -> bytes:
    header = vnet.parse(item, 0, len(item))._replace(**fields)
    return header.pack() + item[vnet.SIZE :]


@given(super_packets(), st.integers(0, 200))
def test_what_a_kernel_writes_fits_and_its_headers_are_measured(made: tuple[Packet, int], hint: int) -> None:
    whole, gso_size = made
    item = whole.super_packet(gso_size, hint)
    tiny = item[1] and gso_size < MIN_SEGMENT
    assert size(item) == (-1 if tiny else parse(item, vnet.SIZE, len(item)).size)


def test_a_whole_packet_with_real_checksums_fits() -> None:
    item = vnet.ZERO + packet(4, TCP, 100).super_packet(1000, 0)[vnet.SIZE :]
    assert size(item) == 0


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_headers_that_do_not_go_with_the_packet(version: int, protocol: int) -> None:
    item = packet(version, protocol).super_packet(1000, 0)
    right = vnet.parse(item, 0, len(item))
    others = {vnet.GSO_TCPV4, vnet.GSO_TCPV6, vnet.GSO_UDP_L4} - {right.gso_type}
    wrong: list[dict[str, int]] = [{"gso_type": other} for other in others]
    wrong += [{"csum_offset": {TCP: 6, UDP: 16}[protocol]}, {"csum_offset": 2}, {"csum_start": 0}]
    wrong += [{"csum_start": right.csum_start + 2}, {"csum_start": 900}, {"gso_size": 1}]
    for fields in wrong:
        assert size(with_header(item, **fields)) == -1, fields
    assert size(with_header(item, hdr_len=65535)) == size(item)  # it is only a hint


@pytest.mark.parametrize("words", range(5))
@pytest.mark.parametrize("flags", [0, vnet.NEEDS_CSUM])
def test_a_transport_header_within_that_of_ip_is_none(words: int, flags: int) -> None:
    """To the kernel that is the packet of a super-packet, which it would cut there."""
    item = bytearray(packet(4, UDP).super_packet(1000, 0))
    item[vnet.SIZE] = 0x40 | words
    assert size(with_header(bytes(item), flags=flags, csum_start=4 * words)) == -1


@pytest.mark.parametrize("field", [{"flags": 4}, {"gso_type": 2}, {"gso_type": vnet.GSO_TCPV4, "gso_size": 0}])
def test_headers_that_are_none(field: dict[str, int]) -> None:
    header = vnet.VnetHeader()._replace(**field)
    assert ItemRules().rule(header.pack()) is NOTHING


@given(super_packets(), st.data())
def test_cut_short_anywhere_it_is_refused_or_still_has_its_headers(
    made: tuple[Packet, int], data: st.DataObject
) -> None:
    whole, gso_size = made
    item = whole.super_packet(gso_size, 0)
    shortest = vnet.SIZE + (20 if whole.version == 4 else 40)
    end = data.draw(st.integers(shortest, len(item)))
    found = size(item[:end])
    assert found == -1 or found <= end - vnet.SIZE


@given(st.binary(min_size=vnet.SIZE, max_size=vnet.SIZE), st.binary(min_size=40, max_size=200))
def test_any_bytes(header: bytes, rest: bytes) -> None:
    item = header + rest
    found = size(item)
    assert -1 <= found <= len(rest)
    if found > 0:
        with contextlib.suppress(OffloadError):  # it looks at lengths and fragments, too
            assert parse(item, vnet.SIZE, len(item)).size == found


def test_rules_are_bounded() -> None:
    rules = ItemRules()
    for start in range(3 * MAX_RULES):
        rules.rule(vnet.VnetHeader(csum_start=start).pack())
    assert len(rules._rules) <= MAX_RULES
