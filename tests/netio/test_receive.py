"""Receiving bursts and single datagrams on real sockets: everything comes, in order, with where it came from."""

from __future__ import annotations

import errno
import random
import socket
import struct
from collections.abc import Iterator

import pytest

from qtunnel.netio.paths import IP_PKTINFO, Path, Paths
from qtunnel.netio.receive import MAX_MESSAGES, SLOTS, Burst, Receiver
from qtunnel.netio.routes import Routes

UDP_SEGMENT, UDP_GRO = 103, 104


class Ends:
    """A receiver's socket, and one that sends to it."""

    def __init__(self, family: socket.AddressFamily) -> None:
        self.to = socket.socket(family, socket.SOCK_DGRAM)
        self.sender = socket.socket(family, socket.SOCK_DGRAM)
        host = "127.0.0.1" if family == socket.AF_INET else "::1"
        if family == socket.AF_INET:
            self.to.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        else:
            self.to.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        self.to.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        self.to.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        for end in (self.to, self.sender):
            end.bind((host, 0))
        self.sender.connect(self.to.getsockname())
        self.routes = Routes()
        self.receiver = Receiver(Paths(self.routes))

    def send(self, *datagrams: bytes) -> None:
        for data in datagrams:
            self.sender.send(data)

    def send_burst(self, data: bytes, size: int) -> None:
        self.sender.sendmsg([data], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))])

    def receive(self) -> list[tuple[Burst, bytes]]:
        found = []
        for burst in self.receiver.receive(self.to.fileno()):
            found.append((burst, bytes(self.receiver.buffer.view[burst.offset : burst.offset + burst.length])))
        return found

    def all(self) -> list[bytes]:
        """The datagrams of all that waits."""
        found = []
        while bursts := self.receive():
            for burst, data in bursts:
                assert tuple(burst.endpoint) == self.sender.getsockname()
                found += [data[at : at + burst.size] for at in range(0, len(data), burst.size)] or [b""]
        return found

    def close(self) -> None:
        self.to.close()
        self.sender.close()
        self.routes.close()


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    made = Ends(request.param)
    yield made
    made.close()


def datagrams(*sizes: int) -> list[bytes]:
    chance = random.Random(sum(sizes))
    return [chance.randbytes(size) for size in sizes]


def test_a_burst_comes_in_one_piece(ends: Ends) -> None:
    data = random.Random(1).randbytes(40 * 1448 + 77)
    ends.send_burst(data, 1448)
    ((burst, received),) = ends.receive()
    assert (burst.length, burst.size, received) == (len(data), 1448, data)
    assert isinstance(burst.endpoint, Path)
    assert burst.endpoint.source
    assert ends.receive() == []


def test_single_datagrams_come_as_a_burst_would_once_there_are_many(ends: Ends) -> None:
    sent = datagrams(*([1448] * 40 + [300] + [1448] * 40))
    ends.send(*sent)
    assert [len(ends.receive()) for _ in range(1)] == [SLOTS]
    assert ends.receiver._small == 1448
    bursts = ends.receive()
    assert [(burst.length, burst.size) for burst, _ in bursts] == [
        ((40 - SLOTS) * 1448 + 300, 1448),
        ((MAX_MESSAGES - 40 + SLOTS - 1) * 1448, 1448),
    ]
    rest = b"".join(data for _, data in bursts) + b"".join(ends.all())
    assert rest == b"".join(sent[SLOTS:])


def test_bursts_among_single_datagrams_lose_nothing(ends: Ends) -> None:
    """Slots are small by then, and what is longer than one is put together again."""
    sent = datagrams(*[1448] * (SLOTS + 2))
    ends.send(*sent)
    ends.receive()
    assert ends.receiver._small == 1448
    big = random.Random(2).randbytes(20 * 1448)
    ends.send_burst(big, 1448)
    after = datagrams(500, 64)
    ends.send(*after)
    expected = sent[SLOTS:] + [big[at : at + 1448] for at in range(0, len(big), 1448)] + after
    assert ends.all() == expected
    assert ends.receiver._small == 0


def test_any_sizes_in_order(ends: Ends) -> None:
    chance = random.Random(3)
    for _ in range(200):
        sent: list[bytes] = []
        for _ in range(chance.randint(1, 30)):
            if chance.random() < 0.3:
                size = chance.choice([64, 500, 1448])
                data = chance.randbytes(chance.randint(size + 1, 40 * size))
                ends.send_burst(data, size)
                sent += [data[at : at + size] for at in range(0, len(data), size)]
            else:
                data = chance.randbytes(chance.choice([1, 64, 64, 64, 1448, 1448, 9000]))
                ends.send(data)
                sent.append(data)
        assert ends.all() == sent


def test_a_path_that_was_given_up_is_learned_again(ends: Ends) -> None:
    ends.send(b"one")
    ((first, _),) = ends.receive()
    assert isinstance(first.endpoint, Path)
    ends.receiver._paths.give_up(first.endpoint)
    assert first.endpoint.source == []
    ends.send(b"two")
    ((second, _),) = ends.receive()
    assert isinstance(second.endpoint, Path)
    assert second.endpoint.source


def test_an_error_that_waits_is_raised(ends: Ends) -> None:
    """Of an ICMP message, say; the next call goes on."""
    ends.to.connect(ends.sender.getsockname())
    ends.sender.close()
    ends.to.send(b"nobody is there")
    with pytest.raises(OSError) as raised:
        ends.receiver.receive(ends.to.fileno())
    assert raised.value.errno == errno.ECONNREFUSED
    assert ends.receive() == []
