"""A TUN device (kernel documentation, networking/tuntap): packets of the interface as reads and writes."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from qtunnel.errors import InterfaceError
from qtunnel.netio import kernel

MAX_NAME = 15
"""Characters of an interface name (IFNAMSIZ less the zero)."""

TX_QUEUE_LENGTH = 1000
"""Packets that wait for this process before the kernel drops: 10 ms of work here, twice a TUN's default of 500."""

_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_TUN_EXCL = 0x8000
_IFREQ_FLAGS = struct.Struct("16sH22x")

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

    def __init__(self, name: str) -> None:
        """Create it; raises ``InterfaceError`` in words where that cannot be."""
        check_name(name)
        self.name = name
        try:
            self.fd = os.open(_CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            remedy = _NEEDS_ADMIN if error.errno in (errno.EACCES, errno.EPERM) else "load the module: modprobe tun"
            raise InterfaceError(f"interface {name}: {_CLONE_DEVICE}: {error.strerror}; {remedy}") from None
        try:
            request = _IFREQ_FLAGS.pack(name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_TUN_EXCL)
            fcntl.ioctl(self.fd, _TUNSETIFF, request)
        except OSError as error:
            os.close(self.fd)
            raise InterfaceError(f"interface {name}: {_reason(error)}") from None
        try:
            kernel.set_queue_length(socket.if_nametoindex(name), TX_QUEUE_LENGTH)
        except OSError as error:
            os.close(self.fd)
            raise InterfaceError(f"interface {name}: its queue length cannot be set: {error.strerror}") from None

    def close(self) -> None:
        """Close the descriptor, which removes the interface."""
        os.close(self.fd)


def _reason(error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return "the name is taken by another interface; choose another name, or remove that one"
    if error.errno in (errno.EPERM, errno.EACCES):
        return f"creating it is not permitted; {_NEEDS_ADMIN}"
    return f"cannot be created: {error.strerror}"
