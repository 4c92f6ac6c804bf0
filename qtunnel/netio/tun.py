"""A TUN device (kernel documentation, networking/tuntap): packets of the interface as reads and writes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct

from qtunnel.constants import DEFAULT_MTU
from qtunnel.errors import InterfaceError
from qtunnel.netio import kernel
from qtunnel.netio.udp import MAX_BURST
from qtunnel.wireguard.transport import DATA_OVERHEAD

MAX_NAME = 15
"""Characters of an interface name (IFNAMSIZ less the zero)."""

TX_QUEUE_LENGTH = 1000
"""Packets that wait for this process before the kernel drops: 10 ms of work here, twice a TUN's default of 500."""

_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_TUN_EXCL = 0x8000
_TUNSETOFFLOAD = 0x400454D0
_TUN_F_CSUM = 0x01
_TUN_F_TSO = 0x02 | 0x04 | 0x08  # IPv4, IPv6, ECN
_TUN_F_USO = 0x20 | 0x40  # IPv4, IPv6
_OFFLOADS = (
    (_TUN_F_CSUM | _TUN_F_TSO | _TUN_F_USO, "TCP and UDP segmentation"),
    (_TUN_F_CSUM | _TUN_F_TSO, "TCP segmentation; this kernel has none for UDP"),
    (0, "none; this kernel refuses it"),
)
"""From the best to none, with words for the log."""

MAX_READ = 10 + 65535 + 15
"""Bytes that a read brings at most: vnet header and packet; and room to pad that."""

_TCP_HEADERS = 52
_RESERVED = 321
"""Bytes that the kernel's TCP stays below the limit (MAX_TCP_HEADER + 1)."""

_IFREQ_FLAGS = struct.Struct("16sH22x")

log = logging.getLogger(__name__)

_CLONE_DEVICE = "/dev/net/tun"
_NEEDS_ADMIN = "needs CAP_NET_ADMIN: run it as root, or in a user namespace with a network namespace of its own"


def check_name(name: str) -> None:
    """Raises ``InterfaceError`` for a name that the kernel would refuse, or expand."""
    printable = name.isascii() and name.isprintable()
    if not 0 < len(name) <= MAX_NAME or not printable or any(c in name for c in "/%: ") or name in (".", ".."):
        raise InterfaceError(
            f"interface name {name!r}: 1 to {MAX_NAME} characters without '/', '%', ':' or space are allowed"
        )


class Tun:
    """A TUN device made for this process; it goes away with the last descriptor. Not blocking."""

    def __init__(self, name: str, *, offload: bool = True) -> None:
        """Create it; raises ``InterfaceError`` in words where that cannot be.

        Its MTU is WireGuard's own, for whoever sets up an address and no more. Reads and writes have a vnet header in
        front of the packet. offload: let packets be up to 64 kB large both ways
        where the kernel can segment them; ``segments`` and, for UDP, ``udp_segments`` tell whether it can.
        """
        check_name(name)
        self.segments = self.udp_segments = False
        self._gso_max_size = 0
        try:
            self.fd = os.open(_CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            remedy = _NEEDS_ADMIN if error.errno in (errno.EACCES, errno.EPERM) else "load the module: modprobe tun"
            raise InterfaceError(f"interface {name}: {_CLONE_DEVICE}: {error.strerror}; {remedy}") from None
        try:
            request = _IFREQ_FLAGS.pack(name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR | _IFF_TUN_EXCL)
            fcntl.ioctl(self.fd, _TUNSETIFF, request)
        except OSError as error:
            os.close(self.fd)
            raise InterfaceError(f"interface {name}: {_reason(error)}") from None
        try:
            index = socket.if_nametoindex(name)
            kernel.set_mtu(index, DEFAULT_MTU)
            kernel.set_queue_length(index, TX_QUEUE_LENGTH)
        except OSError as error:
            os.close(self.fd)
            raise InterfaceError(f"interface {name}: MTU and queue length cannot be set: {error.strerror}") from None

        if offload:
            self._switch_offload_on()

    @property
    def name(self) -> str:
        """What the interface is called by now. Raises ``OSError`` where it is gone."""
        return kernel.tun_name(self.fd)

    def _switch_offload_on(self) -> None:
        for flags, words in _OFFLOADS:
            try:
                fcntl.ioctl(self.fd, _TUNSETOFFLOAD, flags)
            except OSError:
                continue
            self.segments, self.udp_segments = bool(flags & _TUN_F_TSO), bool(flags & _TUN_F_USO)
            log.info("msg=%r", f"segmentation offload: {words}")
            return

    def fit_bursts(self, mtu: int) -> None:
        """Let super-packets be as large as what is sent of them in one call."""
        count = max(1, MAX_BURST // (mtu + DATA_OVERHEAD))
        size = min(65536, count * max(mtu - _TCP_HEADERS, 1) + _TCP_HEADERS + _RESERVED)
        if size != self._gso_max_size:
            with contextlib.suppress(OSError):  # out of sight, or an old kernel: larger ones go out in two calls
                kernel.set_gso_max_size(socket.if_nametoindex(self.name), size)
                self._gso_max_size = size

    def close(self) -> None:
        """Close the descriptor, which removes the interface."""
        os.close(self.fd)


def _reason(error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return "the name is taken by another interface; choose another name, or remove that one"
    if error.errno in (errno.EPERM, errno.EACCES):
        return f"creating it is not permitted; {_NEEDS_ADMIN}"
    return f"cannot be created: {error.strerror}"
