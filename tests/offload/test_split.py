"""Splitting against a slow reference, and what it refuses."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.offload import vnet
from qtunnel.offload.chunk import chunk
from qtunnel.offload.errors import OffloadError
from qtunnel.offload.split import MAX_LAYOUTS, MAX_PLANS, Split, Splitter, padded
from tests.offload import reference
from tests.offload.reference import TCP, UDP, Packet
from tests.offload.strategies import TIMESTAMPS, content, super_packets

BUFFER = bytearray(80000)
SPLITTER = Splitter(BUFFER)
"""One for all tests: views and buffers are used again with other shapes, as in a running engine."""
CHUNKS = bytearray(200000)


def packets_of(split: Split) -> list[bytes]:
    """The packets without padding, after a check of the padding and of where they lie."""
    made = []
    for index in range(split.count):
        last = index == split.count - 1
        length = split.last_length if last else split.length
        size = split.last_padded if last else split.stride
        row = split.rows[index]
        assert row[:size] == split.buffer[index * split.stride : index * split.stride + size]
        assert row[length:size] == bytes(size - length)
        made.append(bytes(row[:length]))
    return made


def split_bytes(data: bytes, mtu: int = 1420, offset: int = 0) -> Split:
    BUFFER[offset : offset + len(data)] = data
    return SPLITTER.split(offset, len(data), mtu)


@given(
    super_packets(),
    st.sampled_from((0, 1, 6, 1024)),
    st.sampled_from((576, 1280, 1415, 1420, 9000)),
    st.integers(0, 99),
)
def test_a_super_packet_becomes_what_the_reference_makes_of_it(
    made: tuple[Packet, int], offset: int, mtu: int, hint: int
) -> None:
    packet, gso_size = made
    split = split_bytes(packet.super_packet(gso_size, hint), mtu, offset)
    expected = reference.split(packet, gso_size)
    assert packets_of(split) == expected
    assert split.stride == padded(split.length, mtu)
    assert split.last_padded == padded(split.last_length, mtu)


@given(super_packets(options=False))
def test_every_packet_has_good_checksums(made: tuple[Packet, int]) -> None:
    packet, gso_size = made
    for single in packets_of(split_bytes(packet.super_packet(gso_size))):
        assert reference.checksums_good(single)
        if packet.protocol == UDP:
            assert struct.unpack_from(">H", single, packet.transport_offset + 6) != (0,)


@given(super_packets(options=False))
def test_a_super_packet_with_a_verified_checksum_is_split_alike(made: tuple[Packet, int]) -> None:
    packet, gso_size = made
    header = vnet.VnetHeader(vnet.DATA_VALID, packet.gso_type(), packet.header_size, gso_size)
    assert packets_of(split_bytes(header.pack() + packet.pack())) == reference.split(packet, gso_size)


@given(super_packets(), st.integers(1, 60))
def test_the_packets_of_all_chunks_are_the_packets_of_the_whole(made: tuple[Packet, int], most: int) -> None:
    packet, gso_size = made
    data = packet.super_packet(gso_size)
    BUFFER[: len(data)] = data
    chunks = [bytes(blob) for blob in chunk(BUFFER, 0, len(data), most, CHUNKS)]
    singles = []
    for blob in chunks:
        split = split_bytes(blob)
        assert split.count <= most
        singles += packets_of(split)
    expected = reference.split(packet, gso_size)
    if packet.protocol == TCP:  # a completed checksum of 0 is written as 0xffff, as the kernel does
        singles, expected = ([_with_zero_as_ones(p, packet) for p in group] for group in (singles, expected))
    assert singles == expected


def _with_zero_as_ones(single: bytes, packet: Packet) -> bytes:
    field = packet.transport_offset + 16
    return single[:field] + b"\xff\xff" + single[field + 2 :] if single[field : field + 2] == b"\0\0" else single


@given(super_packets(), st.sampled_from((576, 1420, 9000)))
def test_a_single_packet_gets_its_checksum_and_its_padding(made: tuple[Packet, int], mtu: int) -> None:
    packet, _ = made
    offset = 6 if packet.protocol == UDP else 16
    header = vnet.VnetHeader(vnet.NEEDS_CSUM, csum_start=packet.transport_offset, csum_offset=offset)
    split = split_bytes(header.pack() + packet.pack(partial=True), mtu)
    (single,) = packets_of(split)
    expected = packet.pack()
    assert _with_zero_as_ones(single, packet) == _with_zero_as_ones(expected, packet)
    assert split.last_padded == padded(len(expected), mtu)


def test_a_whole_packet_goes_through_unchanged() -> None:
    for size in (1, 20, 61, 1419, 1420, 1421, 65535):
        data = content(size, 5)
        assert packets_of(split_bytes(vnet.ZERO + data)) == [data]


def test_padding_goes_to_sixteen_but_not_beyond_the_mtu() -> None:
    assert [padded(size, 1420) for size in (1, 16, 1408, 1409, 1420, 1421)] == [16, 16, 1408, 1420, 1420, 1421]


def test_the_shapes_kept_are_bounded() -> None:
    splitter = Splitter(BUFFER)
    for gso_size in range(100, 100 + 3 * MAX_LAYOUTS):
        data = Packet(payload=bytes(1000)).super_packet(gso_size)
        BUFFER[: len(data)] = data
        splitter.split(0, len(data), 1420)
        assert len(splitter._layouts) <= MAX_LAYOUTS


GOOD = Packet(payload=bytes(3000)).super_packet(1000)
GOOD_V6 = Packet(version=6, payload=bytes(3000)).super_packet(1000)


def changed(data: bytes, at: int, *values: int) -> bytes:
    return data[:at] + bytes(values) + data[at + len(values) :]


REFUSED = [
    (GOOD[:9], "vnet header has 10 bytes"),
    (GOOD[:10], "packet of 0 bytes"),
    (changed(GOOD, 0, 4), "vnet flags"),
    (changed(GOOD, 1, 3), "GSO type 0x3"),
    (changed(GOOD, 1, 2), "GSO type 0x2"),
    (changed(GOOD, 1, 0x85), "GSO type 0x85"),
    (changed(GOOD, 1, 4), "GSO type 0x4 of IPv4"),
    (changed(GOOD, 1, 5), "GSO type 0x5 of IPv4"),
    (changed(GOOD_V6, 1, 1), "GSO type 0x1 of IPv6"),
    (changed(GOOD, 4, 0, 0), "segments of 0 bytes"),
    (changed(GOOD, 4, 0xFF, 0xFF), "segments of 65535"),
    (changed(GOOD, 4, 1, 0), "3000 segments"),
    (changed(GOOD, 6, 22, 0), "checksum at 22"),
    (changed(GOOD, 8, 6, 0), "checksum at 20 + 6"),
    (changed(GOOD, 6, 0xFF, 0xFF), "checksum at 65535"),
    (changed(GOOD, 10, 0x44), "IPv4 header of 16 bytes"),
    (changed(GOOD, 10, 0x55), "IP version 5"),
    (changed(GOOD, 16, 0x20), "fragment"),
    (changed(GOOD, 16, 0x00, 0x01), "fragment"),
    (changed(GOOD, 42, 0x40), "TCP header of 16 bytes"),
    (changed(GOOD, 19, 1), "protocol 1"),
    (GOOD[:-1], "IP packet of 3040 bytes in 3039"),
    (GOOD_V6[:-1], "IP packet of 3060 bytes in 3059"),
    (changed(GOOD_V6, 16, 44), "protocol 44"),
    (Packet(payload=b"").super_packet(10), "without payload"),
    (
        vnet.VnetHeader(0, vnet.GSO_TCPV6, 0, 100).pack()
        + Packet(version=6, payload=bytes(200), ip_options=bytes((6, 0, 1, 4, 0, 0, 0, 0))).pack(),
        "extension headers",
    ),
]


@pytest.mark.parametrize("data, named", REFUSED, ids=[named for _, named in REFUSED])
def test_what_is_not_sound_is_refused_by_name(data: bytes, named: str) -> None:
    with pytest.raises(OffloadError, match=named.replace("+", r"\+")):
        split_bytes(data)


@given(st.integers(0, 2**32), st.booleans(), st.data())
def test_hostile_bytes_raise_nothing_else(seed: int, six: bool, data: st.DataObject) -> None:
    """Changed bytes of a good super-packet: refused, or split into packets that lie within their room."""
    source = random.Random(seed)
    packet = bytearray(GOOD_V6 if six else GOOD)
    for _ in range(data.draw(st.integers(0, 6))):
        packet[source.randrange(70)] = source.randrange(256)
    blob = bytes(packet[: source.choice((len(packet), source.randrange(len(packet) + 1)))])
    try:
        split = split_bytes(blob)
    except OffloadError:
        return
    sizes = (split.count - 1) * split.stride + split.last_padded
    assert sizes <= len(split.buffer)
    assert len(packets_of(split)) == split.count


@given(st.booleans(), st.sampled_from((b"", TIMESTAMPS)), st.data())
def test_one_like_a_known_one_is_checked_and_split_as_if_it_were_the_first(
    six: bool, options: bytes, data: st.DataObject
) -> None:
    packet = Packet(version=6 if six else 4, payload=content(3000, 7), tcp_options=options)
    known = packet.super_packet(1000)
    split_bytes(known)
    length = len(known)
    places = st.sampled_from((*range(20), 42, 62))  # vnet header, IP header up to the checksum, TCP's data offset
    changes = data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=2))
    like = bytearray(known)
    for at, value in changes:
        like[at] = value
    if data.draw(st.booleans()):
        length -= data.draw(st.integers(1, 2000))
    outcomes = []
    for splitter in (SPLITTER, Splitter(BUFFER)):
        BUFFER[: len(like)] = like
        try:
            split = splitter.split(0, length, 1420)
            outcomes.append([bytes(split.buffer[: (split.count - 1) * split.stride + split.last_padded]), split.count])
        except OffloadError as error:
            outcomes.append([str(error)])
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("checksum", range(5))
def test_a_header_checksum_that_counts_down_below_zero(checksum: int) -> None:
    packet = Packet(payload=content(300, 3))
    first = reference.split(packet, 100)[0]
    above = int.from_bytes(first[10:12], "big") - checksum
    packet = replace(packet, identification=(packet.identification + above) % 0xFFFF)
    expected = reference.split(packet, 100)
    assert int.from_bytes(expected[0][10:12], "big") == checksum
    assert packets_of(split_bytes(packet.super_packet(100))) == expected


def test_the_super_packets_known_are_bounded() -> None:
    splitter = Splitter(BUFFER)
    for size in range(2000, 2000 + 3 * MAX_PLANS):
        data = Packet(payload=bytes(size)).super_packet(1000)
        BUFFER[: len(data)] = data
        splitter.split(0, len(data), 1420)
        assert len(splitter._plans) <= MAX_PLANS


def test_chunks_have_room_or_are_refused() -> None:
    BUFFER[: len(GOOD)] = GOOD
    with pytest.raises(OffloadError, match="do not fit"):
        chunk(BUFFER, 0, len(GOOD), 1, bytearray(3000))
    with pytest.raises(OffloadError, match="0 segments"):
        chunk(BUFFER, 0, len(GOOD), 0, CHUNKS)
    assert [bytes(blob) for blob in chunk(BUFFER, 0, len(GOOD), 3, CHUNKS)] == [GOOD]
