"""Chunks taken together again: the same packets, in fewer writes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from qtunnel.offload import vnet
from qtunnel.offload.chunk import chunk
from qtunnel.offload.errors import OffloadError
from qtunnel.offload.headers import FIN, PSH, RST, SYN, URG
from qtunnel.offload.rejoin import rejoin
from qtunnel.offload.split import Splitter
from tests.offload.reference import TCP, Packet
from tests.offload.strategies import super_packets

BUFFER = bytearray(80000)
SPLITTER = Splitter(BUFFER)


def chunks(made: tuple[Packet, int], most: int) -> list[memoryview]:
    """Each with memory of its own, as decrypted."""
    packet, gso_size = made
    data = bytearray(packet.super_packet(gso_size))
    return [memoryview(bytearray(piece)) for piece in chunk(data, 0, len(data), most, bytearray(400_000))]


def packets(item: bytes) -> list[bytes]:
    """What an item, or what was written, stands for; itself where it is unsound."""
    BUFFER[: len(item)] = item
    try:
        split = SPLITTER.split(0, len(item), 9000)
    except OffloadError:
        return [item]
    lengths = [split.length] * (split.count - 1) + [split.last_length]
    return [bytes(row[:length]) for row, length in zip(split.rows, lengths, strict=False)]


def rejoined(items: list[memoryview]) -> list[bytes]:
    return [b"".join(write) for write in rejoin(items)]


def simple(packet: Packet) -> bool:
    """TCP that goes in one piece with its like, without options of IP."""
    return (
        packet.protocol == TCP
        and packet.transport_offset == (20 if packet.version == 4 else 40)
        and not packet.flags & (SYN | RST | URG)
    )


@settings(deadline=None)
@given(super_packets(), st.integers(1, 60))
def test_a_chunked_super_packet_is_one_again(made: tuple[Packet, int], most: int) -> None:
    packet, gso_size = made
    items = chunks(made, most)
    writes = rejoined(items)
    if simple(packet) and most > 1 and len(items) > 1:
        assert len(writes) == 1
        assert packets(writes[0]) == packets(packet.super_packet(gso_size))
    elif len(items) == 1 or not simple(packet):
        assert writes == [bytes(item) for item in items]


@settings(deadline=None)
@given(st.lists(st.tuples(super_packets(), st.integers(2, 20)), min_size=1, max_size=3), st.data())
def test_whatever_happens_to_a_piece_the_packets_are_the_same(
    sent: list[tuple[tuple[Packet, int], int]], data: st.DataObject
) -> None:
    """Pieces may be missing, swapped or changed in their headers."""
    items = [item for made, most in sent for item in chunks(made, most)]
    which = data.draw(st.integers(0, len(items) - 1))
    match data.draw(st.sampled_from(["missing", "swapped", "changed"])):
        case "missing":
            del items[which]
        case "swapped":
            other = data.draw(st.integers(0, len(items) - 1))
            items[which], items[other] = items[other], items[which]
        case _:
            at = data.draw(st.integers(vnet.SIZE, min(len(items[which]), 80) - 1))
            items[which][at] ^= data.draw(st.integers(1, 255))
    expected = [packet for item in items for packet in packets(bytes(item))]
    assert [packet for write in rejoined(items) for packet in packets(write)] == expected


def test_what_is_rejoined_has_no_more_segments_than_a_super_packet_may_have() -> None:
    """Each segment costs the kernel a microsecond, of however few bytes it is."""
    items = []
    for number in range(6):
        part = Packet(version=6, protocol=TCP, payload=bytes(1000), flags=0x10, sequence=1000 * number)
        items.append(memoryview(bytearray(part.super_packet(1))))
    assert rejoined(items) == [bytes(item) for item in items]
    for item in items:
        item[4:6] = (10).to_bytes(2, "little")  # segments of 10 bytes
    assert len(rejoined(items)) < 6


@settings(deadline=None)
@given(super_packets(), st.sampled_from([FIN, PSH]))
def test_what_was_pushed_is_not_held_back(made: tuple[Packet, int], flag: int) -> None:
    """A piece that ends a run is its last."""
    items = chunks(made, 2)
    if simple(made[0]) and len(items) > 2:
        transport = made[0].transport_offset
        for item in items:
            item[vnet.SIZE + transport + 13] &= ~(FIN | PSH)
        items[1][vnet.SIZE + transport + 13] |= flag
        assert len(rejoined(items)) == 1 + (len(items) > 2)
