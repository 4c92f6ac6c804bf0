"""Super-packets of a TUN: split, cut in chunks, taken together again, each against the slow reference of the tests."""

from __future__ import annotations

import random
from dataclasses import replace

from qtunnel.offload import vnet
from qtunnel.offload.chunk import chunk
from qtunnel.offload.errors import OffloadError
from qtunnel.offload.headers import parse
from qtunnel.offload.items import ItemRules, header_size
from qtunnel.offload.rejoin import rejoin
from tests.fuzz.draw import Draw, spoiled
from tests.fuzz.target import Target
from tests.offload import reference
from tests.offload.reference import TCP, UDP, Packet
from tests.offload.strategies import TIMESTAMPS
from tests.offload.test_coalesce import check as check_coalesced
from tests.offload.test_rejoin import packets as packets_of_item
from tests.offload.test_split import CHUNKS, packets_of, split_bytes

NOISE = random.Random(5).randbytes(70_000)
MTUS = (1420, 576, 1280, 1415, 9000, 0)


def draw_packet(draw: Draw, most: int = 6000) -> Packet:
    version, protocol = draw.choice((4, 6)), draw.choice((TCP, UDP))
    size = draw.choice((1, 20, 100, 1400, 2000, 3001, draw.number(0, most)))
    options = b""
    if draw.flag(6):
        options = bytes((protocol, 0, 1, 4, 0, 0, 0, 0)) if version == 6 else b"\x01" * 8
    return Packet(
        version=version,
        protocol=protocol,
        payload=draw.choice((NOISE, bytes(70_000), b"\xff" * 70_000))[: min(size, most)],
        ports=(draw.choice((1000, 65535)), 80),
        traffic_class=draw.choice((0, 255)),
        hop_limit=draw.choice((64, 0, 255)),
        identification=draw.choice((7, 0, 65535)),
        dont_fragment=not draw.flag(),
        flow_label=draw.choice((0, 2**20 - 1)),
        ip_options=options,
        sequence=draw.choice((1, 2**32 - 5, draw.number(0, 2**32 - 1))),
        acknowledgment=draw.choice((0, 2**32 - 1)),
        flags=draw.choice((16, 24, 17, 144, draw.number(0, 255))),
        window=draw.choice((0, 65535)),
        urgent=draw.choice((0, 7)),
        tcp_options=draw.choice((b"", TIMESTAMPS, b"\x01" * 40)),
    )


def draw_item(draw: Draw) -> tuple[bytes, Packet, int]:
    """A super-packet, a packet whose checksum is partial, or one that is whole, behind its vnet header."""
    packet = draw_packet(draw)
    gso_size = draw.choice((1400, 48, 100, 1000, draw.number(1, 2000)))
    match draw.number(0, 3):
        case 0:
            item = vnet.ZERO + packet.pack()
        case 1:
            offset = 6 if packet.protocol == UDP else 16
            header = vnet.VnetHeader(vnet.NEEDS_CSUM, csum_start=packet.transport_offset, csum_offset=offset)
            item = header.pack() + packet.pack(partial=True)
        case _:
            item = packet.super_packet(gso_size, draw.number(0, 200))
    return item, packet, gso_size


def split(data: bytes) -> None:
    """What the reference makes of a sound super-packet; of any other ``OffloadError``, or packets within its bounds."""
    draw = Draw(data)
    mtu, offset = draw.choice(MTUS), draw.choice((0, 1, 6))
    if draw.flag(4):
        item = draw.rest()
        made = packets_of(split_bytes(item, mtu, offset))
        assert made
        return
    item, packet, gso_size = draw_item(draw)
    sound = item[1] != 0 and bool(packet.payload)
    spoilt = spoiled(draw, item[:80], 2) + item[80:] if draw.flag(3) else item
    made = packets_of(split_bytes(spoilt, mtu, offset))
    if sound and spoilt == item:
        assert made == reference.split(packet, gso_size)
    else:
        assert sum(map(len, made)) <= len(made) * 65535
        assert len(made) == 1 or all(one[0] >> 4 in (4, 6) for one in made)


def chunks(data: bytes) -> None:
    """A super-packet in smaller ones: splitting these gives what splitting it gives, and taken together they give it
    again."""
    draw = Draw(data)
    most = draw.choice((1, 2, 7, 60, 0))
    item, packet, _ = draw_item(draw)
    item = spoiled(draw, item[:80], 2) + item[80:] if draw.flag(3) else item
    pieces = [bytes(piece) for piece in chunk(bytearray(item), 0, len(item), most, CHUNKS)]
    whole = packets_of(split_bytes(item, 9000))
    parts = [one for piece in pieces for one in packets_of(split_bytes(piece, 9000))]
    if packet.protocol == TCP:  # a completed checksum of 0 is written as 0xffff, as the kernel does
        field = (parse(item, vnet.SIZE, len(item)).transport if item[1] else packet.transport_offset) + 16
        whole, parts = ([_ones(one, field) for one in group] for group in (whole, parts))
    assert parts == whole
    _check_rejoined([memoryview(bytearray(piece)) for piece in pieces])


def _ones(packet: bytes, field: int) -> bytes:
    return packet[:field] + b"\xff\xff" + packet[field + 2 :] if packet[field : field + 2] == b"\0\0" else packet


def _check_rejoined(items: list[memoryview]) -> None:
    before = [one for item in items for one in packets_of_item(bytes(item))]
    after = [one for write in rejoin(items) for one in packets_of_item(b"".join(write))]
    assert after == before


def rejoined(data: bytes) -> None:
    """Items of a record, which go on where another ends or seem to: written in fewer pieces, they stand for the same
    packets."""
    draw = Draw(data)
    items: list[memoryview] = []
    packet, gso_size = draw_packet(draw, 2500), draw.choice((48, 100, 500))
    for _ in range(draw.number(1, 5)):
        payload = packet.payload[: draw.choice((gso_size * 2, gso_size, gso_size * 3 - 7, 5))]
        one = replace(packet, payload=payload or b"x")
        if draw.flag(4):
            one = replace(one, flags=draw.number(0, 255), window=draw.choice((packet.window, 3)))
        item = one.super_packet(gso_size)
        items.append(memoryview(bytearray(spoiled(draw, item, 1) if draw.flag(4) else item)))
        step = draw.choice((len(one.payload), len(one.payload), 1))
        count = -(-len(one.payload) // gso_size)
        packet = replace(packet, sequence=packet.sequence + step, identification=packet.identification + count)
        if not draw.left:
            break
    rules = ItemRules()
    sound = [item for item in items if len(item) > 50 and header_size(rules.rule(bytes(item[:10])), item) >= 0]
    if sound:
        _check_rejoined(sound)


def coalesced(data: bytes) -> None:
    """Packets side by side: what is written is, split again, what came, in its order, and each run is one that the
    kernel would make as well."""
    draw = Draw(data)
    packets: list[bytes] = []
    flow = draw_packet(draw, 300)
    for _ in range(draw.number(1, 40)):
        size = draw.choice((len(flow.payload), len(flow.payload), len(flow.payload), 10, 0))
        one = replace(flow, payload=NOISE[:size])
        if draw.flag(5):
            one = replace(one, flags=draw.number(0, 255))
        packed = one.pack()
        if draw.flag(6):
            packed = spoiled(draw, packed, 2)
        packets.append(packed or b"x")
        steps = draw.choice((1, 1, 1, 0))
        flow = replace(flow, sequence=flow.sequence + size * steps, identification=flow.identification + steps)
        if not draw.left:
            break
    uso = not draw.flag(4)
    packets = [packet[:70_000] for packet in packets]
    if sum(map(len, packets)) > 1 << 18:
        return
    counts = check_coalesced(packets, draw.choice((0, 1, 16)), draw.choice((0, 1, 12)), uso)
    done = 0
    for count in counts:
        assert reference.runs(packets[done : done + count], uso) == [count], "merged what the kernel would not"
        done += count


def items(data: bytes) -> None:
    """A vnet header of somebody else's: what passes has its headers where the rule says."""
    if len(data) < 50:
        return
    found = header_size(ItemRules().rule(data[: vnet.SIZE]), memoryview(data))
    assert -1 <= found <= len(data)
    if found > 0:
        try:
            form = parse(data, vnet.SIZE, len(data))
        except OffloadError:
            return
        assert form.size == found


TARGETS = {
    "split": Target(split, (OffloadError,), 200),
    "chunks": Target(chunks, (OffloadError,), 100),
    "rejoined": Target(rejoined, (OffloadError,), 200),
    "coalesced": Target(coalesced, (), 200),
    "items": Target(items, (), 200),
}
