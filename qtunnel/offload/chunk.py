"""A super-packet becomes smaller super-packets of a few segments each, so that a lost record costs less."""

from __future__ import annotations

from qtunnel.offload import headers, split, vnet
from qtunnel.offload.errors import OffloadError
from qtunnel.offload.headers import CHECKSUM_OFFSET, CWR, FIN, IPV4_ID, PSH, TCP, TCP_FLAGS, TCP_SEQUENCE


def chunk(buffer: bytearray, offset: int, length: int, most: int, output: bytearray) -> list[memoryview]:
    """Cut the super-packet at ``offset`` (``length`` bytes, vnet header included) into ones of ``most`` segments.

    Each, a vnet header and a packet with a partial checksum, is a view of ``output``; they lie there one after another.
    Splitting them gives the same packets as splitting the whole. What has no more than ``most`` segments, or is no
    super-packet, comes back as it is, as a view of ``buffer``. Raises ``OffloadError`` for an unsound super-packet, or
    where the output has no room.
    """
    header = vnet.parse(buffer, offset, offset + length)
    whole = [memoryview(buffer)[offset : offset + length]]
    if not header.gso_type:
        return whole
    packet = split.parse(buffer, offset, length, header)
    segments = packet.segments
    if segments <= most:
        return whole
    if most < 1:
        raise OffloadError(f"chunks of {most} segments")
    start, end, form, _, pseudo = packet
    size, transport, step = form.size, form.transport, most * header.gso_size
    count = -(-segments // most)
    if count * (vnet.SIZE + size) + packet.payload > len(output):
        raise OffloadError(f"{count} chunks do not fit in {len(output)} bytes")
    source, target = memoryview(buffer), memoryview(output)
    original = bytes(source[start : start + size])
    chunks = []
    at = 0
    for index in range(count):
        first = start + size + index * step
        payload = min(step, end - first)
        packet_length = size + payload
        stop = at + vnet.SIZE + packet_length
        single = payload <= header.gso_size
        vnet.HEADER.pack_into(
            output,
            at,
            vnet.NEEDS_CSUM,
            vnet.GSO_NONE if single else header.gso_type,
            size,
            0 if single else header.gso_size,
            transport,
            CHECKSUM_OFFSET[form.protocol],
        )
        head = target[at + vnet.SIZE : at + vnet.SIZE + size]
        head[:] = original
        if form.version == 4:
            headers.write16(head, IPV4_ID, (headers.read16(original, IPV4_ID)[0] + index * most) & 0xFFFF)
        if form.protocol == TCP:
            sequence = headers.read32(original, transport + TCP_SEQUENCE)[0] + index * step
            headers.write32(head, transport + TCP_SEQUENCE, sequence & 0xFFFFFFFF)
            head[transport + TCP_FLAGS] &= ~((CWR if index else 0) | (0 if index == count - 1 else FIN | PSH))
        headers.set_length(head, form, packet_length)
        partial = (pseudo + packet_length - transport) % 0xFFFF
        headers.write16(head, transport + CHECKSUM_OFFSET[form.protocol], partial)
        target[at + vnet.SIZE + size : stop] = source[first : first + payload]
        chunks.append(target[at:stop])
        at = stop
    return chunks
