"""From the network to the TUN: bursts of datagrams are received, opened, put together and written, in order."""

from __future__ import annotations

import errno
import logging
import os
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from qtunnel.netio.receive import Burst, Receiver
from qtunnel.netio.tun import Tun
from qtunnel.netio.udp import UdpPort
from qtunnel.offload import vnet
from qtunnel.offload.coalesce import Coalescer
from qtunnel.offload.errors import OffloadError
from qtunnel.offload.headers import CHECKSUM_OFFSET
from qtunnel.offload.rejoin import rejoin
from qtunnel.offload.split import MAX_SEGMENTS
from qtunnel.wireguard.device import Device
from qtunnel.wireguard.messages import TYPE_DATA
from qtunnel.wireguard.peer import Peer
from qtunnel.wireguard.record_format import TYPE_RECORD
from qtunnel.wireguard.runs import OpenedRun, RunOpener
from qtunnel.wireguard.state import Drop

MAX_CALLS: Final = 4
"""Calls of recvmmsg before the other direction has its turn: 2 MB, or 256 small datagrams, about 1 ms."""

MAX_BYTES: Final = 256 << 10
"""Bytes, likewise; see outbound."""

_LARGEST: Final = 1 << 17
"""Bytes, more than any item has."""

_ENOUGH: Final = 64
_CHECKSUM_OFFSETS: Final = frozenset(CHECKSUM_OFFSET.values())


class _Rule(NamedTuple):
    """What an item with a certain vnet header must be like. The kernel writes the checksum where the header says, and
    cuts as it says: into the transport header, and not into thousands of pieces.

    least, most: its bytes. start: where the transport header begins, if ``least`` is not 0.
    """

    least: int
    start: int
    most: int


_NOTHING: Final = _Rule(_LARGEST, 0, 0)

_MAX_HEADERS: Final = 256
"""Vnet headers that are remembered; flows of one path have few."""

log = logging.getLogger(__name__)


class Inbound:
    """Receives from the sockets of one UDP port and writes to one TUN."""

    def __init__(self, tun: Tun, device: Device, udp: UdpPort) -> None:
        self._tun = tun
        self._device = device
        self._receiver = Receiver(udp.paths)
        self._opener = RunOpener(device.state, device.transport, self._receiver.buffer.bytes)
        self._coalescer = Coalescer(self._opener.buffer, tun.udp_segments) if tun.segments else None
        self._opened = memoryview(self._opener.buffer)
        self._rules: dict[bytes, _Rule] = {}
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
                    self._take(burst, now)
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
        if kind == TYPE_RECORD:
            for peer, items in self._device.records.open_burst(
                self._receiver.buffer, offset, length, size, endpoint, now
            ):
                for write in rejoin([item for item in items if self._sound(peer, item)]):
                    self._write(write)
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

    def _sound(self, peer: Peer, item: memoryview) -> bool:
        """Whether to deliver a packet or super-packet of a record, behind the vnet header that it had at its sender."""
        length = len(item)
        rule = self._rules.get(bytes(item[: vnet.SIZE])) or self._rule(bytes(item[: vnet.SIZE]))
        at = vnet.SIZE
        header = 40 if item[at] >> 4 == 6 else (item[at] & 15) * 4
        if length < rule.least or length > rule.most or (rule.least and rule.start < header):
            self._device.drops[Drop.BAD_PACKET] += 1
            return False
        item[0] &= vnet.NEEDS_CSUM  # that a checksum was verified is nothing to take another's word for
        return self._device.transport.inner_length(peer, item, at, length - at) > 0

    def _rule(self, header: bytes) -> _Rule:
        flags, _, _, gso_size, start, offset = vnet.HEADER.unpack(header)
        try:
            vnet.parse(header[: vnet.HEADER.size - 4] + bytes(_ENOUGH), 0, _ENOUGH)  # all but the checksum's
        except OffloadError:
            rule = _NOTHING
        else:
            most = gso_size * MAX_SEGMENTS if gso_size else _LARGEST
            partial = flags & vnet.NEEDS_CSUM
            if partial and offset not in _CHECKSUM_OFFSETS:
                rule = _NOTHING
            else:
                rule = _Rule(vnet.SIZE + start + offset + 2 if partial else 0, start if partial else 0, most)
        if len(self._rules) >= _MAX_HEADERS:
            self._rules.clear()
        self._rules[header] = rule
        return rule

    def _write_run(self, run: OpenedRun) -> None:
        stride, lengths = run.stride, run.lengths
        if self._coalescer is not None and len(lengths) > 1:
            for write in self._coalescer.coalesce_mixed(0, stride, lengths):
                self._write(write)
            return
        for row, length in enumerate(lengths):
            if length:
                self._write((vnet.ZERO, self._opened[row * stride : row * stride + length]))

    def _write(self, buffers: Sequence[memoryview | bytes | bytearray]) -> None:
        try:
            os.writev(self._tun.fd, buffers)
        except OSError as error:
            if error.errno == errno.EBADFD:
                raise
            self.errors[f"tun-{errno.errorcode.get(error.errno or 0, 'EIO')}"] += 1
