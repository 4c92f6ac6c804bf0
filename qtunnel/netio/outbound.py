"""From the TUN to the network: packets and super-packets are read, sealed and sent in bursts, in order.

A read brings one packet, or a super-packet of up to 64 kB that the kernel left in one piece (TSO, USO). To a peer in
record mode, what is read in one go becomes one record; to any other, super-packets are split, and packets of one size
that follow each other go out in one call (UDP_SEGMENT).
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from qtunnel.netio.in_order import InOrder
from qtunnel.netio.singles import Singles
from qtunnel.netio.tun import MAX_READ, Tun
from qtunnel.netio.udp import MAX_BURST, MAX_SEGMENTS, UdpPort
from qtunnel.offload import checksum, vnet
from qtunnel.offload.chunk import chunk
from qtunnel.offload.errors import OffloadError
from qtunnel.offload.headers import parse
from qtunnel.offload.items import MIN_SEGMENT, ItemRules, header_size
from qtunnel.offload.split import Splitter
from qtunnel.offload.split import parse as parse_super
from qtunnel.wireguard.device import Device
from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.packets import ip_length
from qtunnel.wireguard.peer import Peer
from qtunnel.wireguard.runs import RunSealer
from qtunnel.wireguard.session import Keypair
from qtunnel.wireguard.state import Drop
from qtunnel.wireguard.transport import DATA_OVERHEAD
from qtunnel.workers.farm import Farm, Job
from qtunnel.workers.messages import IN_SIZE, Kind, Task

MAX_PACKETS: Final = 64
"""Reads before the other direction has its turn: of small packets, 0.3 ms."""

MAX_BYTES: Final = 256 << 10
"""Bytes, likewise: 0.3 ms of super-packets. More does not bring more throughput, and costs latency and cache."""

WORTH_HANDING_OUT: Final = 16 << 10
"""Bytes of a burst that a worker is asked for: less is not worth two copies and four system calls. Not tuned yet, for
want of a machine with cores to spare."""

_ARENA: Final = MAX_BYTES + 2 * MAX_READ
_NEEDS_CSUM: Final = vnet.NEEDS_CSUM
_VNET: Final = vnet.SIZE


class Outbound:
    """Reads one TUN and sends to one UDP port."""

    def __init__(self, tun: Tun, device: Device, udp: UdpPort, farm: Farm | None = None) -> None:
        """farm: workers that take large bursts, if there are any."""
        self._tun = tun
        self._device = device
        self._order = InOrder(farm) if farm is not None else None
        self._transport = device.transport
        self._records = device.records
        self._udp = udp
        self._arena = bytearray(_ARENA)
        self._view = memoryview(self._arena)
        self._splitter = Splitter(self._arena)
        self._sealer = RunSealer(device.transport, self._splitter.output)
        self._chunks = bytearray(2 * MAX_READ)
        self._singles = Singles(device, self._send)
        self._rules = ItemRules()
        # The record that is being filled: items at arena[start:end] for one peer
        self._peer: Peer | None = None
        self._start = 0
        self._end = 0

    def read(self, now: float) -> None:
        """Everything that waits, within the bounds above. Raises ``OSError`` where the TUN went away or cannot hand a
        packet over; what was read before is on its way then."""
        descriptor, view = self._tun.fd, self._view
        transport, udp = self._transport, self._udp
        peer_for, max_plain = transport.peer_for, self._records.max_plain
        taken = 0
        first = True
        self._start = self._end = 0
        limits: dict[Peer, int] = {}
        for _ in range(MAX_PACKETS):
            end = self._end
            try:
                length = os.readv(descriptor, (view[end : end + MAX_READ],))
            except BlockingIOError:
                break
            except OSError:  # of one packet, it may be: those before it have their way all the same
                self._flush(now)
                self._singles.flush()
                udp.hops = 0
                raise
            taken += length
            peer = peer_for(view, end + _VNET, length - _VNET)
            if peer is not None:
                if transport.hops != udp.hops:
                    self._flush(now)
                    self._singles.flush()
                    udp.hops = transport.hops
                limit = limits.get(peer)
                if limit is None:
                    limit = limits[peer] = max_plain(peer, now)
                if limit and ip_length(view, end + _VNET, length - _VNET) != length - _VNET:
                    # in a record the packet's own length tells where the next one begins
                    self._device.drops[Drop.BAD_PACKET] += 1
                elif limit:
                    self._singles.flush()
                    self._add(peer, length, limit, now)
                else:
                    if self._peer is not None:
                        self._flush(now)
                    self._send_standard(peer, length, now, first)
            if first:  # at once: most of the time nothing follows, and to find that out takes as long as to send
                first = False
                self._flush(now)
                self._singles.flush()
            if taken >= MAX_BYTES:
                break
        self._flush(now)
        self._singles.flush()
        udp.hops = 0

    # Record mode

    def _add(self, peer: Peer, length: int, limit: int, now: float) -> None:
        """The item behind the record in the making belongs to it, or begins the next."""
        if peer is not self._peer or self._end - self._start + length > limit:
            self._flush(now)
        self._peer = peer
        tiny = self._make_sound(self._end, length)
        if tiny:
            self._flush(now)
        elif length <= limit:
            self._end += length
            if self._end - self._start > limit // 2:  # another super-packet would not fit; go back to warm memory
                self._flush(now)
                self._start = self._end = 0
            return
        try:
            headers = parse(self._arena, self._start + _VNET, self._start + length).size
            segments = 1 if tiny else max(1, (limit - _VNET - headers) // self._segment(self._start))
            chunks = chunk(self._arena, self._start, length, segments, self._chunks)
        except OffloadError:
            self._device.drops[Drop.BAD_PACKET] += 1
            chunks = []
        for datagrams, size in self._records.seal_many(peer, chunks, MAX_BURST, now):
            self._send(peer, datagrams, size)
        self._peer = None

    def _make_sound(self, at: int, length: int) -> bool:
        """Finish a checksum that the other end would not: it trusts in headers of IP, TCP and UDP only, not in what a
        tunnel inside has of them. True for a super-packet of segments as small as that end takes none."""
        if self._arena[at + 1]:
            return self._segment(at) < MIN_SEGMENT
        if self._arena[at] & _NEEDS_CSUM:
            head = bytes(self._arena[at : at + _VNET])
            if header_size(self._rules.rule(head), self._view[at : at + length]) < 0:
                with contextlib.suppress(OffloadError):
                    header = vnet.parse(self._arena, at, at + length)
                    checksum.finish(self._view[at + _VNET : at + length], header.csum_start, header.csum_offset)
                    self._arena[at : at + _VNET] = vnet.ZERO
        return False

    def _segment(self, at: int) -> int:
        return max(1, self._arena[at + 4] | self._arena[at + 5] << 8)

    def _flush(self, now: float) -> None:
        """Send the record in the making; what lies behind it may begin the next one."""
        if self._peer is not None and self._end > self._start:
            plain = self._view[self._start : self._end]
            if len(plain) < WORTH_HANDING_OUT or not self._hand_out_record(self._peer, plain, now):
                self._send(self._peer, *self._records.seal(self._peer, plain, now))
        self._peer = None
        self._start = self._end

    def _send(self, peer: Peer, datagrams: memoryview, size: int) -> None:
        """In its turn."""
        if self._order is not None and self._order.busy:
            copy, hops = memoryview(bytes(datagrams)), self._udp.hops
            self._order.put(lambda _: self._send_with(hops, peer, copy, size))
        elif peer.endpoint is not None:
            self._udp.send_burst(datagrams, size, peer.endpoint)

    def _send_with(self, hops: int, peer: Peer, datagrams: memoryview, size: int) -> None:
        self._udp.hops = hops
        self._send(peer, datagrams, size)
        self._udp.hops = 0

    # Standard mode

    def _send_standard(self, peer: Peer, length: int, now: float, first: bool) -> None:
        at = self._end
        keypair = self._transport.session(peer, now)
        try:
            if self._arena[at + 1]:
                self._singles.flush()
                self._send_split(peer, keypair, at, length, now)
                return
            if self._arena[at] & _NEEDS_CSUM:
                header = vnet.parse(self._arena, at, at + length)
                checksum.finish(self._view[at + _VNET : at + length], header.csum_start, header.csum_offset)
        except OffloadError:
            self._device.drops[Drop.BAD_PACKET] += 1
            return
        if keypair is None:
            self._singles.flush()
            self._transport.stage(peer, bytes(self._view[at + _VNET : at + length]), now)
        elif first:
            self._singles.send(peer, keypair, self._view[at + _VNET :], length - _VNET, now)
        else:
            self._singles.add(peer, keypair, self._view[at + _VNET :], length - _VNET, now)

    def _send_split(self, peer: Peer, keypair: Keypair | None, at: int, length: int, now: float) -> None:
        if keypair is not None and length >= WORTH_HANDING_OUT and self._hand_out_run(peer, keypair, at, length):
            return
        self._split_here(peer, keypair, at, length, now)

    def _split_here(self, peer: Peer, keypair: Keypair | None, at: int, length: int, now: float) -> None:
        split = self._splitter.split(at, length, self._device.state.mtu)
        if keypair is None:
            for row in split.rows[: split.count - 1]:
                self._transport.stage(peer, bytes(row[: split.length]), now)
            self._transport.stage(peer, bytes(split.rows[split.count - 1][: split.last_length]), now)
            return
        count, stride, last = split.count, split.stride, split.last_padded
        size = stride + DATA_OVERHEAD
        if count <= MAX_SEGMENTS and count * size <= MAX_BURST:  # nearly always: the kernel was told (Tun.fit_bursts)
            self._send(peer, *self._sealer.seal(peer, keypair, stride, 0, count, last, now))
            return
        most = max(1, min(MAX_SEGMENTS, MAX_BURST // size))
        for first in range(0, count, most):
            part = min(most, count - first)
            end = last if first + part == count else stride
            self._send(peer, *self._sealer.seal(peer, keypair, stride, first, part, end, now))

    # Workers

    def post(self, datagram: bytes, endpoint: Endpoint) -> None:
        """Send a datagram of the engine's own, in its turn."""
        if self._order is not None and self._order.busy:
            self._order.put(lambda _: self._udp.send(datagram, endpoint))
        else:
            self._udp.send(datagram, endpoint)

    def go_on(self, now: float) -> None:
        """Send what workers have done, as far as it is its turn."""
        if self._order is not None:
            self._order.go_on(now)

    def _hand_out_run(self, peer: Peer, keypair: Keypair, at: int, length: int) -> bool:
        """Whether a worker took the super-packet. Raises ``OffloadError`` where it is none."""
        if self._order is None or not self._order.has_room:
            return False
        count = parse_super(self._arena, at, length, vnet.parse(self._arena, at, at + length)).segments
        task = Task(
            Kind.SEAL_RUN,
            session=keypair.local_index,
            counter=keypair.send_counter,
            remote=keypair.remote_index,
            mtu=self._device.state.mtu,
        )
        hops = self._udp.hops

        def sealed(job: Job, now: float) -> None:
            if job.done and job.messages == count:
                self._send_sealed(hops, peer, keypair, job, now)
                return
            if not self._knows(peer):
                return
            self._arena[:length] = job.input
            self._udp.hops = hops
            with contextlib.suppress(OffloadError):
                self._split_here(peer, self._transport.session(peer, now), 0, length, now)
            self._udp.hops = 0

        if not self._order.hand_out(task, self._view[at : at + length], sealed):
            return False
        keypair.send_counter += count
        return True

    def _hand_out_record(self, peer: Peer, plain: memoryview, now: float) -> bool:
        """Whether a worker took the record."""
        if self._order is None or not self._order.has_room or len(plain) > IN_SIZE:
            return False
        order = self._records.order(peer, len(plain), now)
        if order is None:
            return False
        keypair, keys, size, parity = order
        task = Task(
            Kind.SEAL_RECORD,
            session=keypair.local_index,
            size=size,
            counter=keys.send_counter,
            remote=keypair.remote_index,
            parity=int(parity),
        )
        hops = self._udp.hops

        def sealed(job: Job, now: float) -> None:
            if job.done:
                self._send_sealed(hops, peer, keypair, job, now)
            elif self._knows(peer) and self._records.max_plain(peer, now) >= len(job.input):
                self._send_with(hops, peer, *self._records.seal(peer, job.input, now))
            else:
                self._device.drops[Drop.WORKER_LOST] += 1

        if not self._order.hand_out(task, plain, sealed):
            return False
        keys.send_counter += 1
        return True

    def _knows(self, peer: Peer) -> bool:
        """Whether it is still a peer of the interface, which is still up."""
        state = self._device.state
        return state.up and state.peers.get(peer.public_key) is peer

    def _send_sealed(self, hops: int, peer: Peer, keypair: Keypair, job: Job, now: float) -> None:
        """What a worker sealed, unless the session has ended since, or its time is over."""
        if keypair.expired(now):
            self._device.drops[Drop.EXPIRED] += -(-len(job.output) // job.size)
        elif self._device.state.sessions.get(keypair.local_index) is keypair:
            self._transport.sent(peer, keypair, len(job.output), now, data=True)
            self._send_with(hops, peer, job.output, job.size)
