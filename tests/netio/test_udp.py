"""Bursts to where the kernel takes none: with IPsec on the way, or a device of old without checksum offload."""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections.abc import Iterator

import pytest

from qtunnel.netio.routes import Routes
from qtunnel.netio.udp import UdpPort, bind_pair
from qtunnel.wireguard.endpoint import Endpoint

_UDP_SEGMENT = 103


class Refusing:
    """A socket that gives EIO for bursts to one endpoint, which no kernel without IPsec can be made to do."""

    def __init__(self, real: socket.socket, endpoint: Endpoint) -> None:
        self.real, self.endpoint = real, endpoint
        self.bursts: list[Endpoint] = []

    def sendmsg(
        self,
        buffers: tuple[memoryview, ...],
        ancillary: tuple[tuple[int, int, bytes], ...],
        flags: int,
        endpoint: Endpoint,
    ) -> int:
        if any(kind == _UDP_SEGMENT for _, kind, _ in ancillary):
            self.bursts.append(endpoint)
            if endpoint == self.endpoint:
                raise OSError(errno.EIO, "Input/output error")
        return self.real.sendmsg(buffers, ancillary, flags, endpoint)

    def close(self) -> None:
        self.real.close()


@pytest.fixture
def receivers() -> Iterator[list[socket.socket]]:
    made = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for sock in made:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(5)
    yield made
    for sock in made:
        sock.close()


def test_only_who_cannot_have_bursts_gets_datagrams_one_by_one(
    receivers: list[socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    without, other = (sock.getsockname() for sock in receivers)
    routes = Routes()
    port = UdpPort(routes, segments=True)
    port.replace(bind_pair(0, 0, bursts=False))
    refusing = Refusing(port.sockets[0], without)
    port.sockets[0] = refusing  # type: ignore[call-overload]  # a stand-in with the one method that is used
    data = memoryview(bytes(range(250)) * 10)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for endpoint in (without, other):
                port.send_burst(data, 1000, endpoint)
    assert refusing.bursts == [without, other, other]
    for sock in receivers:
        assert [len(sock.recv(2000)) for _ in range(6)] == [1000, 1000, 500] * 2
    assert len(caplog.records) == 1
    assert "takes no UDP bursts (EIO)" in caplog.text
    assert port.errors == {}
    port.close()
    routes.close()


@pytest.mark.root
@pytest.mark.parametrize("mark", [1, 0x80000000, 0xFFFFFFFF])
def test_a_mark_has_all_of_its_32_bits(mark: int) -> None:
    for sock in bind_pair(0, mark, bursts=False):
        with sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK, 4) == struct.pack("=I", mark)
