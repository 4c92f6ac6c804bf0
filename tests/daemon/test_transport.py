"""The handshake's sockets: what the kernel drops, which queue a datagram goes to, how much is read at once."""

from __future__ import annotations

import asyncio
import errno
import itertools
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.addresses import pack_address
from qtunnel.config.types import parse_socket_address
from qtunnel.daemon import packet_filter, transport
from qtunnel.daemon.packet_filter import MAX_SOURCES, SO_ATTACH_FILTER, Instruction, attach, by_source
from qtunnel.daemon.transport import (
    _SHAPE,
    READ_AT_ONCE,
    Address,
    Datagram,
    HandshakeSockets,
    ListenError,
    cookie_source,
)
from qtunnel.handshake.cookies import CookieReply
from qtunnel.handshake.fragments import MAX_MESSAGE, Message, MessageType, cut, mac1_key

KEY = mac1_key(bytes(64))
FIRST = cut(Message(MessageType.INIT, 1, bytes(16), bytes(3000)), KEY)
MAX_INSTRUCTIONS = 4096
FACTORS = (3, 5, 7, 9)


def free_port(family: int = socket.AF_INET) -> int:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def sender(host: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        yield sock


class Received:
    """What the sockets handed over: (from, expected) in order, and how many at once."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bool]] = []
        self.pieces: list[int] = []
        self.more = asyncio.Event()

    def __call__(self, datagrams: list[Datagram], expected: bool) -> None:
        self.pieces.append(len(datagrams))
        self.got += [(address.host, expected) for _, address in datagrams]
        self.more.set()


async def until(received: Received, count: int) -> None:
    async with asyncio.timeout(20):
        while len(received.got) < count:
            received.more.clear()
            await received.more.wait()


@pytest.mark.parametrize("here,known,other", [("127.0.0.1", "127.0.0.2", "127.0.0.3"), ("::1", "::1", None)])
def test_expected_sources_have_a_queue_of_their_own(here: str, known: str, other: str | None) -> None:
    async def run() -> None:
        received = Received()
        port = free_port(socket.AF_INET6 if ":" in here else socket.AF_INET)
        sockets = HandshakeSockets([parse_socket_address(f"[{here}]:{port}" if ":" in here else f"{here}:{port}")],
                                   received)  # fmt: skip
        await sockets.open()
        try:
            with sender(known) as one, sender(other or known) as two:
                one.sendto(FIRST[0], (here, port))
                await until(received, 1)
                sockets.expect([known, "192.0.2.1", "2001:db8::1", "fe80::1%lo"])
                one.sendto(FIRST[0], (here, port))
                await until(received, 2)
                if other is not None:
                    two.sendto(FIRST[0], (here, port))
                    await until(received, 3)
                sockets.expect([])
                one.sendto(FIRST[0], (here, port))
                await until(received, 4 if other else 3)
                sockets.send(b"answer", Address(known, one.getsockname()[1], 0))
                one.settimeout(10)
                assert one.recvfrom(100)[1][:2] == (here, port)
        finally:
            sockets.close()
        others = [(other, False)] if other else []
        assert received.got == [(known, False), (known, True), *others, (known, False)]

    asyncio.run(run())


def test_a_flood_does_not_push_out_what_comes_from_expected_sources() -> None:
    async def run() -> None:
        received = Received()
        port = free_port()
        sockets = HandshakeSockets([parse_socket_address(f"127.0.0.1:{port}")], received)
        await sockets.open()
        try:
            sockets.expect(["127.0.0.2"])
            with sender("127.0.0.2") as peer, sender("127.0.0.3") as flood:
                for _ in range(20_000):  # nobody reads meanwhile: far more than a queue holds
                    flood.sendto(FIRST[0], ("127.0.0.1", port))
                peer.sendto(FIRST[1], ("127.0.0.1", port))
            for _ in range(10):
                await asyncio.sleep(0)
            assert ("127.0.0.2", True) in received.got
            assert len(received.got) < 10 * READ_AT_ONCE
        finally:
            sockets.close()

    asyncio.run(run())


def test_between_two_pieces_everything_else_has_its_turn() -> None:
    async def run() -> None:
        received = Received()
        port = free_port()
        sockets = HandshakeSockets([parse_socket_address(f"127.0.0.1:{port}")], received)
        await sockets.open()
        turns = 0
        try:
            with sender("127.0.0.3") as flood:
                for _ in range(5 * READ_AT_ONCE):
                    flood.sendto(FIRST[0], ("127.0.0.1", port))
            while len(received.got) < 5 * READ_AT_ONCE:
                await asyncio.sleep(0)
                turns += 1
        finally:
            sockets.close()
        assert max(received.pieces) <= READ_AT_ONCE
        assert turns >= 5

    asyncio.run(run())


def test_a_flood_gets_its_share_of_a_core_however_few_of_its_datagrams_are_read_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A single one here, which takes a minute of the processor."""
    spent = itertools.count(0.0, 60.0)
    monkeypatch.setattr(transport, "thread_time", lambda: next(spent))

    async def run() -> None:
        received = Received()
        port = free_port()
        sockets = HandshakeSockets([parse_socket_address(f"127.0.0.1:{port}")], received)
        await sockets.open()
        (its,) = sockets._ports.values()
        assert its.expected is not None
        try:
            sockets.expect(["127.0.0.2"])
            with sender("127.0.0.2") as peer, sender("127.0.0.3") as flood:
                flood.sendto(FIRST[0], ("127.0.0.1", port))
                await until(received, 1)
                assert its.anybody.rests
                flood.sendto(FIRST[0], ("127.0.0.1", port))
                peer.sendto(FIRST[1], ("127.0.0.1", port))
                await until(received, 2)
                assert received.got[-1] == ("127.0.0.2", True), "which has a budget of its own"
                its.anybody._resume()  # the time is over
                await until(received, 3)
        finally:
            sockets.close()
        assert [expected for _, expected in received.got] == [False, True, False]

    asyncio.run(run())


def test_what_the_handshake_does_not_have_never_reaches_the_daemon() -> None:
    async def run() -> None:
        received = Received()
        port = free_port()
        sockets = HandshakeSockets([parse_socket_address(f"127.0.0.1:{port}")], received)
        await sockets.open()
        try:
            with sender("127.0.0.3") as one:
                for datagram in (bytes(100), b"", bytes(1400), FIRST[0]):
                    one.sendto(datagram, ("127.0.0.1", port))
            await until(received, 1)
        finally:
            sockets.close()
        assert received.got == [("127.0.0.3", False)]

    asyncio.run(run())


def test_a_port_that_is_in_use_is_named_also_where_both_would_share_it() -> None:
    async def run() -> None:
        where = [parse_socket_address(f"127.0.0.1:{free_port()}")]
        first, second = HandshakeSockets(where, Received()), HandshakeSockets(where, Received())
        await first.open()
        try:
            with pytest.raises(ListenError, match="is taken by another program"):
                await second.open()
        finally:
            first.close()
        await second.open()
        second.close()

    asyncio.run(run())


def test_a_host_without_the_ip_version_of_any_address_is_told_what_to_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    async def run() -> None:
        where = [parse_socket_address(text) for text in ("[::]:51821", "[::]:51921")]
        with pytest.raises(ListenError, match=r"listen: .* name one of the other IP version, as 0\.0\.0\.0:51821"):
            await HandshakeSockets(where, Received()).open()

    monkeypatch.setattr(transport, "_bind", refuse)
    asyncio.run(run())


def passes(program: list[Instruction], datagrams: list[bytes]) -> list[bool]:
    """Which of them the kernel lets through; datagrams of one length each are told apart by their order."""
    found = []
    with sender("127.0.0.1") as source, sender("127.0.0.1") as sink:
        attach(sink, SO_ATTACH_FILTER, program)
        sink.setblocking(False)
        for datagram in datagrams:
            source.sendto(datagram, sink.getsockname())
            try:
                found.append(sink.recv(2000) == datagram)
            except BlockingIOError:
                found.append(False)
    return found


messages = st.builds(
    Message,
    st.sampled_from(MessageType),
    st.integers(0, 65535),
    st.binary(min_size=16, max_size=16),
    st.integers(1, MAX_MESSAGE).map(bytes),
)


@given(messages)
def test_the_kernel_lets_every_datagram_of_the_handshake_through(message: Message) -> None:
    datagrams = cut(message, KEY)
    reply = CookieReply(message.suite, 0, message.exchange, bytes(24), bytes(32)).pack()
    assert all(passes(_SHAPE, [*datagrams, reply]))


def test_the_kernel_drops_what_the_handshake_does_not_have() -> None:
    whole, reply = FIRST[0], CookieReply(1, 0, bytes(16), bytes(24), bytes(32)).pack()
    wrong = [
        b"", bytes(56), whole[:56], whole + b"\0", bytes([0]) + whole[1:], bytes([6]) + whole[1:],
        whole[:5] + bytes([0]) + whole[6:],
        whole[:5] + bytes([9]) + whole[6:], whole[:4] + bytes([3]) + whole[5:], reply + b"\0", reply[:-1],
        whole[:6] + bytes(2) + whole[8:], whole[:6] + b"\xff\xff" + whole[8:],
    ]  # fmt: skip
    assert not any(passes(_SHAPE, wrong))
    rng = random.Random(1)
    assert sum(passes(_SHAPE, [rng.randbytes(rng.randrange(1500)) for _ in range(2000)])) <= 1


def search(program: list[Instruction], key: int) -> int:
    """What the program of an IPv4 port returns for an address: jumps and comparisons, as the kernel does them."""
    at = 1  # after the load
    for _ in range(MAX_INSTRUCTIONS):
        code, yes, no, value = program[at]
        at += 1
        if code == packet_filter._RETURN:
            return value
        if code == packet_filter._GO:
            at += value
        else:
            at += yes if (key == value if code == packet_filter._EQUAL else key >= value) else no
    raise AssertionError("it does not end")


@given(st.sets(st.integers(0, (1 << 32) - 1), max_size=100), st.integers(0, (1 << 32) - 1))
def test_the_search_finds_what_is_there_and_nothing_else(keys: set[int], other: int) -> None:
    hosts = [socket.inet_ntoa(key.to_bytes(4, "big")) for key in keys]
    program = by_source(socket.AF_INET, hosts, FACTORS)
    assert [search(program, key) for key in keys] == [1] * len(keys)
    assert search(program, other) == (other in keys)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_longest_program_is_one_that_the_kernel_can_take(family: int) -> None:
    hosts = [f"2001:db8::{number:x}" if family == socket.AF_INET6 else f"10.1.{number >> 8}.{number & 255}"
             for number in range(MAX_SOURCES + 500)]  # fmt: skip
    assert len(by_source(family, hosts, FACTORS)) <= MAX_INSTRUCTIONS


def test_many_sources_in_the_kernel() -> None:
    async def run() -> None:
        received = Received()
        port = free_port()
        sockets = HandshakeSockets([parse_socket_address(f"127.0.0.1:{port}")], received)
        await sockets.open()
        known = [f"127.1.{number >> 6}.{(number & 63) + 1}" for number in range(1000)]
        try:
            sockets.expect(known)
            for host in (known[0], "127.2.0.1", known[500], known[999], "127.1.0.200"):
                before = len(received.got)
                with sender(host) as one:
                    one.sendto(FIRST[0], ("127.0.0.1", port))
                    await until(received, before + 1)
        finally:
            sockets.close()
        assert [expected for _, expected in received.got] == [True, False, True, True, False]

    asyncio.run(run())


@pytest.mark.root
def test_a_mark_has_all_of_its_32_bits() -> None:
    """Also one that the owner of an interface chose (``manage: psk``)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        transport.mark_socket(sock, 0xFFFFFFFE, 1 << 20)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK, 4) == struct.pack("=I", 0xFFFFFFFE)


def test_what_a_cookie_is_bound_to() -> None:
    assert cookie_source(Address("192.0.2.1", 258, 0)) == b"\xc0\0\2\1\1\2"
    assert cookie_source(Address("fe80::1%2", 1)) == pack_address("fe80::1") + b"\0\1"
