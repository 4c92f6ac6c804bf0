"""Makes an interface of the kernel's WireGuard, and takes it away when it is told to end, or when the daemon is gone.

A program of its own, ``python -m qtunnel.engines.keeper INTERFACE [PUBLIC_KEY]``. The kernel's interface would outlive
a daemon that is killed, and its packets would go on under a key that nobody renews any more: whatever ``max_age`` says.
With a keeper it ends as the userspace engines do. launch.py has the kernel tell it of the daemon's end.

PUBLIC_KEY: in hex, of this gateway's WireGuard. An interface that has it was left by a keeper that was killed itself,
since nobody else has its private key: it is removed. Any other interface of the name is not touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from qtunnel.constants import UAPI_DIRECTORY
from qtunnel.engines.kernel_client import KernelClient
from qtunnel.errors import EngineError

KIND = "wireguard"
HOLDS = "holds interface number"
"""Begins the line that says that it is made, and which it is: one of the name that is there may be somebody else's."""
ENDS = {signal.SIGTERM, signal.SIGINT}
NO_MODULE = (
    "this kernel has no WireGuard; load its module (modprobe wireguard; it is part of Linux since 5.6, and of Debian's "
    "kernels), or use engine: qtunnel"
)


class _RefusedError(Exception):
    """In one line, why there is no interface."""


def main(interface: str, public_key: bytes | None) -> None:
    """Until SIGTERM or SIGINT; which wait until the interface is there, so that none is forgotten."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    try:
        with _alone(interface), IPRoute() as netlink:
            index = _make(netlink, interface, public_key)
            try:
                print(f"{HOLDS} {index}", flush=True)
                signal.sigwait(ENDS)
            finally:
                _remove(netlink, index)
    except _RefusedError as error:
        sys.exit(str(error))


@contextmanager
def _alone(interface: str) -> Iterator[None]:
    """One keeper for a name, as with UAPI sockets; a lock that ends with its process."""
    path = Path(UAPI_DIRECTORY) / f"{interface}.keeper"
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        while True:
            # No link: in that directory others may put one, by which root would make a file of their choice.
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_nlink:  # else its owner took it away between the two
                break
            os.close(lock)
    except BlockingIOError:
        raise _RefusedError(f"interface name {interface} is taken by another gateway of qtunnel") from None
    except OSError as error:
        raise _RefusedError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def _make(netlink: IPRoute, interface: str, public_key: bytes | None) -> int:
    found = netlink.link_lookup(ifname=interface)
    if found:
        if public_key is None or _public_key_of(interface, int(found[0])) != public_key:
            raise _RefusedError(
                f"interface name {interface} is taken; choose another name under tunnel.interface, remove the old one "
                f"(ip link del {interface}), or, where it is a WireGuard interface whose keys alone are wanted here, "
                "set tunnel.manage: psk"
            )
        _remove(netlink, int(found[0]))
    try:
        netlink.link("add", ifname=interface, kind=KIND)
    except NetlinkError as error:
        raise _RefusedError(_explain(error, interface)) from None
    return int(netlink.link_lookup(ifname=interface)[0])


def _explain(error: NetlinkError, interface: str) -> str:
    match error.code:
        case errno.EOPNOTSUPP:
            return NO_MODULE
        case errno.EPERM:
            return (
                f"no permission to create interface {interface}; needs CAP_NET_ADMIN: run as root, or as a service "
                "with AmbientCapabilities=CAP_NET_ADMIN"
            )
        case errno.EEXIST:
            return f"interface name {interface} is taken"
    return f"interface {interface}: {os.strerror(error.code).lower()}"


def _public_key_of(interface: str, index: int) -> bytes | None:
    try:
        return asyncio.run(KernelClient(interface, index=index).get()).public_key
    except EngineError:
        return None  # no WireGuard interface


def _remove(netlink: IPRoute, index: int) -> None:
    with contextlib.suppress(NetlinkError):  # gone, which is what was wanted; else the daemon finds it and says so
        netlink.link("del", index=index)


if __name__ == "__main__":
    main(sys.argv[1], bytes.fromhex(sys.argv[2]) if len(sys.argv) > 2 else None)
