"""Calls that Python does not wrap: setns, inotify, a TUN's name, and a netlink socket that tells when links change."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

_TUNGETIFF = 0x800454D2
_IFREQ_SIZE = 40
_IFNAMSIZ = 16
_IN_ATTRIB = 0x004
_IN_MOVED_FROM = 0x040
_IN_DELETE = 0x200
_IN_DELETE_SELF = 0x400
_CLONE_NEWNET = 0x40000000
_RTMGRP_LINK = 1
_RTM_SETLINK = 19
_NLM_F_REQUEST_ACK = 1 | 4
_IFLA_MTU = 4
_IFLA_TXQLEN = 13
_IFLA_GSO_MAX_SIZE = 41
_NLMSG_HEADER = struct.Struct("=IHHII")
_IFINFOMSG = struct.Struct("=BxHiII")
_ATTRIBUTE_U32 = struct.Struct("=HHI")
_NLMSG_ERROR_CODE = struct.Struct("=i")

_libc = ctypes.CDLL(None, use_errno=True)


def enter_network_namespace(descriptor: int) -> None:
    """Move the calling thread, and what it opens from now on, to that network namespace. Raises ``OSError``."""
    _check(_libc.setns(descriptor, _CLONE_NEWNET), "setns")


def tun_name(descriptor: int) -> str:
    """What the interface of a TUN descriptor is called by now, in whatever namespace it is. Raises ``OSError``."""
    request = fcntl.ioctl(descriptor, _TUNGETIFF, bytes(_IFREQ_SIZE))
    return os.fsdecode(request[:_IFNAMSIZ].partition(b"\0")[0])


def watch_directory(path: Path) -> int:
    """An inotify descriptor that becomes readable when a file of ``path`` may have gone."""
    descriptor = _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")
    mask = _IN_ATTRIB | _IN_MOVED_FROM | _IN_DELETE | _IN_DELETE_SELF
    try:
        _check(_libc.inotify_add_watch(descriptor, os.fsencode(path), mask), "inotify_add_watch")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def watch_links() -> socket.socket:
    """A netlink socket that becomes readable when an interface of this namespace changes (rtnetlink(7))."""
    sock = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    )
    sock.bind((0, _RTMGRP_LINK))
    return sock


def set_mtu(interface_index: int, size: int) -> None:
    """Set an interface's MTU, in bytes. Raises ``OSError``."""
    _set_link(interface_index, _IFLA_MTU, size)


def set_queue_length(interface_index: int, packets: int) -> None:
    """Set an interface's txqueuelen over rtnetlink, which a user namespace may use where the ioctl is refused.

    Raises ``OSError``.
    """
    _set_link(interface_index, _IFLA_TXQLEN, packets)


def set_gso_max_size(interface_index: int, size: int) -> None:
    """Set how large super-packets of an interface may be, in bytes. Raises ``OSError``."""
    _set_link(interface_index, _IFLA_GSO_MAX_SIZE, size)


def _set_link(interface_index: int, attribute: int, value: int) -> None:
    body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, interface_index, 0, 0)
    body += _ATTRIBUTE_U32.pack(_ATTRIBUTE_U32.size, attribute, value)
    header = _NLMSG_HEADER.pack(_NLMSG_HEADER.size + len(body), _RTM_SETLINK, _NLM_F_REQUEST_ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        sock.send(header + body)
        (code,) = _NLMSG_ERROR_CODE.unpack_from(sock.recv(4096), _NLMSG_HEADER.size)
    if code:
        raise OSError(-code, os.strerror(-code))


def _check(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return int(result)
