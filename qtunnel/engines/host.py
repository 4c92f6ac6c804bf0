"""What an engine needs of the host, looked at before it is started: its own words reach nobody in time."""

from __future__ import annotations

import errno
import os
import socket

from qtunnel.errors import InterfaceError

TUN_DEVICE = "/dev/net/tun"


def index_of(name: str) -> int | None:
    """The interface's number in this process's network namespace, which the kernel gives to no other one by itself;
    ``None`` where there is none of that name. Raises ``InterfaceError`` where nobody can tell: the C library asks with
    a socket, and says "no interface" as well where it gets none."""
    for _ in range(2):  # a descriptor may have become free in between
        try:
            return socket.if_nametoindex(name)
        except OSError:
            try:
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise InterfaceError(f"interface {name} cannot be looked at: {reason}") from None
    return None


def is_other(name: str, index: int | None) -> bool:
    """Whether the interface of that name is gone or has another number; false where nobody can tell."""
    try:
        return index_of(name) != index
    except InterfaceError:
        return False


def interface_exists(name: str) -> bool:
    """In this process's network namespace."""
    return index_of(name) is not None


def check_tun_device() -> None:
    """Raises ``InterfaceError`` where this process cannot open it."""
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise InterfaceError(f"{TUN_DEVICE} does not exist; load the module (modprobe tun)") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InterfaceError(f"{TUN_DEVICE} cannot be opened: {reason}; run as root or with CAP_NET_ADMIN") from None


def port_problem(port: int) -> str | None:
    """Why WireGuard cannot have that UDP port, in words; wireguard-go binds at link-up and tells only its log."""
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104  # as engines do
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return (
                    f"UDP port {port} is taken by another program (ss -lunp 'sport = {port}' names it); choose another "
                    "under node.wireguard_port"
                )
            if error.errno in (errno.EACCES, errno.EPERM):
                return f"UDP port {port}: no permission; needs CAP_NET_BIND_SERVICE"
            # Any other error is a host without this address family, which the engine does without as well.
    return None
