"""Receiving many datagrams with one system call (recvmmsg(2)), each perhaps a burst that the kernel glued (UDP_GRO).

A call of the library's ``recvmsg_into`` costs 1.5 us besides the kernel's time, for each datagram where a link does not
keep bursts together; one call for up to 64 of them costs 2 us, and lets them lie as a burst would.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from qtunnel.netio.paths import AncillaryData, Path, Paths
from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.record_burst import ReceiveBuffer

MAX_DATAGRAM: Final = 65536
SLOTS: Final = 3
"""Bursts of up to 64 kB taken at once: more would fall out of a core's cache of 512 kB before they are opened."""

SLOT_SIZE: Final = MAX_DATAGRAM + 64
"""The 64 bytes keep slots from falling into the same cache sets."""

MAX_MESSAGES: Final = 64
"""Single datagrams taken at once: as many as a burst has at most."""

UDP_GRO: Final = 104
SOL_UDP: Final = socket.IPPROTO_UDP

_NAME_SPACE: Final = 32
_CONTROL_SPACE: Final = 96
_MSG_DONTWAIT: Final = 0x40
_MESSAGE: Final = struct.Struct("@PI4xPNPNi4xI4x")
"""struct mmsghdr: name, its length, vectors, their number, control, its length, flags; bytes received."""

_LENGTH: Final = struct.Struct("@I")
_LENGTH_AT: Final = _MESSAGE.size - 8
_VECTORS: Final = struct.Struct("@PNPN")
"""Two struct iovec: address and length."""

_CMSG_HEADER: Final = struct.Struct("@Nii")
_CMSG_ALIGNMENT: Final = struct.calcsize("@N")
_SOCKADDR_IN: Final = struct.Struct("!2xH4s")
_SOCKADDR_IN6: Final = struct.Struct("!2xHI16sI")
_NO_NAMES: Final = bytes(MAX_MESSAGES * _NAME_SPACE)
_NO_CONTROLS: Final = bytes(MAX_MESSAGES * _CONTROL_SPACE)
_MAX_KNOWN: Final = 4096
"""Combinations of source, destination and burst size that are remembered, about a megabyte."""

_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)


class Burst(NamedTuple):
    """Datagrams of one path at ``buffer[offset : offset + length]``: ``size`` bytes each, the last perhaps shorter."""

    offset: int
    length: int
    size: int
    endpoint: Endpoint


def _address(buffer: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


class Receiver:
    """Receives from one or more sockets into ``buffer``. What ``receive`` returns is valid until the next call."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self.buffer = ReceiveBuffer(SLOTS * SLOT_SIZE)
        self._names = bytearray(MAX_MESSAGES * _NAME_SPACE)
        self._controls = bytearray(MAX_MESSAGES * _CONTROL_SPACE)
        self._spill = bytearray()
        self._vectors = bytearray(MAX_MESSAGES * _VECTORS.size)
        self._messages = bytearray(MAX_MESSAGES * _MESSAGE.size)
        self._pointer = _address(self._messages)
        self._fresh = b""
        self._known: dict[tuple[bytes, bytes], tuple[Endpoint, int]] = {}
        self._small = 0
        self._count = 0
        self._expect_bursts()

    def _expect_bursts(self) -> None:
        self._small, self._count = 0, SLOTS
        start = _address(self.buffer.bytes)
        for row in range(SLOTS):
            _VECTORS.pack_into(self._vectors, row * _VECTORS.size, start + row * SLOT_SIZE, SLOT_SIZE, 0, 0)
        self._prepare(1)

    def _expect_singles(self, size: int) -> None:
        """Slots of just ``size`` bytes, so that datagrams lie as in a burst; what is longer spills over."""
        if not self._spill:
            self._spill = bytearray(MAX_MESSAGES * MAX_DATAGRAM)  # touched, and so in memory, only where it is needed
        self._small = size
        self._count = min(MAX_MESSAGES, len(self.buffer.bytes) // size)
        start, spill = _address(self.buffer.bytes), _address(self._spill)
        for row in range(self._count):
            vectors = start + row * size, size, spill + row * MAX_DATAGRAM, MAX_DATAGRAM
            _VECTORS.pack_into(self._vectors, row * _VECTORS.size, *vectors)
        self._prepare(2)

    def _prepare(self, vectors: int) -> None:
        """The table of messages as it has to be before each call, since the kernel writes lengths into it."""
        names, controls, start = _address(self._names), _address(self._controls), _address(self._vectors)
        self._fresh = b"".join(
            _MESSAGE.pack(
                *(names + row * _NAME_SPACE, _NAME_SPACE),
                *(start + row * _VECTORS.size, vectors),
                *(controls + row * _CONTROL_SPACE, _CONTROL_SPACE, 0, 0),
            )
            for row in range(self._count)
        )

    def receive(self, descriptor: int) -> Iterable[Burst]:
        """What waits at a socket, up to ``SLOTS`` bursts or ``MAX_MESSAGES`` datagrams; an empty list for nothing.

        Raises ``OSError`` for an error that waits there.
        """
        messages = self._messages
        messages[: len(self._fresh)] = self._fresh
        if self._small:  # what is compared as a whole has to be free of what was there before
            self._names[:], self._controls[:] = _NO_NAMES, _NO_CONTROLS
        taken = _recvmmsg(descriptor, self._pointer, self._count, _MSG_DONTWAIT, None)
        if taken <= 0:
            number = ctypes.get_errno()
            if taken == 0 or number == errno.EAGAIN:
                return []
            raise OSError(number, os.strerror(number))
        lengths = [
            _LENGTH.unpack_from(messages, row)[0] for row in range(_LENGTH_AT, taken * _MESSAGE.size, _MESSAGE.size)
        ]
        return self._singles(lengths) if self._small else self._bursts(lengths)

    def _bursts(self, lengths: list[int]) -> list[Burst]:
        found = []
        single = True
        for row, length in enumerate(lengths):
            endpoint, size = self._origin(row)
            found.append(Burst(row * SLOT_SIZE, length, size or max(length, 1), endpoint))
            single = single and not size
        if single and len(lengths) == SLOTS and 0 < max(lengths) <= len(self.buffer.bytes) // SLOTS:
            self._expect_singles(max(lengths))
        return found

    def _singles(self, lengths: list[int]) -> Iterable[Burst]:
        size, count = self._small, len(lengths)
        longest = max(lengths)
        if longest > size or longest * 2 < size:
            self._expect_bursts()
            return self._scattered(size, lengths)
        uniform = self._uniform(count) and not self._origin(0)[1]
        found = []
        start = 0
        for row, length in enumerate(lengths):
            last = row + 1 == count
            if length == size and not last and uniform:
                continue
            endpoint, glued = self._origin(row)
            unit = size if row > start else glued or max(length, 1)
            found.append(Burst(start * size, (row - start) * size + length, unit, endpoint))
            start = row + 1
        return found

    def _uniform(self, count: int) -> bool:
        """Whether all came the same way."""
        names, controls = bytes(self._names[: count * _NAME_SPACE]), bytes(self._controls[: count * _CONTROL_SPACE])
        return names == names[:_NAME_SPACE] * count and controls == controls[:_CONTROL_SPACE] * count

    def _scattered(self, size: int, lengths: list[int]) -> Iterator[Burst]:
        """Datagrams, some of which are longer than their slot: each in turn at the start of the buffer."""
        view, spill = self.buffer.view, memoryview(self._spill)
        slots = [bytes(view[row * size : row * size + min(size, length)]) for row, length in enumerate(lengths)]
        origins = [self._origin(row) for row in range(len(lengths))]
        for row, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
            view[: len(slot)] = slot
            if length > size:
                view[size:length] = spill[row * MAX_DATAGRAM : row * MAX_DATAGRAM + length - size]
            endpoint, burst = origins[row]
            yield Burst(0, length, burst or max(length, 1), endpoint)

    def _origin(self, row: int) -> tuple[Endpoint, int]:
        """Where the datagram came from, and the size of the datagrams that it was glued of, 0 for one."""
        _, name_length, _, _, _, control_length, _, _ = _MESSAGE.unpack_from(self._messages, row * _MESSAGE.size)
        at = row * _NAME_SPACE
        name = bytes(self._names[at : at + min(name_length, _NAME_SPACE)])
        at = row * _CONTROL_SPACE
        control = bytes(self._controls[at : at + control_length])
        known = self._known.get((name, control))
        if known is not None and not (isinstance(known[0], Path) and not known[0].source):
            return known
        ancillary, size = _parse_control(control)
        made = self._paths.learn(_parse_name(name), ancillary), size
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[name, control] = made
        return made


def _parse_name(name: bytes) -> Endpoint:
    """The address of a struct sockaddr_in or sockaddr_in6."""
    if len(name) == 16:
        port, address = _SOCKADDR_IN.unpack_from(name)
        return socket.inet_ntop(socket.AF_INET, address), port
    port, flow, address, _ = _SOCKADDR_IN6.unpack_from(name)
    (scope,) = struct.unpack_from("@I", name, 24)
    return socket.inet_ntop(socket.AF_INET6, address), port, flow, scope


def _parse_control(control: bytes) -> tuple[list[AncillaryData], int]:
    """The control messages (cmsg(3)), and the segment size of UDP_GRO, 0 where there is none."""
    found: list[AncillaryData] = []
    size = at = 0
    while at + _CMSG_HEADER.size <= len(control):
        length, level, kind = _CMSG_HEADER.unpack_from(control, at)
        if length < _CMSG_HEADER.size:
            break
        data = control[at + _CMSG_HEADER.size : at + length]
        if level == SOL_UDP and kind == UDP_GRO:
            size = int.from_bytes(data, sys.byteorder)
        else:
            found.append((level, kind, data))
        at += -(-length // _CMSG_ALIGNMENT) * _CMSG_ALIGNMENT
    return found, size
