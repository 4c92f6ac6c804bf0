"""A real flood: two gateways, a KME, a tunnel with traffic, and 50,000 datagrams a second from forged addresses."""

from __future__ import annotations

import json
import socket
import struct

import pytest

from qtunnel.bench import flood_source
from tests.bench.support import bench

MOST_MEMORY_MB = 150
"""Far above what a daemon has without a flood (80), far below what a backlog of one second would add."""


@pytest.mark.root
def test_a_flood_of_each_kind_leaves_tunnel_and_rekeys_alone() -> None:
    kinds = ["garbage", "shape", "mac1", "replay"]
    paces = ("--seconds", "5", "--interval", "1.2", "--load", "20")
    ended = bench("flood", "--only", ",".join(kinds), *paces, "--json")
    assert ended.code == 0, ended.told
    told = json.loads(ended.output)
    assert [stretch["flood"] for stretch in told["stretches"]] == ["none", *kinds]
    for stretch in told["stretches"]:
        assert stretch["failed"] == [], stretch
        assert stretch["rekeys"] >= 2, stretch
        assert stretch["key_calls"] == [stretch["rekeys"]] * 2, stretch  # the flood makes none
        assert stretch["echoes_answered"] == stretch["echoes_sent"] > 100, stretch
        assert stretch["gbps"] > 0, stretch
    assert all(stretch["flood_pps"] > 1000 for stretch in told["stretches"][1:]), told
    assert told["daemon_peak_memory_mb"] < MOST_MEMORY_MB


@pytest.mark.root
def test_a_flood_from_the_address_of_the_peer_leaves_it_a_way_in() -> None:
    """It gets through with a cookie, by the queue that it shares with the flood; and so does one not known yet."""
    ended = bench("flood", "--only", "peer", "--rate", "1500", "--seconds", "4", "--load", "20", "--json")
    assert ended.code == 0, ended.told
    told = json.loads(ended.output)
    assert told["first_contact_s"] is not None
    stretch = told["stretches"][1]
    assert (stretch["flood"], stretch["failed"]) == ("peer", [])
    assert stretch["rekeys"] >= 2
    assert stretch["key_calls"] == [stretch["rekeys"]] * 2


def test_the_sources_packets_are_ipv4_and_udp() -> None:
    packet = flood_source.packet(b"payload", socket.inet_aton("192.0.2.1"), 51821, 0x0A800001, 4000)
    assert packet[0] == 0x45
    assert struct.unpack_from("!H", packet, 2) == (len(packet),)
    assert (packet[9], packet[12:16], packet[16:20]) == (17, b"\x0a\x80\0\1", b"\xc0\0\2\1")
    assert struct.unpack_from("!HHHH", packet, 20) == (4000, 51821, 15, 0)
    assert packet[28:] == b"payload"


def test_the_sources_file() -> None:
    bodies = [b"", b"x", bytes(1232)]
    data = b"".join(flood_source.LENGTH.pack(len(body)) + body for body in bodies)
    assert flood_source.payloads(data) == bodies
