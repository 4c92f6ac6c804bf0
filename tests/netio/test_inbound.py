"""What goes to a TUN that cannot do all: of a kernel before 6.2, which there is none of here."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from qtunnel.netio.inbound import Inbound
from qtunnel.netio.routes import Routes
from qtunnel.netio.udp import UdpPort
from qtunnel.offload import vnet
from tests.offload import reference
from tests.offload.reference import UDP, Packet
from tests.wireguard.world import End, connected


@dataclass
class PipeTun:
    """What is written can be read at the other end, packet by packet."""

    fd: int
    segments: bool = True
    udp_segments: bool = False


def test_a_udp_super_packet_in_a_record_is_cut_where_the_kernel_cannot() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    _, alice, bob = connected()
    inbound = Inbound(PipeTun(ours.fileno()), bob.device, UdpPort(Routes(), segments=False))  # type: ignore[arg-type]
    packet = Packet(
        version=4, protocol=UDP, payload=bytes(range(250)) * 10, source=_packed(alice), destination=_packed(bob)
    )
    item = memoryview(bytearray(packet.super_packet(1000, 0)))
    inbound._deliver(bob.peer(alice), [item])
    theirs.setblocking(False)
    datagrams = [theirs.recv(70_000) for _ in range(3)]
    for written, expected in zip(datagrams, reference.split(packet, 1000), strict=True):
        header = vnet.parse(written, 0, len(written))
        assert header.gso_type == vnet.GSO_NONE
        assert header.flags == vnet.NEEDS_CSUM
        body = bytearray(written[vnet.SIZE :])
        body[26:28] = expected[26:28]  # the checksum is partial, for the kernel to finish
        assert body == expected
    ours.close()
    theirs.close()


def _packed(end: End) -> bytes:
    return socket.inet_aton(end.inner)
