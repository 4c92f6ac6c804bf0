"""What the kernel has, and what this process may do with it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

from qtunnel.doctor.model import Finding, Host, doubtful, good, left_open, wrong
from qtunnel.engines.host import TUN_DEVICE
from qtunnel.engines.kernel_client import KernelClient
from qtunnel.engines.programs import KERNEL
from qtunnel.process import CAP_IPC_LOCK, has_capability

_TUNGETFEATURES = 0x800454CF  # linux/if_tun.h
_IFF_VNET_HDR = 0x4000
_UDP_SEGMENT, _UDP_GRO = 103, 104  # linux/udp.h
_CAP_NET_ADMIN = 12  # capabilities(7)
_TIME_ERROR = 5  # adjtimex(2): not synchronized
_TIMEX_SIZE = 512
"""Bytes; struct timex has 208, and all zero asks without changing anything."""

NAMESPACES = "/proc/self/ns/net"
SWAPS = Path("/proc/swaps")


def _there(path: str) -> bool:
    return os.path.exists(path)


def _swaps() -> list[str]:
    """Devices and files that memory is swapped to."""
    try:
        return [line.split()[0] for line in SWAPS.read_text().splitlines()[1:] if line.strip()]
    except OSError:
        return []


async def tun(host: Host) -> AsyncIterator[Finding]:
    try:
        descriptor = os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield wrong(f"{TUN_DEVICE} does not exist", "load the module: modprobe tun")
        return
    except OSError as error:
        what = (error.strerror or str(error)).lower()
        yield wrong(f"{TUN_DEVICE} cannot be opened: {what}", "run this as root, or look at the device's mode")
        return
    try:
        told = fcntl.ioctl(descriptor, _TUNGETFEATURES, struct.pack("I", 0))
        if struct.unpack("I", told)[0] & _IFF_VNET_HDR:
            yield good(f"{TUN_DEVICE}, with vnet headers: packets of up to 64 kB pass whole")
        else:
            yield doubtful(f"{TUN_DEVICE} has no vnet headers", "nothing has to be done; a newer kernel is faster")
    except OSError:
        yield doubtful(f"{TUN_DEVICE} does not tell its features", "nothing has to be done; a newer kernel is faster")
    finally:
        os.close(descriptor)


async def offload(host: Host) -> AsyncIterator[Finding]:
    for option, name in ((_UDP_SEGMENT, "UDP_SEGMENT (GSO)"), (_UDP_GRO, "UDP_GRO")):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.setsockopt(socket.IPPROTO_UDP, option, 0)
            except OSError:
                remedy = "nothing has to be done; Linux 5.0 or later has it, and is faster"
                yield doubtful(f"the kernel has no {name}", remedy, name)
            else:
                yield good(f"the kernel has {name}", name)


async def namespaces(host: Host) -> AsyncIterator[Finding]:
    if _there(NAMESPACES):
        yield good("network namespaces are there")
    else:
        yield doubtful("the kernel has no network namespaces", "demo and tests need them; a gateway does not")


async def wireguard(host: Host) -> AsyncIterator[Finding]:
    needed = host.config is not None and host.config.tunnel.engine == KERNEL
    if await KernelClient("qtunnel-doctor").available():
        yield good("the kernel has WireGuard, for engine: kernel and manage: psk")
    elif needed:
        yield wrong("the kernel has no WireGuard", "modprobe wireguard, or another tunnel.engine")
    else:
        yield left_open("the kernel has no WireGuard; no other engine than kernel needs it")


async def capability(host: Host) -> AsyncIterator[Finding]:
    if has_capability(_CAP_NET_ADMIN):
        yield good("this user has CAP_NET_ADMIN")
    else:
        remedy = "run as root, or as a service (qtunnel install-service), whose engine has the capability"
        yield doubtful("this user has no CAP_NET_ADMIN: qtunnel run would not start here", remedy)


async def swap(host: Host) -> AsyncIterator[Finding]:
    devices = _swaps()
    if not devices:
        yield good("no swap: no key is written to a disk by it")
        return
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    if unlimited or has_capability(CAP_IPC_LOCK):
        yield good(f"swap on {', '.join(devices)}; this user may lock memory, and qtunnel does")
    else:
        remedy = "run as root or as a service, or encrypt the swap"
        yield doubtful(f"swap on {', '.join(devices)}, and this user may not lock memory", remedy)


async def clock(host: Host) -> AsyncIterator[Finding]:
    timex = ctypes.create_string_buffer(_TIMEX_SIZE)
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(timex)
    remedy = "have it synchronized: systemctl enable --now systemd-timesyncd, or chrony"
    if host.now().year < 2025:
        yield wrong(f"the clock says {host.now():%Y-%m-%d}: certificates and replay times would fail", remedy)
    elif state < 0:
        yield left_open(f"the kernel does not tell how its clock is: {errno.errorcode.get(ctypes.get_errno(), '')}")
    elif state == _TIME_ERROR:
        yield doubtful("nobody synchronizes the clock", remedy)
    else:
        yield good("the clock is synchronized")
