"""From the network to the TUN: bursts of datagrams are received, opened, put together and written, in order."""

from __future__ import annotations

import errno
import logging
import os
import struct
from collections import Counter
from collections.abc import Callable
from typing import Final

from qtunnel.netio.in_order import InOrder
from qtunnel.netio.outbound import WORTH_HANDING_OUT
from qtunnel.netio.receive import Burst, Receiver
from qtunnel.netio.refusals import Buffers, Refusals, as_single, is_super
from qtunnel.netio.tun import MAX_READ, Tun
from qtunnel.netio.udp import UdpPort
from qtunnel.offload import vnet
from qtunnel.offload.chunk import chunk
from qtunnel.offload.coalesce import Coalescer
from qtunnel.offload.errors import OffloadError
from qtunnel.offload.items import ItemRules, header_size
from qtunnel.offload.rejoin import rejoin
from qtunnel.wireguard.device import Device
from qtunnel.wireguard.limits import REJECT_AFTER_MESSAGES
from qtunnel.wireguard.messages import MIN_DATA_SIZE, TYPE_DATA
from qtunnel.wireguard.peer import Peer
from qtunnel.wireguard.record_burst import Record, counter_of_one
from qtunnel.wireguard.record_format import TYPE_RECORD
from qtunnel.wireguard.rows import MAX_RUN
from qtunnel.wireguard.runs import OpenedRun, RunOpener
from qtunnel.wireguard.session import Keypair
from qtunnel.wireguard.state import Drop
from qtunnel.workers.farm import Farm, Job
from qtunnel.workers.messages import Kind, Task

MAX_CALLS: Final = 4
"""Calls of recvmmsg before the other direction has its turn: 2 MB, or 256 small datagrams, about 1 ms."""

MAX_BYTES: Final = 256 << 10
"""Bytes, likewise; see outbound."""

_INDEX: Final = struct.Struct("<I")
_HDR_LEN: Final = struct.Struct("<H")
_HDR_LEN_AT: Final = 2
_GSO_TYPE_AT: Final = 1

log = logging.getLogger(__name__)

Survive = Callable[[Exception], None]

_UDP: Final = frozenset((vnet.GSO_UDP_L4,))
_ALL: Final = vnet.GSO_TYPES - {vnet.GSO_NONE}


def _raise(error: Exception) -> None:
    raise error


class Inbound:
    """Receives from the sockets of one UDP port and writes to one TUN."""

    def __init__(
        self, tun: Tun, device: Device, udp: UdpPort, farm: Farm | None = None, survive: Survive = _raise
    ) -> None:
        """farm: workers that take large bursts, if there are any. survive: told of a defect that a burst met; the
        others go on."""
        self._tun, self._survive = tun, survive
        self._order = InOrder(farm) if farm is not None else None
        self._device = device
        self._receiver = Receiver(udp.paths)
        self._opener = RunOpener(device.state, device.transport, self._receiver.buffer.bytes)
        self._coalescer = Coalescer(self._opener.buffer, tun.udp_segments) if tun.segments else None
        self._opened = memoryview(self._opener.buffer)
        self._rules = ItemRules()
        self._writev: Callable[[int, Buffers], int] = os.writev
        self._refusals = Refusals()
        self._to_cut: frozenset[int] = frozenset() if tun.udp_segments else _UDP
        """GSO types of super-packets in records that the kernel takes none of."""
        self._pieces = bytearray()
        self.errors: Counter[str] = Counter()

    def read(self, descriptor: int, now: float) -> None:
        """Everything that waits at a socket, within the bounds above. Raises ``TunGoneError``."""
        taken = 0
        for _ in range(MAX_CALLS):
            try:
                bursts = self._receiver.receive(descriptor)
            except OSError as error:  # an ICMP error of an earlier datagram; the next read goes on
                log.debug("msg=%r", f"UDP receive: {error.strerror}")
                continue
            got = 0
            for burst in bursts:
                got += burst.length
                if self._device.admits(burst.endpoint, -(-burst.length // burst.size)):
                    try:
                        self._take(burst, now)
                    except OSError:
                        raise
                    except Exception as error:
                        self._survive(error)
            taken += got
            if not got or taken >= MAX_BYTES:
                return

    def _take(self, burst: Burst, now: float) -> None:
        offset, length, size, endpoint = burst
        if length > size:
            kinds = self._receiver.buffer.bytes[offset : offset + length : size]
            if kinds.count(kinds[0]) != len(kinds):
                for start in range(offset, offset + length, size):
                    self._take(Burst(start, min(size, offset + length - start), size, endpoint), now)
                return
        kind = self._receiver.buffer.bytes[offset] if length else 0
        if self._order is not None and length >= WORTH_HANDING_OUT and self._hand_out(self._order, kind, burst, now):
            return
        self._open(kind, burst, now)

    def _open(self, kind: int, burst: Burst, now: float) -> None:
        offset, length, size, endpoint = burst
        if kind == TYPE_RECORD:
            for peer, items in self._device.records.open_burst(
                self._receiver.buffer, offset, length, size, endpoint, now
            ):
                self._deliver(peer, items)
        elif kind == TYPE_DATA and length <= size:  # by itself: without the preparations for many
            packet = self._device.transport.open(self._receiver.buffer.view[offset : offset + length], endpoint, now)
            if packet is not None:
                self._write((vnet.ZERO, packet))
        elif kind == TYPE_DATA:
            for run in self._opener.open(offset, length, size, endpoint, now):
                self._write_run(run)
        else:
            view = self._receiver.buffer.view
            for start in range(offset, offset + length, size):
                self._device.handle(view[start : min(start + size, offset + length)], endpoint, now)

    # Workers

    def go_on(self, now: float) -> None:
        """Deliver what workers have done, as far as it is its turn. Raises ``OSError`` where the TUN went away."""
        if self._order is not None:
            self._order.go_on(now)

    def _hand_out(self, order: InOrder, kind: int, burst: Burst, now: float) -> bool:
        """Whether a worker took the burst."""
        offset, length, size, _ = burst
        known = length <= size * MAX_RUN if kind == TYPE_DATA else kind == TYPE_RECORD
        if not known or size <= MIN_DATA_SIZE:
            return False
        if kind == TYPE_DATA and self._coalescer is None:  # a worker would put together what the kernel refuses
            return False
        (index,) = _INDEX.unpack_from(self._receiver.buffer.bytes, offset + 4)
        keypair = self._device.state.sessions.get(index)
        if keypair is None or keypair.expired(now):
            return False
        if kind == TYPE_RECORD:
            counter = counter_of_one(self._receiver.buffer, *burst[:3])
            if counter < 0 or keypair.records is None or not keypair.records.begins(counter):
                return False
        work = Kind.OPEN_RECORD if kind == TYPE_RECORD else Kind.OPEN_RUN
        task = Task(work, session=index, size=size)

        def opened(job: Job, now: float) -> None:
            self._opened_elsewhere(job, keypair, kind, burst, now)

        return order.hand_out(task, self._receiver.buffer.view[offset : offset + length], opened)

    def _opened_elsewhere(self, job: Job, keypair: Keypair, kind: int, burst: Burst, now: float) -> None:
        """A worker opened the burst: what it had no part in is whether all is new, and whose the sources are."""
        state = self._device.state
        if state.sessions.get(keypair.local_index) is not keypair or keypair.expired(now):
            state.drops[Drop.EXPIRED] += -(-burst.length // burst.size)
        elif job.done and kind == TYPE_RECORD and keypair.records is not None:
            plain = job.output
            record = Record(job.counter, plain, 0, len(plain), job.messages, job.missing, job.size)
            items = self._device.records.opened(keypair, record, plain, burst.endpoint, now)
            self._deliver(keypair.peer, items)
        elif job.done and kind == TYPE_DATA and self._accept_run(job, keypair):
            self._deliver_run(job, keypair, burst, now)
        else:  # not in order, not whole, or not authentic
            self._receiver.buffer.view[: burst.length] = job.input
            self._open(kind, burst._replace(offset=0), now)

    @staticmethod
    def _accept_run(job: Job, keypair: Keypair) -> bool:
        last = job.counter + job.messages - 1
        return last < REJECT_AFTER_MESSAGES and keypair.window.accept_all(job.counter, job.messages)

    def _deliver_run(self, job: Job, keypair: Keypair, burst: Burst, now: float) -> None:
        peer, transport = keypair.peer, self._device.transport
        transport.authenticated(peer, keypair, burst.endpoint, now)
        peer.rx_bytes += burst.length
        peer.timers.data_received(now)
        output = job.output
        at = 0
        for size in job.writes:  # each of one flow, and so of one source
            if transport.inner_length(peer, output, at + vnet.SIZE, size - vnet.SIZE):
                self._write((output[at : at + size],))
            at += size

    def _deliver(self, peer: Peer, items: list[memoryview]) -> None:
        """Packets and super-packets of records, each behind the vnet header that it had at its sender."""
        for write in rejoin([item for item in items if self._sound(peer, item)]):
            if write[0][_GSO_TYPE_AT] in self._to_cut:
                self._write_pieces(write)
            else:
                self._write(write)

    def _sound(self, peer: Peer, item: memoryview) -> bool:
        """Whether the packet is as its vnet header has it, and from the peer."""
        at = vnet.SIZE
        size = header_size(self._rules.rule(bytes(item[:at])), item)
        if size < 0:
            self._device.drops[Drop.BAD_PACKET] += 1
            return False
        item[0] &= vnet.NEEDS_CSUM  # that a checksum was verified is nothing to take another's word for
        _HDR_LEN.pack_into(item, _HDR_LEN_AT, size)
        return self._device.transport.inner_length(peer, item, at, len(item) - at) > 0

    def _write_run(self, run: OpenedRun) -> None:
        stride, lengths = run.stride, run.lengths
        if self._coalescer is not None and len(lengths) > 1:
            for write in self._coalescer.coalesce_mixed(0, stride, lengths):
                self._write(write)
            return
        for row, length in enumerate(lengths):
            if length:
                self._write((vnet.ZERO, self._opened[row * stride : row * stride + length]))

    def _write(self, buffers: Buffers) -> None:
        """In its turn."""
        if self._order is not None and self._order.busy:
            copy = b"".join(buffers)
            self._order.put(lambda _: self._write((copy,)))
            return
        try:
            self._writev(self._tun.fd, buffers)
        except OSError as error:
            if error.errno == errno.EBADFD:
                raise
            if error.errno == errno.EINVAL and is_super(buffers):
                self._write_pieces(buffers)
                self._refused(buffers)
            else:
                self.errors[f"tun-{errno.errorcode.get(error.errno or 0, 'EIO')}"] += 1

    # Kernels that do not take all

    def _write_pieces(self, buffers: Buffers) -> None:
        """A super-packet, packet by packet."""
        copy = bytearray().join(buffers)
        if not self._pieces:
            self._pieces = bytearray(4 * MAX_READ)
        try:
            for piece in chunk(copy, 0, len(copy), 1, self._pieces):
                self._write((as_single(piece),))
        except OffloadError:
            self._device.drops[Drop.BAD_PACKET] += 1

    def _refused(self, buffers: Buffers) -> None:
        """The kernel took none of this super-packet; where that is the rule, make no more of them, of UDP first."""
        if self._writev is os.writev:
            log.info("msg=%r", "the kernel has refused a super-packet at the TUN; its packets go one by one")
        self._writev = self._refusals.writev
        if not self._refusals.refused(buffers):
            return
        if buffers[0][_GSO_TYPE_AT] in _UDP and not self._to_cut:
            self._to_cut, words = _UDP, "UDP packets"
            self._coalescer = self._coalescer and Coalescer(self._opener.buffer, uso=False)
        else:
            self._to_cut, words, self._coalescer = _ALL, "all packets", None
        log.warning("msg=%r", f"the kernel refuses most super-packets at the TUN: {words} go one by one from now on")
