"""Slow and plain: what a super-packet is to become, packet by packet, and what a good packet is."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from qtunnel.offload import vnet

TCP, UDP = 6, 17
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))


def internet_checksum(data: bytes) -> int:
    """RFC 1071, word by word."""
    data += bytes(len(data) % 2)
    value = 0
    for (word,) in struct.iter_unpack(">H", data):
        value += word
        value = (value & 0xFFFF) + (value >> 16)
    return ~value & 0xFFFF


@dataclass(frozen=True)
class Packet:
    """A TCP or UDP packet in its fields; ``pack`` gives the bytes."""

    version: int = 4
    protocol: int = TCP
    payload: bytes = b""
    source: bytes = b""
    destination: bytes = b""
    ports: tuple[int, int] = (1000, 2000)
    traffic_class: int = 0
    hop_limit: int = 64
    identification: int = 7
    dont_fragment: bool = True
    flow_label: int = 0
    ip_options: bytes = b""
    """IPv4 options, or IPv6 extension headers of which the first is a destination options header."""
    sequence: int = 1
    acknowledgment: int = 1
    flags: int = ACK
    window: int = 500
    urgent: int = 0
    tcp_options: bytes = b""

    @property
    def addresses(self) -> bytes:
        size = 4 if self.version == 4 else 16
        return self.source.ljust(size, b"\x01")[:size] + self.destination.ljust(size, b"\x02")[:size]

    def transport(self, checksum: int) -> bytes:
        if self.protocol == UDP:
            return struct.pack(">HHHH", *self.ports, 8 + len(self.payload), checksum) + self.payload
        words = 5 + len(self.tcp_options) // 4
        head = struct.pack(
            ">HHIIBBHHH",
            *self.ports,
            self.sequence % 2**32,
            self.acknowledgment,
            words << 4,
            self.flags,
            self.window,
            checksum,
            self.urgent,
        )
        return head + self.tcp_options + self.payload

    @property
    def pseudo(self) -> bytes:
        length = len(self.transport(0))
        if self.version == 4:
            return self.addresses + struct.pack(">BBH", 0, self.protocol, length)
        return self.addresses + struct.pack(">IHBB", length, 0, 0, self.protocol)

    def pack(self, partial: bool = False, checksum: int | None = None) -> bytes:
        """The packet; ``partial``: with the pseudo-header's sum for a checksum, ``checksum``: with this one."""
        if checksum is None:
            if partial:
                checksum = ~internet_checksum(self.pseudo) & 0xFFFF
            else:
                checksum = internet_checksum(self.pseudo + self.transport(0))
                if self.protocol == UDP:
                    checksum = checksum or 0xFFFF
        body = self.transport(checksum)
        if self.version == 6:
            first = 60 if self.ip_options else self.protocol
            word = 6 << 28 | self.traffic_class << 20 | self.flow_label
            length = len(self.ip_options) + len(body)
            return struct.pack(">IHBB", word, length, first, self.hop_limit) + self.addresses + self.ip_options + body
        words = 5 + len(self.ip_options) // 4
        head = struct.pack(
            ">BBHHHBBH",
            4 << 4 | words,
            self.traffic_class,
            words * 4 + len(body),
            self.identification % 2**16,
            self.dont_fragment << 14,
            self.hop_limit,
            self.protocol,
            0,
        )
        head += self.addresses + self.ip_options
        return head[:10] + struct.pack(">H", internet_checksum(head)) + head[12:] + body

    @property
    def transport_offset(self) -> int:
        return (20 if self.version == 4 else 40) + len(self.ip_options)

    @property
    def header_size(self) -> int:
        return self.transport_offset + (8 if self.protocol == UDP else 20 + len(self.tcp_options))

    def gso_type(self) -> int:
        if self.protocol == UDP:
            return vnet.GSO_UDP_L4
        ecn = vnet.GSO_ECN if self.flags & CWR else 0
        return (vnet.GSO_TCPV4 if self.version == 4 else vnet.GSO_TCPV6) | ecn

    def super_packet(self, gso_size: int, hint: int | None = None) -> bytes:
        """As a read of the TUN gives it: vnet header, and the packet with a partial checksum."""
        header = vnet.VnetHeader(
            vnet.NEEDS_CSUM,
            self.gso_type(),
            self.header_size if hint is None else hint,
            gso_size,
            self.transport_offset,
            6 if self.protocol == UDP else 16,
        )
        return header.pack() + self.pack(partial=True)


def split(packet: Packet, gso_size: int) -> list[bytes]:
    """The packets that the kernel's segmentation makes."""
    pieces = [packet.payload[at : at + gso_size] for at in range(0, len(packet.payload), gso_size)]
    made = []
    for index, piece in enumerate(pieces):
        flags = packet.flags
        if index != len(pieces) - 1:
            flags &= ~(FIN | PSH)
        if index:
            flags &= ~CWR
        made.append(
            replace(
                packet,
                payload=piece,
                identification=packet.identification + index,
                sequence=packet.sequence + index * gso_size,
                flags=flags,
            ).pack()
        )
    return made


def checksums_good(packet: bytes) -> bool:
    """Whether the checksums of a TCP or UDP packet without extension headers verify."""
    if packet[0] >> 4 == 4:
        size = (packet[0] & 15) * 4
        if internet_checksum(packet[:size]):
            return False
        pseudo = packet[12:20] + struct.pack(">BBH", 0, packet[9], len(packet) - size)
        return internet_checksum(pseudo + packet[size:]) == 0
    pseudo = packet[8:40] + struct.pack(">IHBB", len(packet) - 40, 0, 0, packet[6])
    return internet_checksum(pseudo + packet[40:]) == 0


MAX_RUN = 64


@dataclass
class _Flow:
    """What decides whether a packet may follow another, read byte by byte."""

    fixed: bytes
    """Everything that must not change within a run."""
    protocol: int
    payload: int
    size: int
    flags: int = 0
    sequence: int = 0
    identification: int | None = None
    dont_fragment: bool = False


def _flow(packet: bytes, uso: bool) -> _Flow | None:
    """None for what no run can hold."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        if packet[0] & 15 != 5 or int.from_bytes(packet[2:4], "big") != len(packet) or packet[6] & 0xBF or packet[7]:
            return None
        protocol, at = packet[9], 20
        fixed = packet[:2] + packet[6:10] + packet[12:20]
    elif version == 6 and len(packet) >= 40:
        if int.from_bytes(packet[4:6], "big") + 40 != len(packet):
            return None
        protocol, at = packet[6], 40
        fixed = packet[:4] + packet[6:40]
    else:
        return None
    if len(packet) < at + (8 if protocol == UDP else 20) or protocol not in (TCP, UDP) or not checksums_good(packet):
        return None
    flow = _Flow(fixed + packet[at : at + 4], protocol, 0, at + 8)
    if version == 4:
        flow.identification = int.from_bytes(packet[4:6], "big")
        flow.dont_fragment = bool(packet[6] & 0x40)
    if protocol == UDP:
        if (
            not uso
            or packet[at + 6 : at + 8] == b"\0\0"
            or int.from_bytes(packet[at + 4 : at + 6], "big") != len(packet) - at
        ):
            return None
    else:
        flow.size = at + (packet[at + 12] >> 4) * 4
        if flow.size < at + 20 or flow.size > len(packet):
            return None
        flow.flags = packet[at + 13]
        flow.sequence = int.from_bytes(packet[at + 4 : at + 8], "big")
        others = bytes((flow.flags & ~(CWR | FIN | PSH),))
        # acknowledgment, data offset, window, urgent pointer, options
        flow.fixed += packet[at + 8 : at + 13] + others + packet[at + 14 : at + 16] + packet[at + 18 : flow.size]
        if flow.flags & (SYN | RST | URG):
            return None
    flow.payload = len(packet) - flow.size
    return flow if flow.payload else None


def runs(packets: list[bytes], uso: bool) -> list[int]:
    """How many packets each write holds, as Linux's GRO would merge them were there only one flow at a time."""
    made: list[list[_Flow]] = []
    counts: list[int] = []
    for packet in packets:
        flow = _flow(packet, uso)
        if flow is not None and made and _follows(made[-1], flow):
            made[-1].append(flow)
            counts[-1] += 1
        else:
            made.append([flow] if flow is not None else [])
            counts.append(1)
    return counts


def _follows(run: list[_Flow], flow: _Flow) -> bool:
    if not run or len(run) >= MAX_RUN:
        return False
    first, last, count = run[0], run[-1], len(run)
    if last.payload < first.payload or last.flags & (FIN | PSH) or flow.flags & CWR:
        return False
    if flow.fixed != first.fixed or flow.payload > first.payload:
        return False
    if flow.protocol == TCP and flow.sequence != (first.sequence + count * first.payload) % 2**32:
        return False
    if first.identification is not None and flow.identification is not None:
        repeated = first.dont_fragment and flow.identification == first.identification
        counted = flow.identification == (first.identification + count) % 2**16
        if count > 1:  # the second decided
            same = run[1].identification == first.identification
            repeated, counted = repeated and same, counted and not same
        if not repeated and not counted:
            return False
    return first.size + count * first.payload + flow.payload <= 65535
