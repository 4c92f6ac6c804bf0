"""A link whose KMEs speak ETSI GS QKD 004, asked by the driver of qtunnel; and what the framing's reader refuses."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.drivers import etsi004
from qtunnel.drivers.etsi004_options import Options, PeerOptions
from qtunnel.drivers.etsi004_qubip import QubipFraming
from qtunnel.drivers.etsi004_terms import Qos as DriverQos
from qtunnel.errors import KeySourceError, KeySourceUnavailableError
from qtunnel.simulator import etsi004_messages as messages
from qtunnel.simulator import etsi004_server
from qtunnel.simulator.etsi004_messages import MalformedError, Status
from qtunnel.simulator.service import Service, running
from qtunnel.simulator.topology_file import Topology, load_topology
from qtunnel.tls import client_context
from tests.simulator.support import write_metro
from tests.support.kme import files, free_ports, run, until


@pytest.fixture
def topology(tmp_path: Path, network_pki: Path) -> Topology:
    """The network of all tests, with the other interface at both ends."""
    path = write_metro(tmp_path, network_pki)
    with free_ports(2) as (one, two):
        text = path.read_text()
        text = text.replace("saes: [sae-alice]", f'saes: [sae-alice], etsi004: "127.0.0.1:{one}"')
        path.write_text(text.replace("saes: [sae-bob]", f'saes: [sae-bob], etsi004: "127.0.0.1:{two}"'))
    return load_topology(path)


def hub(topology: Topology, sae: str, at: str | None = None) -> etsi004.Hub:
    mine = files(topology.pki, sae)
    address = topology.nodes[at or topology.homes[sae]].etsi004
    return etsi004.Hub(
        "fibre",
        Options.model_validate(
            {"url": f"tls://{address}", "ca": mine.ca, "certificate": mine.certificate, "private_key": mine.private_key}
        ),
    )


def source(one: etsi004.Hub, mine: str, other: str) -> etsi004.Source:
    return one.for_peer(PeerOptions.model_validate({"source": f"qkd://{mine}", "destination": f"qkd://{other}"}))


def test_streams_are_relayed_and_know_of_faults(topology: Topology) -> None:
    async def test() -> None:
        async with running(topology) as service:
            hubs = [hub(topology, "sae-alice"), hub(topology, "sae-bob"), hub(topology, "sae-alice", at="bob")]
            alice, bob = source(hubs[0], "sae-alice", "sae-bob"), source(hubs[1], "sae-bob", "sae-alice")
            try:
                for one, other in ((alice, bob), (bob, alice)) * 3:
                    ref, key = await one.get_key(32)
                    assert await other.get_key_by_id(ref) == key
                    with pytest.raises(KeySourceError):
                        await other.get_key_by_id(ref)  # once
                assert service.map()["totals"]["relayed"] == 6
                with pytest.raises(KeySourceError):  # an SAE of another node is not served
                    await source(hubs[2], "sae-alice", "sae-bob").get_key(32)
                with pytest.raises(KeySourceUnavailableError, match="no QKD connection"):
                    await source(hubs[0], "sae-alice", "sae-nobody").get_key(32)
                for link in ("alice-hub", "alice-spare"):
                    service.command(link, "eavesdrop", "blind")
                with pytest.raises(KeySourceUnavailableError, match="no QKD connection"):
                    await alice.get_key(32)
                for link in ("alice-hub", "alice-spare"):
                    service.command(link, "restore")
                ref, key = await alice.get_key(32)
                service.command("bob", "cut")
                with pytest.raises(KeySourceUnavailableError, match="no QKD connection"):
                    await bob.get_key_by_id(ref)
                service.command("bob", "restore")
                assert await bob.get_key_by_id(ref) == key

                async def forgotten() -> bool:
                    service.streams.sweep()
                    return not service.streams._streams

                for one_hub in hubs:
                    await one_hub.close()
                await until(forgotten)
            finally:
                for one_hub in hubs:
                    await one_hub.close()

    run(test)


class Ends:
    """The streams of a network under a clock that the test moves; each end asks as ``sae-NAME``."""

    def __init__(self, topology: Topology) -> None:
        self.now = 1000.0
        self.service = Service(topology, lambda: self.now)
        self.streams = self.service.streams

    def open(self, name: str, other: str = "", ksid: UUID | None = None, chunk: int = 32) -> tuple[int, UUID | None]:
        """Status, and the stream."""
        other = other or ("bob" if name == "alice" else "alice")
        qos = messages.Qos(chunk, 60, (0, 0, 0, 0, 0), b"")
        asked = messages.Open(f"qkd://sae-{name}", f"qkd://sae-{other}/a/tunnel", qos, ksid or UUID(int=0))
        body, ksid = self.streams.open(f"sae-{name}", asked)
        return int.from_bytes(body[:4], "big"), ksid

    def pair(self) -> UUID:
        _, ksid = self.open("alice")
        assert ksid is not None
        assert self.open("bob", ksid=ksid) == (Status.SUCCESSFUL, ksid)
        return ksid

    def get(self, name: str, ksid: UUID, index: int = 0, room: int = 1024) -> tuple[int, bytes]:
        """Status, and the chunk."""
        body = self.streams.get(f"sae-{name}", messages.Get(ksid, index, room))
        return int.from_bytes(body[:4], "big"), bytes(body[12:44])


@pytest.fixture
def ends(topology: Topology) -> Ends:
    return Ends(topology)


def test_who_is_no_end_of_a_stream_opens_and_reads_none(ends: Ends) -> None:
    assert ends.open("alice", "alice") == (Status.NO_QKD_CONNECTION, None)
    assert ends.open("alice", "nobody") == (Status.NO_QKD_CONNECTION, None)
    code, ksid = ends.open("alice")
    assert (code, ends.get("bob", ksid or uuid4())[0]) == (Status.PEER_NOT_CONNECTED, Status.PEER_NOT_YET_CONNECTED)
    assert ends.open("alice", ksid=ksid) == (Status.KSID_IN_USE, None), "it has it open"
    assert ends.get("alice", uuid4())[0] == Status.PEER_NOT_YET_CONNECTED
    assert not ends.streams.leave("sae-bob", ksid or uuid4())
    assert ends.open("bob", ksid=ksid, chunk=4)[0] == Status.QOS_NOT_MET, "other chunks than the stream has"


def test_streams_are_bounded(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etsi004_server, "MAX_STREAMS", 2)
    found = [ends.open("alice") for _ in range(3)]
    assert [code for code, _ in found] == [Status.PEER_NOT_CONNECTED] * 2 + [Status.NO_QKD_CONNECTION]
    ends.streams.leave("sae-alice", found[0][1] or uuid4())
    ends.streams.sweep()
    assert ends.open("alice")[0] == Status.PEER_NOT_CONNECTED


def test_a_chunk_waits_for_the_other_end_as_long_as_was_agreed_and_is_never_made_twice(ends: Ends) -> None:
    ksid = ends.pair()
    (code, key), (_, late) = ends.get("alice", ksid, 0), ends.get("alice", ksid, 1)
    assert code == Status.SUCCESSFUL
    assert ends.get("bob", ksid, 0) == (Status.SUCCESSFUL, key)
    for name in ("alice", "bob"):
        assert ends.get(name, ksid, 0)[0] == Status.INSUFFICIENT_KEY
    held = [waiting for waiting, _ in ends.streams._streams[ksid].waiting.values()]
    ends.now += 60
    assert ends.get("bob", ksid, 1)[0] == Status.INSUFFICIENT_KEY
    assert [one.wiped for one in held] == [True]
    assert late != key
    ends.get("alice", ksid, 2)
    held = [waiting for waiting, _ in ends.streams._streams[ksid].waiting.values()]
    ends.now += 60
    ends.streams.sweep()
    assert [one.wiped for one in held] == [True]
    assert ends.streams._streams[ksid].waiting == {}


def test_chunks_that_nobody_fetches_are_bounded_and_wiped_at_the_end(topology: Topology) -> None:
    most = 8
    key = topology.key.model_copy(update={"max_count": most})
    ends = Ends(topology.model_copy(update={"key": key}))
    ksid = ends.pair()
    codes = [ends.get("alice", ksid, index)[0] for index in range(most + 1)]
    assert codes == [Status.SUCCESSFUL] * most + [Status.INSUFFICIENT_KEY]
    held = [waiting for waiting, _ in ends.streams._streams[ksid].waiting.values()]
    ends.streams.clear()
    assert len(held) == most
    assert all(one.wiped for one in held)


def test_an_answer_that_has_no_room_for_its_metadata_says_how_much_it_takes(ends: Ends) -> None:
    ksid = ends.pair()
    asked = messages.Get(ksid, 0, 4)
    code, room = struct.unpack("!II", ends.streams.get("sae-alice", asked))
    assert code == Status.METADATA_TOO_SMALL
    assert ends.get("alice", ksid, 0, room)[0] == Status.SUCCESSFUL


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("!BBBbI", 1, 0, 1, 4, 1 << 30),
        struct.pack("!BBBbI", 2, 0, 0, 4, 24) + bytes(24),
        struct.pack("!BBBbI", 1, 0, 1, 4, 23) + bytes(23),
        struct.pack("!BBBbI", 1, 0, 1, 2, 3) + b"a\0b",
    ],
)
def test_what_is_no_request_ends_the_connection_and_nothing_else(topology: Topology, sent: bytes) -> None:
    async def test() -> None:
        async with running(topology):
            address = topology.nodes["alice"].etsi004
            assert address is not None
            context = client_context(files(topology.pki, "sae-alice"))
            reader, writer = await asyncio.open_connection("127.0.0.1", address.port, ssl=context)
            writer.write(sent)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await reader.readexactly(1)
            writer.transport.abort()
            alice = hub(topology, "sae-alice")
            await source(alice, "sae-alice", "sae-bob").get_key(32)
            await alice.close()

    run(test)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_request_or_malformed(data: bytes) -> None:
    parsers: list[Any] = [messages.parse_open, messages.parse_get, messages.parse_close]
    for parse in parsers:
        try:
            parse(data)
        except MalformedError:
            continue
    if len(data) >= messages.HEADER.size:
        with contextlib.suppress(MalformedError):
            messages.header(data[: messages.HEADER.size])


def test_the_driver_and_the_server_mean_the_same_bytes() -> None:
    framing, ksid = QubipFraming(), uuid4()
    qos = DriverQos(32, 10_000, 1, 2, 3, 4000, 3600, "application/json")
    sent = framing.open_connect("qkd://a", "qkd://b", qos, ksid)
    service, size = messages.header(sent[: messages.HEADER.size])
    body = sent[messages.HEADER.size :]
    assert (service, size) == (messages.Service.OPEN_CONNECT, len(body))
    asked = messages.parse_open(body)
    assert (asked.source, asked.destination, asked.ksid) == ("qkd://a", "qkd://b", ksid)
    assert (asked.qos.chunk, asked.qos.ttl) == (32, 3600)
    back = framing.opened(messages.opened(messages.Status.SUCCESSFUL, asked.qos, ksid))
    assert (back.qos, back.ksid) == (qos, ksid)
    assert asked.qos.within(40, 512, 100).chunk == 40
    assert asked.qos.within(8, 16, 100).ttl == 100
    got = framing.got(messages.got(7, memoryview(b"k" * 32), b"{}"))
    assert (got.index, got.metadata) == (7, b"{}")
    assert got.key is not None
    assert bytes(got.key.reveal()) == b"k" * 32
