"""A link whose KMEs speak ETSI GS QKD 004, asked by the driver of qtunnel; and what the framing's reader refuses."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.drivers import etsi004
from qtunnel.drivers.etsi004_options import Options, PeerOptions
from qtunnel.drivers.etsi004_qubip import QubipFraming
from qtunnel.drivers.etsi004_terms import Qos as DriverQos
from qtunnel.errors import KeySourceError, KeySourceUnavailableError
from qtunnel.simulator import etsi004_messages as messages
from qtunnel.simulator.etsi004_messages import MalformedError
from qtunnel.simulator.service import running
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
