"""Coalescing: what comes out is, split again, what went in; runs are those that Linux's GRO would make."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import accumulate
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.offload import coalesce, vnet
from qtunnel.offload.coalesce import MAX_STRETCHES, Coalescer, Write
from qtunnel.offload.split import Splitter
from tests.offload import reference
from tests.offload.reference import ACK, CWR, ECE, FIN, PSH, RST, SYN, TCP, UDP, URG, Packet
from tests.offload.strategies import TIMESTAMPS, content, super_packets

BUFFER = bytearray(1 << 20)
WITH_USO = Coalescer(BUFFER, uso=True)
WITHOUT_USO = Coalescer(BUFFER, uso=False)
AGAIN = bytearray(80000)
SPLITTER = Splitter(AGAIN)


def lay(packets: list[bytes], offset: int = 0, gap: int = 0) -> int:
    """Put the packets side by side in the buffer, with other bytes between them; the stride."""
    stride = max(len(packet) for packet in packets) + gap
    for index, packet in enumerate(packets):
        at = offset + index * stride
        BUFFER[at : at + stride] = packet + b"\xa5" * (stride - len(packet))
    return stride


def coalesced(packets: list[bytes], offset: int = 0, gap: int = 0, uso: bool = True) -> list[Write]:
    coalescer = WITH_USO if uso else WITHOUT_USO
    stride = lay(packets, offset, gap)
    lengths = [len(packet) for packet in packets]
    writes = coalescer.coalesce_mixed(offset, stride, lengths)
    if len(set(lengths[:-1])) <= 1:
        assert writes == coalescer.coalesce(offset, stride, len(packets), lengths[0], lengths[-1])
    return writes


def packets_of(write: Write) -> list[bytes]:
    """The packets that the kernel would make of a write."""
    data = b"".join(write)
    AGAIN[: len(data)] = data
    split = SPLITTER.split(0, len(data), 0)
    lengths = [split.length] * (split.count - 1) + [split.last_length]
    return [bytes(row[:length]) for row, length in zip(split.rows, lengths, strict=False)]


def check(packets: list[bytes], offset: int = 0, gap: int = 0, uso: bool = True) -> list[int]:
    """Coalesce and split again: the same packets in the same order; how many packets each write has."""
    writes = coalesced(packets, offset, gap, uso)
    counts = []
    done = 0
    for write in writes:
        made = packets_of(write)
        came = packets[done : done + len(made)]
        if len(made) > 1 and came[0][0] >> 4 == 4 and came[0][4:6] == came[1][4:6]:
            made = [_without_id(packet) for packet in made]  # a run with one ID, which counts up after splitting
            came = [_without_id(packet) for packet in came]
        assert made == came
        done += len(made)
        counts.append(len(made))
    assert done == len(packets)
    return counts


def _without_id(packet: bytes) -> bytes:
    return packet[:4] + packet[6:10] + packet[12:]


@given(super_packets(options=False), st.sampled_from((0, 1, 16)), st.sampled_from((0, 1, 12, 32)))
def test_the_packets_of_a_super_packet_become_that_super_packet(
    made: tuple[Packet, int], offset: int, gap: int
) -> None:
    packet, gso_size = made
    packet = replace(packet, flags=packet.flags & (ACK | PSH | FIN | ECE | CWR))
    singles = reference.split(packet, gso_size)
    writes = coalesced(singles, offset, gap)
    if len(singles) == 1:
        assert [b"".join(write) for write in writes] == [vnet.ZERO + packet.pack()]
    else:
        assert [b"".join(write) for write in writes] == [packet.super_packet(gso_size)]


@st.composite
def mixes(draw: st.DrawFn) -> list[bytes]:
    """Packets of a few flows in turns, of which some are lost, doubled, swapped or changed."""
    source = random.Random(draw(st.integers(0, 2**32)))
    flows = []
    payload_sizes = [draw(st.integers(1, 300)), draw(st.integers(1, 300))]
    for index in range(draw(st.integers(1, 3))):
        flows.append(
            Packet(
                version=draw(st.sampled_from((4, 6))),
                protocol=draw(st.sampled_from((TCP, TCP, UDP))),
                ports=(1000 + index, 80),
                sequence=source.choice((1, 2**32 - 700)),
                identification=source.choice((0, 5, 0xFFFD)),
                dont_fragment=source.random() < 0.7,
                tcp_options=source.choice((b"", TIMESTAMPS)),
                flags=source.choice((ACK, ACK, ACK | ECE)),
            )
        )
    repeat_id = draw(st.booleans())
    packets: list[bytes] = []
    disorder = draw(st.sampled_from((0.0, 0.05, 0.3)))
    for _ in range(draw(st.integers(1, 6))):
        which = source.randrange(len(flows))
        size = source.choice(payload_sizes)
        for number in range(source.randrange(1, 20)):
            flow = flows[which]
            if source.random() < 0.1:
                size = source.choice((size, max(1, size - source.randrange(20)), size + 1, 0))
            one = replace(flow, payload=content(size, source.randrange(100)))
            if source.random() < 0.1:
                one = replace(one, flags=one.flags | PSH)
            step = 0 if repeat_id else 1
            flows[which] = replace(flow, sequence=flow.sequence + size, identification=flow.identification + step)
            if number == 0 and source.random() < 0.2:
                one = replace(one, flags=one.flags | CWR)
            if source.random() < disorder:
                packets += _disturbed(one, source)
            else:
                packets.append(one.pack())
    if packets and source.random() < disorder and len(packets) > 2:
        at = source.randrange(len(packets) - 1)
        packets[at], packets[at + 1] = packets[at + 1], packets[at]
    return packets or [flows[0].pack()]


def _disturbed(one: Packet, source: random.Random) -> list[bytes]:
    kind = source.randrange(12)
    good = one.pack()
    changes: dict[int, dict[str, object]] = {
        3: {"hop_limit": 9},
        4: {"traffic_class": 3},
        5: {"acknowledgment": 77},
        6: {"window": 9},
        7: {"flags": one.flags ^ source.choice((FIN, SYN, RST, URG, CWR, ECE, PSH))},
        8: {"identification": one.identification + 3},
        9: {"dont_fragment": not one.dont_fragment},
        10: {"ip_options": b"\x01" * 8 if one.version == 4 else bytes((one.protocol, 0, 1, 4, 0, 0, 0, 0))},
        11: {"tcp_options": b"\x01" * 12},
    }
    if kind in changes:
        return [replace(one, **changes[kind]).pack()]  # type: ignore[arg-type]
    if kind == 0:
        return []
    if kind == 1:
        return [good, good]
    at = source.randrange(len(good))
    return [good[:at] + bytes((good[at] ^ 1 << source.randrange(8),)) + good[at + 1 :]]


@given(mixes(), st.sampled_from((0, 1, 16)), st.sampled_from((0, 1, 12)), st.booleans())
def test_any_mix_comes_back_in_order_and_is_merged_as_the_kernel_would(
    packets: list[bytes], offset: int, gap: int, uso: bool
) -> None:
    with patch.object(coalesce, "_MAX_MISSES", len(packets)):
        assert check(packets, offset, gap, uso) == reference.runs(packets, uso)


@given(mixes(), st.booleans())
def test_what_misses_too_often_is_merged_as_the_kernel_would_that_alone(packets: list[bytes], uso: bool) -> None:
    """Each run for itself: where one went out in parts, its last packet may begin the next."""
    counts = check(packets, 0, 0, uso)
    for end, count in zip(accumulate(counts), counts, strict=True):
        assert reference.runs(packets[end - count : end], uso) == [count]


@given(mixes(), st.integers(0, 2**32))
def test_hostile_bytes_raise_nothing_and_pass_unchanged(packets: list[bytes], seed: int) -> None:
    source = random.Random(seed)
    hostile = []
    for packet in packets:
        data = bytearray(packet)
        for _ in range(source.randrange(3)):
            data[source.randrange(min(60, len(data)))] = source.randrange(256)
        hostile.append(bytes(data[: source.choice((len(data), source.randrange(1, len(data) + 1)))]))
    assert check(hostile) == reference.runs(hostile, True)


@given(st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=30))
def test_random_bytes_pass_unchanged(packets: list[bytes]) -> None:
    assert check(packets) == [1] * len(packets)


BASE = Packet(payload=content(100, 9))


def following(count: int, packet: Packet = BASE, /, **changes: object) -> list[Packet]:
    """Packets that make one run, of which the second is changed."""
    made = [
        replace(packet, sequence=packet.sequence + i * len(packet.payload), identification=packet.identification + i)
        for i in range(count)
    ]
    made[1] = replace(made[1], **changes)  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize(
    "changes, counts",
    [
        ({}, [4]),
        ({"flags": ACK | PSH}, [2, 2]),
        ({"flags": ACK | FIN}, [2, 2]),
        ({"flags": ACK | SYN}, [1, 1, 2]),
        ({"flags": ACK | RST}, [1, 1, 2]),
        ({"flags": ACK | URG}, [1, 1, 2]),
        ({"flags": ACK | CWR}, [1, 3]),
        ({"flags": ACK | ECE}, [1, 1, 2]),
        ({"flags": 0}, [1, 1, 2]),
        ({"hop_limit": 63}, [1, 1, 2]),
        ({"traffic_class": 1}, [1, 1, 2]),
        ({"window": 501}, [1, 1, 2]),
        ({"acknowledgment": 2}, [1, 1, 2]),
        ({"urgent": 1}, [1, 1, 2]),
        ({"tcp_options": TIMESTAMPS}, [1, 1, 2]),
        ({"ports": (1000, 2001)}, [1, 1, 2]),
        ({"sequence": 0}, [1, 1, 2]),
        ({"identification": 99}, [1, 1, 2]),
        ({"dont_fragment": False}, [1, 1, 2]),
        ({"payload": bytes(99)}, [2, 2]),
        ({"payload": bytes(101)}, [1, 1, 2]),
        ({"payload": b""}, [1, 1, 2]),
    ],
)
def test_what_ends_a_run(changes: dict[str, object], counts: list[int]) -> None:
    packets = [packet.pack() for packet in following(4, BASE, **changes)]
    assert check(packets) == counts


def test_a_bad_checksum_stays_alone_as_it_came() -> None:
    for at in (10, 36, 60):  # IPv4's, TCP's, payload
        packets = [packet.pack() for packet in following(5)]
        packets[2] = packets[2][:at] + bytes((packets[2][at] ^ 0x40,)) + packets[2][at + 1 :]
        assert check(packets) == [2, 1, 2]
    packets = [packet.pack() for packet in following(3)]
    short = replace(following(3)[2], payload=b"short").pack()
    assert check([*packets[:2], short]) == [3]
    assert check([*packets[:2], short[:-1] + b"x"]) == [2, 1]


def test_what_is_told_from_one_packet_does_not_hold_for_another_of_its_length() -> None:
    plain = BASE
    optioned = replace(BASE, tcp_options=TIMESTAMPS, payload=BASE.payload[12:])
    datagram = replace(BASE, protocol=UDP, payload=BASE.payload + bytes(12))
    for one in (plain, optioned, datagram, plain, optioned):
        for version in (4, 6):
            assert check([packet.pack() for packet in following(4, replace(one, version=version))]) == [4]
        for byte, value in ((0, 0x46), (6, 0x60), (7, 1), (9, 1)):
            assert check([_with_byte(packet.pack(), byte, value) for packet in following(4, one)]) == [1] * 4


def _with_byte(packet: bytes, at: int, value: int) -> bytes:
    """Another byte in the IPv4 header, whose checksum stays good."""
    changed = bytearray(packet)
    changed[at] = value
    changed[10:12] = bytes(2)
    changed[10:12] = reference.internet_checksum(bytes(changed[:20])).to_bytes(2, "big")
    return bytes(changed)


def test_udp_without_a_checksum_or_without_leave_is_not_merged() -> None:
    datagrams = [replace(BASE, protocol=UDP, identification=7 + i) for i in range(4)]
    assert check([one.pack() for one in datagrams]) == [4]
    assert check([one.pack() for one in datagrams], uso=False) == [1] * 4
    assert check([one.pack(checksum=0) for one in datagrams]) == [1] * 4


def test_one_repeated_id_is_merged_only_where_fragments_are_forbidden() -> None:
    for dont_fragment, counts in ((True, [4]), (False, [1] * 4)):
        packets = [replace(packet, identification=0, dont_fragment=dont_fragment).pack() for packet in following(4)]
        assert check(packets) == counts


def test_runs_are_bounded_in_bytes_and_packets() -> None:
    assert check([packet.pack() for packet in following(150)]) == [64, 64, 22]
    large = replace(BASE, payload=content(9000, 3))
    assert check([packet.pack() for packet in following(15, large)]) == [7, 7, 1]


def test_an_acknowledgment_behind_data_is_not_part_of_the_run() -> None:
    packets = following(3)
    packets[2] = replace(packets[2], payload=b"")
    assert check([packet.pack() for packet in packets]) == [2, 1]


def test_packets_at_the_very_end_of_the_buffer() -> None:
    buffer = bytearray(140 * 2 + 50)
    packets = [packet.pack() for packet in following(3)]
    packets[2] = replace(following(3)[2], payload=bytes(10)).pack()
    buffer[:] = b"".join(packets)
    (write,) = Coalescer(buffer, uso=True).coalesce(0, 140, 3, 140, 50)
    assert packets_of(write) == packets


def test_a_short_packet_of_the_same_flow_at_the_very_end_of_the_buffer() -> None:
    packets = [packet.pack() for packet in following(3)]
    buffer = bytearray(b"".join(packets[:2]))
    for short in range(1, 60):
        buffer[280:] = packets[2][:short]
        merged, alone = Coalescer(bytearray(buffer), uso=True).coalesce(0, 140, 3, 140, short)
        assert packets_of(merged) == packets[:2]
        assert b"".join(alone) == vnet.ZERO + packets[2][:short]
        buffer[140:] = packets[1][:short]
        assert len(Coalescer(bytearray(buffer), uso=True).coalesce(0, 140, 2, 140, short)) == 2
        buffer[140:] = packets[1]


def test_empty_packets_are_not_written() -> None:
    assert WITH_USO.coalesce(0, 100, 1, 0, 0) == []
    stride = lay([packet.pack() for packet in following(2)])
    assert len(WITH_USO.coalesce(0, stride, 3, 140, 0)) == 1


def test_the_sizes_kept_are_bounded() -> None:
    coalescer = Coalescer(BUFFER, uso=True)
    for size in range(1, 3 * MAX_STRETCHES):
        packets = [packet.pack() for packet in following(2, replace(BASE, payload=bytes(size)))]
        stride = lay(packets)
        coalescer.coalesce(0, stride, 2, len(packets[0]), len(packets[0]))
        assert len(coalescer._stretches) <= MAX_STRETCHES
