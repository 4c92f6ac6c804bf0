"""Two TUN devices with all offloads, joined by splitting and coalescing: what goes into one comes out of the other."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from qtunnel.offload import vnet
from qtunnel.offload.chunk import chunk
from qtunnel.offload.coalesce import Coalescer
from qtunnel.offload.split import Splitter
from tests.support.netns import Namespace, run, unique_name

MTU = 1420
READ_SIZE = 70000

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_FLAGS = 0x0001 | 0x1000 | 0x4000
"""IFF_TUN, IFF_NO_PI, IFF_VNET_HDR."""
_OFFLOADS = 0x01 | 0x02 | 0x04 | 0x08
"""Checksum, TSO4, TSO6, TSO with ECN."""
_USO = 0x20 | 0x40


def _open(name: str) -> tuple[int, bool]:
    """Descriptor of a new TUN, and whether it takes UDP super-packets (Linux 6.2)."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _FLAGS))
    try:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOADS | _USO)
    except OSError:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOADS)
        return fd, False
    return fd, True


class Bridge:
    """Copies from each TUN to the other in a thread; ``chunks``: in super-packets of so many segments, if not 0."""

    def __init__(self, names: tuple[str, str], chunks: int) -> None:
        opened = [_open(name) for name in names]
        self.fds = [fd for fd, _ in opened]
        self.uso = all(uso for _, uso in opened)
        self.seen: Counter[str] = Counter()
        self.failure: Exception | None = None
        self.chunks = chunks
        self._stop_reader, self._stop_writer = os.pipe()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Begin, with both interfaces up: a write to one that is down fails."""
        self._thread.start()

    def _run(self) -> None:
        try:
            self._copy()
        except Exception as error:
            self.failure = error

    def _copy(self) -> None:
        source, pieces = bytearray(READ_SIZE), bytearray(4 * READ_SIZE)
        whole, chunked = Splitter(source), Splitter(pieces)
        poll = select.poll()
        for fd in (*self.fds, self._stop_reader):
            poll.register(fd, select.POLLIN)
        coalescers: dict[int, Coalescer] = {}
        while True:
            for fd, _ in poll.poll():
                if fd == self._stop_reader:
                    return
                try:
                    length = os.readv(fd, [source])
                except BlockingIOError:
                    continue
                target = self.fds[1 - self.fds.index(fd)]
                kind = source[1] & ~vnet.GSO_ECN
                self.seen[f"read {kind}"] += 1
                at = 0
                blobs = chunk(source, 0, length, self.chunks or READ_SIZE, pieces)
                self.seen["chunked"] += len(blobs) > 1
                for blob in blobs:
                    splitter = chunked if len(blobs) > 1 else whole
                    split = splitter.split(at, len(blob), MTU)
                    at += len(blob)
                    coalescer = coalescers.setdefault(id(split.buffer), Coalescer(split.buffer, self.uso))
                    for write in coalescer.coalesce(0, split.stride, split.count, split.length, split.last_length):
                        self.seen[f"written {write[0][1] & ~vnet.GSO_ECN}"] += 1
                        with suppress(BlockingIOError):
                            os.writev(target, write)

    def close(self) -> None:
        os.write(self._stop_writer, b"x")
        if self._thread.ident is not None:
            self._thread.join(10)
        for fd in (*self.fds, self._stop_reader, self._stop_writer):
            os.close(fd)


@contextmanager
def bridged(hosts: list[Namespace], chunks: int = 0) -> Iterator[Bridge]:
    """A bridge between the hosts, which get 10.98.0.1/24, fd98::1/64 and 10.98.0.2/24, fd98::2/64."""
    names = unique_name("qt"), unique_name("qt")
    bridge = Bridge(names, chunks)
    try:
        for number, (host, name) in enumerate(zip(hosts, names, strict=True), 1):
            run("ip", "link", "set", name, "netns", host.name)
            host.ip("link", "set", name, "mtu", str(MTU))
            host.address(name, f"10.98.0.{number}/24", f"fd98::{number}/64")
        bridge.start()
        yield bridge
    finally:
        bridge.close()
    if bridge.failure:
        raise bridge.failure
