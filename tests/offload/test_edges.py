"""Packets at the edges of what is one, and memories that are full."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from qtunnel.offload import runs, vnet
from qtunnel.offload.chunk import chunk
from qtunnel.offload.coalesce import Coalescer
from qtunnel.offload.errors import OffloadError
from qtunnel.offload.headers import FIN, PSH, RST, SYN, URG, parse, skip_extensions
from qtunnel.offload.items import MIN_SEGMENT, ItemRules, header_size
from qtunnel.offload.rejoin import rejoin
from qtunnel.offload.split import MAX_PACKET, Splitter
from tests.offload.reference import ACK, TCP, UDP, Packet, split
from tests.offload.test_coalesce import check, coalesced
from tests.offload.test_rejoin import packets, rejoined

SEGMENT = 1000
WHOLE = Packet(payload=bytes(range(250)) * 16, identification=7, sequence=5)
"""Four segments."""


def pieces(packet: Packet = WHOLE, most: int = 1) -> list[memoryview]:
    """A super-packet in chunks of so many segments, each with memory of its own."""
    data = bytearray(packet.super_packet(SEGMENT))
    return [memoryview(bytearray(one)) for one in chunk(data, 0, len(data), most, bytearray(100_000))]


@pytest.mark.parametrize("version", [4, 6])
def test_pieces_of_one_are_joined(version: int) -> None:
    packet = replace(WHOLE, version=version)
    assert rejoined(pieces(packet, 2)) == [packet.super_packet(SEGMENT)]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("what", "at"),
    [("another address", 15), ("another port", 1), ("a gap in the sequence", 7), ("another window", 15), ("URG", 13)],
)
def test_a_piece_that_does_not_go_on_begins_anew(version: int, what: str, at: int) -> None:
    items = pieces(replace(WHOLE, version=version), 2)
    transport = 20 if version == 4 else 40
    items[1][vnet.SIZE + (at if what == "another address" else transport + at)] ^= 0x20
    assert rejoined(items) == [bytes(item) for item in items]


@pytest.mark.parametrize("at", [1, 5, 10])
def test_a_piece_with_another_ipv4_header_begins_anew(at: int) -> None:
    """Traffic class, ID, checksum."""
    items = pieces(most=2)
    items[1][vnet.SIZE + at] ^= 0x01
    assert rejoined(items) == [bytes(item) for item in items]


@pytest.mark.parametrize("flag", [FIN, SYN, RST, PSH, URG])
def test_a_piece_with_these_flags_begins_nothing(flag: int) -> None:
    items = pieces(most=2)
    items[0][vnet.SIZE + 20 + 13] |= flag
    assert rejoined(items) == [bytes(item) for item in items]


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (vnet.SIZE, 0x46),  # options of IPv4 that the vnet header does not count
        (vnet.SIZE + 9, UDP),  # TCP by the vnet header, UDP by IP's
        (vnet.SIZE + 20 + 12, 0x40),  # a TCP header of 16 bytes
        (vnet.SIZE + 3, 0),  # another length than it has
        (0, 0),  # no checksum to be made
        (6, 24),  # which begins elsewhere
        (8, 6),  # or stands elsewhere
    ],
)
def test_a_piece_that_is_not_what_it_seems_begins_nothing(at: int, value: int) -> None:
    items = pieces(most=2)
    items[0][at] = value
    assert rejoined(items) == [bytes(item) for item in items]


def test_a_piece_without_payload_neither_begins_nor_goes_on() -> None:
    items = pieces(most=2)
    bare = memoryview(bytearray(items[1][: vnet.SIZE + 40]))
    for order in ([bare, items[0]], [items[0], bare]):
        assert rejoined(order) == [bytes(item) for item in order]


def test_no_more_is_joined_than_an_ip_packet_holds() -> None:
    size = 30 * SEGMENT
    made = [
        memoryview(bytearray(replace(WHOLE, version=6, payload=bytes(size), sequence=at * size).super_packet(SEGMENT)))
        for at in range(3)
    ]
    writes = rejoined(made)
    assert len(writes) == 2
    assert [one for write in writes for one in packets(write)] == [one for it in made for one in packets(bytes(it))]


def test_a_last_piece_that_is_one_packet_is_joined_and_ends_the_run() -> None:
    packet = replace(WHOLE, payload=WHOLE.payload + b"the end")
    items = pieces(packet, 2)
    assert items[-1][1] == vnet.GSO_NONE
    assert rejoined(items) == [packet.super_packet(SEGMENT)]
    longer = pieces(replace(packet, sequence=packet.sequence + len(packet.payload)), 2)
    assert len(list(rejoin([*items, *longer]))) == 2


def test_a_rule_is_made_once() -> None:
    rules, item = ItemRules(), WHOLE.super_packet(SEGMENT)
    assert rules.rule(item[: vnet.SIZE]) is rules.rule(bytes(item[: vnet.SIZE]))


@pytest.mark.parametrize(("protocol", "shortest"), [(TCP, 20), (UDP, 8)])
@pytest.mark.parametrize("version", [4, 6])
def test_an_item_has_its_whole_transport_header(version: int, protocol: int, shortest: int) -> None:
    packet = replace(WHOLE, version=version, protocol=protocol)
    item = packet.super_packet(SEGMENT)
    rule, end = ItemRules().rule(item[: vnet.SIZE]), vnet.SIZE + packet.transport_offset + shortest
    assert header_size(rule, memoryview(item)[:end]) == packet.transport_offset + shortest
    assert header_size(rule, memoryview(item)[: end - 1]) == -1


def test_segments_have_at_least_so_many_bytes() -> None:
    for size, found in ((MIN_SEGMENT, WHOLE.header_size), (MIN_SEGMENT - 1, -1)):
        item = WHOLE.super_packet(size)
        assert header_size(ItemRules().rule(item[: vnet.SIZE]), memoryview(item)) == found


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_too_short_for_its_tcp_header_is_refused(version: int) -> None:
    whole = replace(WHOLE, version=version, payload=b"").pack()
    short = bytearray(whole[:-1])
    at = 2 if version == 4 else 4
    short[at : at + 2] = (int.from_bytes(short[at : at + 2], "big") - 1).to_bytes(2, "big")
    assert parse(whole, 0, len(whole)).protocol == TCP
    with pytest.raises(OffloadError, match=rf"^{len(short)} bytes hold no TCP header$"):
        parse(short, 0, len(short))


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_headers_that_are_longer_than_their_packet_are_refused(protocol: int) -> None:
    whole = bytearray(replace(WHOLE, protocol=protocol, payload=b"").pack())
    if protocol == TCP:
        whole[20 + 12] = 15 << 4
    else:
        del whole[-1]
        whole[2:4] = len(whole).to_bytes(2, "big")
    with pytest.raises(OffloadError, match=f"^headers of {80 if protocol == TCP else 28} bytes in a packet of"):
        parse(whole, 0, len(whole))


def test_extension_headers_without_end_are_not_followed_for_ever() -> None:
    option = struct.pack(">BB6x", 60, 0)
    packet = b"\x60" + bytes(5) + b"\x3c" + bytes(33) + option * 100
    assert len(packet) == 840
    transport, protocol = skip_extensions(packet, 0, len(packet))
    assert protocol == 60
    assert transport < 840


def test_a_packet_that_is_no_super_packet_is_its_only_chunk() -> None:
    item = vnet.ZERO + WHOLE.pack()
    (one,) = chunk(bytearray(b"!!" + item), 2, len(item), 1, bytearray(100))
    assert bytes(one) == item


def test_chunks_have_at_least_a_segment() -> None:
    data = bytearray(WHOLE.super_packet(SEGMENT))
    with pytest.raises(OffloadError, match="chunks of 0 segments"):
        chunk(data, 0, len(data), 0, bytearray(100_000))


@pytest.mark.parametrize("length", [0, MAX_PACKET + 1])
def test_a_single_packet_has_a_length_that_packets_have(length: int) -> None:
    splitter = Splitter(bytearray(80_000))
    with pytest.raises(OffloadError, match=f"^a packet of {length} bytes, {MAX_PACKET} is the most$"):
        splitter.split(0, vnet.SIZE + length, 0)
    assert splitter.split(0, vnet.SIZE + max(1, length - 1), 0).count == 1


def test_nothing_is_nothing_to_coalesce() -> None:
    assert Coalescer(bytearray(100), uso=True).coalesce_mixed(0, 50, []) == []


def test_one_packet_whatever_the_length_of_others() -> None:
    """As where a burst has one packet, whose length is that of the last."""
    packet = WHOLE.pack()
    buffer = bytearray(packet + bytes(100))
    (write,) = Coalescer(buffer, uso=True).coalesce(0, len(packet), 1, len(packet) + 50, len(packet))
    assert b"".join(write) == vnet.ZERO + packet


def test_more_flows_than_are_remembered_are_coalesced_all_the_same() -> None:
    """Of each flow two packets, of TCP headers' lengths more than 4 shapes."""
    singles: list[bytes] = []
    for number in range(70):
        options = b"\x01" * 4 * (number % 6)
        flow = Packet(
            version=6, payload=bytes(2 * (200 - len(options))), flags=ACK, traffic_class=number, tcp_options=options
        )
        singles += split(flow, 200 - len(options))
    assert len({len(packet) for packet in singles}) == 1
    assert check(singles) == [2] * 70
    assert len(coalesced(singles)) == 70


def test_memory_of_headers_is_bounded_and_what_was_forgotten_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends through the tunnel picks what is in them."""
    monkeypatch.setattr(runs, "_MAX_SIGNATURES", 4)
    stretch = runs.Stretch(buffer := bytearray(10_000), 0, 1040, 1040)
    for time_to_live in [*range(1, 20)] * 2:
        buffer[:1040] = replace(WHOLE, payload=bytes(1000), hop_limit=time_to_live).pack()
        assert stretch.form(0) == parse(buffer, 0, 1040)
        assert len(stretch._forms) <= 4
