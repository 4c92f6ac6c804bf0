"""A super-packet becomes smaller super-packets of a few segments each, so that a lost record costs less."""

from __future__ import annotations

from qtunnel.offload import checksum, headers, split, vnet
from qtunnel.offload.errors import OffloadError
from qtunnel.offload.headers import CHECKSUM_OFFSET, CWR, FIN, IPV4_CHECKSUM, IPV4_ID, PSH, TCP, TCP_FLAGS, TCP_SEQUENCE


def chunk(buffer: bytearray, offset: int, length: int, most: int, output: bytearray) -> list[memoryview]:
    """Cut the super-packet at ``offset`` (``length`` bytes, vnet header included) into ones of up to ``most`` segments.

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
    count = -(-segments // most)
    most = -(-segments // count)  # all about equally large
    size, transport, step = form.size, form.transport, most * header.gso_size
    if count * (vnet.SIZE + size) + packet.payload > len(output):
        raise OffloadError(f"{count} chunks do not fit in {len(output)} bytes")
    source, target = memoryview(buffer), memoryview(output)
    checksum_at = transport + CHECKSUM_OFFSET[form.protocol]

    def headed(payload: int) -> bytearray:
        """The vnet header and the packet's for so many bytes of payload."""
        head = bytearray(source[start : start + size])
        headers.set_length(head, form, size + payload)
        headers.write16(head, checksum_at, (pseudo + size + payload - transport) % checksum.MODULUS)
        gso = (vnet.GSO_NONE, 0) if payload <= header.gso_size else (header.gso_type, header.gso_size)
        kind, segment = gso
        fields = vnet.NEEDS_CSUM, kind, size, segment, transport, CHECKSUM_OFFSET[form.protocol]
        return bytearray(vnet.HEADER.pack(*fields)) + head

    head, first = headed(step), start + size
    ip, tcp = vnet.SIZE, vnet.SIZE + transport
    sequence = flags = 0
    if form.protocol == TCP:
        sequence, flags = headers.read32(head, tcp + TCP_SEQUENCE)[0], head[tcp + TCP_FLAGS]
    identification = headers.read16(head, ip + IPV4_ID)[0]
    chunks = []
    at = 0
    for index in range(count):
        payload = min(step, end - first)
        if payload != step:
            head = headed(payload)
        if index and form.version == 4:
            number = (identification + index * most) & 0xFFFF
            before = headers.read16(head, ip + IPV4_CHECKSUM)[0] + headers.read16(head, ip + IPV4_ID)[0]
            headers.write16(head, ip + IPV4_ID, number)
            headers.write16(head, ip + IPV4_CHECKSUM, (before - number) % checksum.MODULUS)
        if form.protocol == TCP:
            headers.write32(head, tcp + TCP_SEQUENCE, (sequence + index * step) & 0xFFFFFFFF)
            head[tcp + TCP_FLAGS] = flags & ~((CWR if index else 0) | (0 if index == count - 1 else FIN | PSH))
        stop = at + vnet.SIZE + size + payload
        body = at + vnet.SIZE + size
        target[at:body] = head
        target[body:stop] = source[first : first + payload]
        chunks.append(target[at:stop])
        at, first = stop, first + payload
    return chunks
