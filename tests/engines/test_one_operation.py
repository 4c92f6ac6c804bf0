"""What has to happen as a whole or not at all goes to an engine as one operation, and to the kernel as one datagram: a
daemon that is killed, or an operation that fails, leaves nothing half done on an interface that is somebody else's."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from ipaddress import ip_network

import pytest
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GENL_ID_CTRL, AsyncGenericNetlinkSocket, ctrlmsg

from qtunnel.crypto.dh import public_key
from qtunnel.engines import existing, kernel_client
from qtunnel.engines.base import MAX_KEEPALIVE, PeerSpec
from qtunnel.engines.device import Device, DevicePeer, Line, added, removed
from qtunnel.engines.existing import ExistingEngine
from qtunnel.engines.kernel_client import SENT_AT_ONCE
from qtunnel.engines.peers import DeviceEngine
from qtunnel.engines.programs import find
from qtunnel.engines.uapi import UapiEngine
from qtunnel.errors import EngineError
from qtunnel.secret import Secret
from tests.engines.namespaces import Namespace, run

PEER = b"k" * 32


class Wire:
    """A device in memory. kept: how many operations reach it before one fails. begun: keepalives that went out, as one
    that is switched on does."""

    def __init__(self, keepalive: int = 0) -> None:
        self.peer = DevicePeer(PEER, ("192.0.2.1", 51820), persistent_keepalive=keepalive)
        self.kept: int | None = None
        self.begun = 0
        self.operations: list[list[Line]] = []

    async def get(self, *, always: bool = True) -> Device:
        return Device(peers={PEER: self.peer})

    async def set(self, lines: Iterable[Line], *, always: bool = False) -> None:
        if self.kept is not None and len(self.operations) >= self.kept:
            raise EngineError("no answer in 5 s")
        self.operations.append(list(lines))
        for key, value in self.operations[-1]:
            if key == "persistent_keepalive_interval":
                self.begun += not self.peer.persistent_keepalive and bool(value)
                self.peer.persistent_keepalive = int(str(value))


async def owned(wire: Wire) -> DeviceEngine:
    engine = ExistingEngine("wg0")

    async def found() -> Wire:
        return wire

    engine._find_client = found  # type: ignore[method-assign]
    await engine.start()
    return engine


async def ours(wire: Wire) -> DeviceEngine:
    return DeviceEngine("foreign", "qt0", wire, random_bytes=os.urandom)


@pytest.mark.parametrize("keepalive", [0, 25, MAX_KEEPALIVE])
@pytest.mark.parametrize("made", [owned, ours])
def test_a_prompt_for_a_session_leaves_the_keepalive_as_it_was_wherever_it_ends(
    made: Callable[[Wire], Awaitable[DeviceEngine]], keepalive: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(existing, "index_of", lambda interface: 7)

    async def once(kept: int | None) -> Wire:
        wire = Wire(keepalive)
        engine = await made(wire)
        await engine.set_peer(PeerSpec(PEER, ("192.0.2.1", 51820), (), keepalive or None))
        assert wire.peer.persistent_keepalive == keepalive
        wire.operations.clear()
        wire.begun, wire.kept = 0, kept
        for _ in range(2):  # a second try would take what is there for the owner's
            try:
                await engine.set_psk(PEER, Secret(b"p" * 32), 7, handshake_now=True)
            except EngineError:
                wire.kept = None
        return wire

    whole = asyncio.run(once(None))
    assert whole.begun == 2
    assert whole.peer.persistent_keepalive == keepalive
    for kept in range(len(whole.operations)):
        wire = asyncio.run(once(kept))
        assert (wire.peer.persistent_keepalive, wire.begun) == (keepalive, 1), f"the end after {kept} operations"


@pytest.mark.root
def test_wireguard_go_begins_a_handshake_for_a_keepalive_that_is_on_for_one_operation(
    namespace: Namespace, interface: str
) -> None:
    peers = [PeerSpec(public_key(Secret(os.urandom(32))), None, (), keepalive) for keepalive in (None, 25)]

    async def main(listening: socket.socket) -> None:
        engine = UapiEngine(find("wireguard-go"), interface, log_line=print)
        await engine.start()
        try:
            await engine.configure_device(Secret(os.urandom(32)), 0)
            run("ip", "link", "set", interface, "up")
            for peer in peers:
                await engine.set_peer(replace(peer, endpoint=listening.getsockname()))
                await engine.set_psk(peer.public_key, Secret(os.urandom(32)), 1, handshake_now=True)
                if peer.persistent_keepalive is None:
                    await initiation(listening, 10)
            told = (await engine._uapi.get()).peers
            assert [told[peer.public_key].persistent_keepalive for peer in peers] == [0, 25]
        finally:
            await engine.stop()

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.setblocking(False)
        asyncio.run(main(listening))


async def initiation(listening: socket.socket, limit: float) -> None:
    """Until WireGuard's first message arrives: type 1, 148 bytes (white paper, section 5.4.2)."""
    async with asyncio.timeout(limit):
        while True:
            data = await asyncio.get_running_loop().sock_recv(listening, 2048)
            if len(data) == 148 and data[0] == 1:
                return


def test_a_prompt_is_one_message_for_the_kernel() -> None:
    async def main() -> list[Line]:
        wire = Wire(25)
        engine = await ours(wire)
        await engine._prompt(PEER, 25)
        return wire.operations[0]

    messages = list(kernel_client._messages(["WGDEVICE_A_IFNAME", "wg0"], asyncio.run(main())))
    assert len(messages) == 1
    messages[0].encode()
    read = kernel_client._Message(bytes(messages[0].data))
    read.decode()
    peers = read.get_attr("WGDEVICE_A_PEERS")
    assert [peer.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") for peer in peers] == [0, 25]


class Netlink(AsyncGenericNetlinkSocket):  # type: ignore[misc]  # pyroute2 is untyped
    """A real socket to the kernel's generic netlink controller: every kernel has one, and anybody may ask it."""

    datagrams: list[bytes]

    async def opened(self) -> Netlink:
        self.datagrams = []
        await self.setup_endpoint()
        await self.bind("nlctrl", ctrlmsg)
        assert self.prid == GENL_ID_CTRL
        self.datagrams.clear()  # of what is sent from here on
        return self

    def send(self, data: bytes | bytearray, flags: int = 0) -> int:
        self.datagrams.append(bytes(data))
        sent: int = super().send(data, flags)
        return sent


def question(name: str) -> ctrlmsg:
    """Which number a family of generic netlink has (CTRL_CMD_GETFAMILY)."""
    message = ctrlmsg()
    message["cmd"], message["version"] = 3, 1
    message["attrs"].append(["CTRL_ATTR_FAMILY_NAME", name])
    return message


def told(messages: list[ctrlmsg]) -> list[bytes]:
    async def main() -> list[bytes]:
        async with Netlink() as netlink:
            opened: Netlink = await netlink.opened()
            await asyncio.wait_for(kernel_client._tell(opened, messages), 10)
            return opened.datagrams

    return asyncio.run(main())


def test_several_messages_reach_the_kernel_in_one_datagram_and_are_each_answered() -> None:
    messages = [question("nlctrl") for _ in range(5)]
    (datagram,) = told(messages)
    assert datagram.count(b"nlctrl\0") == 5
    assert not any(any(message.data) for message in messages), "what may have had a key is wiped"


def test_a_refusal_of_any_of_them_is_heard() -> None:
    for place in range(3):
        names = ["nlctrl"] * 3
        names[place] = "none-such"
        with pytest.raises(NetlinkError) as raised:
            told([question(name) for name in names])
        assert raised.value.code == errno.ENOENT


def test_more_than_a_socket_takes_goes_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_client, "SENT_AT_ONCE", 100)
    datagrams = told([question("nlctrl") for _ in range(7)])
    assert sum(datagram.count(b"nlctrl\0") for datagram in datagrams) == 7
    assert len(datagrams) > 1
    assert all(len(datagram) <= 100 for datagram in datagrams)


def test_a_peer_with_thousands_of_prefixes_is_made_again_in_one_datagram() -> None:
    many = tuple(ip_network(f"fd00:{i:x}::/32") for i in range(1, 2500))
    lines = [*removed(PEER), *added(PeerSpec(PEER, ("192.0.2.1", 51820), many, 25), Secret(b"p" * 32))]
    sizes = []
    for message in kernel_client._messages(["WGDEVICE_A_IFNAME", "wg0"], lines):
        message.encode()
        sizes.append(len(message.data))
    assert len(sizes) > 1
    assert all(size % 4 == 0 for size in sizes), "the next one begins at a multiple of four (NLMSG_ALIGN)"
    assert sum(sizes) <= SENT_AT_ONCE
