"""Gateways that report to a real Mosquitto with TLS, and the view of all of them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from qtunnel.cli.fleet import _document, render
from qtunnel.control.messages import KeySourceStatus, NodeStatus, PeerStatus, Status, UsedKey
from qtunnel.errors import BrokerError, ConfigError
from qtunnel.events import EventStream
from qtunnel.fleet import broker as module
from qtunnel.fleet import view
from qtunnel.fleet.broker import Broker as Place
from qtunnel.fleet.broker import connected
from qtunnel.fleet.publisher import Publisher
from qtunnel.fleet.topics import discovery, reports
from qtunnel.fleet.view import Member, read_fleet, take
from tests.support.kme import free_ports, make_pki
from tests.support.mosquitto import Broker, needs_mosquitto

pytestmark = pytest.mark.timeout(300)  # three gateways, a broker that comes back, and commands that wait for silence

NAMES = ["sae-alice", "sae-bob", "sae-carol"]
RULES = """
user kme-b
topic read qtunnel/#
topic read homeassistant/#
pattern write qtunnel/%u/#
pattern write homeassistant/#
"""


def status(name: str, **peer: Any) -> Status:
    tunnel = {"name": "bob", "protected": True, "protection": "qkd+pqc", "policy": "required", "age_s": 61.0,
              "key_ids": [UsedKey(source="metro", key_id="k-1234")], **peer}  # fmt: skip
    return Status(
        node=NodeStatus(name=name, fingerprint="abcd", version="0.1", uptime=5.0, engine="qtunnel", interface="qt0",
                        state="up"),
        peers=[PeerStatus(**tunnel)],
        key_sources=[KeySourceStatus(name="metro.1", description="etsi014:metro.1", healthy=True, state="well",
                                     stored_keys=7, qber=0.02)],
    )  # fmt: skip


class Gateway:
    """One that reports: what its daemon would say, and its events."""

    def __init__(self, name: str, place: Place) -> None:
        self.now = status(name)
        self.events = EventStream()
        self.publisher = Publisher(place, "qtunnel", name, self._status, self.events, interval=60, discover=True)
        self.task = asyncio.create_task(self.publisher.follow())

    async def _status(self) -> Status:
        return self.now

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    def told(self, kind: str) -> list[str]:
        return [str(event.fields.get("detail")) for event in self.events.history() if event.kind == kind]


class Site:
    """A broker with TLS, who may watch it, and the gateways that report to it."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.pki = directory / "pki"
        self.port = port
        self.broker = Broker(directory, self.pki, "kme-a", port, rules=RULES)
        self.gateways: list[Gateway] = []

    def place(self, name: str, port: int | None = None) -> Place:
        pki = self.pki
        return Place("127.0.0.1", port or self.port, pki / "ca.pem", pki / f"{name}.pem", pki / f"{name}.key")

    def gateway(self, name: str) -> Gateway:
        self.gateways.append(Gateway(name, self.place(name)))
        return self.gateways[-1]

    async def members(self) -> dict[str, Member]:
        return {its.name: its for its in await read_fleet(self.place("kme-b"), "qtunnel", "watcher")}

    async def command(self, *more: str) -> tuple[int, str, str]:
        arguments = ["--broker", f"mqtts://127.0.0.1:{self.port}", "--ca", f"{self.pki}/ca.pem",
                     "--certificate", f"{self.pki}/kme-b.pem", "--private-key", f"{self.pki}/kme-b.key"]  # fmt: skip
        command = [sys.executable, "-m", "qtunnel", "fleet", "status", *arguments, *more]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=60, check=False,
            env=os.environ | {"COLUMNS": "200"},
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr


@contextlib.asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Site]:
    make_pki(directory / "pki")
    with free_ports(1) as (port,):
        site = Site(directory, port)
        await site.broker.start()
        try:
            yield site
        finally:
            for gateway in site.gateways:
                await gateway.stop()
            site.broker.stop()


async def until(condition: Any) -> Any:
    """What the condition says once it says something; 30 s at most."""
    for _ in range(600):
        found = condition()
        found = await found if asyncio.iscoroutine(found) else found
        if found:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError("the condition never held")


@needs_mosquitto
def test_a_fleet_of_three_is_seen_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(view, "QUIET", 0.3)  # asked again where not all has come

    async def test() -> None:
        async with running(tmp_path) as site:
            for name in NAMES:
                site.gateway(name)
            alice, bob, carol = site.gateways
            await until(lambda: all(its.told("mqtt.up") for its in site.gateways))

            async def everybody() -> dict[str, Member] | None:
                found = await site.members()
                complete = len(found) == 3 and all(its.well and its.peers and its.sources for its in found.values())
                return found if complete else None

            await until(everybody)
            code, output, _ = await site.command()
            assert code == 0, output
            assert [line.split()[:2] for line in output.splitlines()[1:]] == [[name, "up"] for name in NAMES]
            document = json.loads((await site.command("--json"))[1])
            assert [its["name"] for its in document["gateways"]] == NAMES
            assert document["gateways"][0]["peers"]["bob"]["protection"] == "qkd+pqc"

            # what changes is told at once, and only events make it look
            bob.now = status("sae-bob", protected=False, protection="blocked")
            bob.events.publish("protection.in-force", "bob", before="qkd+pqc", after="blocked")

            async def blocked() -> bool:
                return (await site.members())["sae-bob"].peers["bob"].protection == "blocked"

            await until(blocked)
            code, output, _ = await site.command()
            assert code == 1
            assert "bob (blocked)" in output

            # a peer that is gone leaves nothing behind; one that stops says so, and who dies has a will
            alice.now = alice.now.model_copy(update={"peers": []})
            alice.events.publish("peer.removed", "bob")

            async def gone() -> bool:
                return not (await site.members())["sae-alice"].peers

            await until(gone)
            await bob.stop()
            carol.task.cancel()
            found = await site.members()
            assert not found["sae-bob"].online

            # a broker that comes back with nothing gets everything again
            site.broker.stop()
            await until(lambda: alice.told("mqtt.down"))
            await site.broker.start()

            async def back() -> bool:
                found = await site.members()
                return "sae-alice" in found and found["sae-alice"].online

            await until(back)

    asyncio.run(test())


@needs_mosquitto
def test_a_broker_that_knows_us_by_a_password_and_what_is_said_where_it_does_not(tmp_path: Path) -> None:
    login, own = tmp_path / "passwords", tmp_path / "own"
    login.touch(mode=0o600)
    make_pki(tmp_path / "pki")
    for name in ("kme-b", "sae-alice"):
        subprocess.run(["mosquitto_passwd", "-b", login, name, "pässword 1"], check=True, capture_output=True)
    own.touch(mode=0o600)

    async def said(port: int, host: str = "localhost") -> str:
        place = Place.at(f"mqtts://{host}:{port}", tmp_path / "pki" / "ca.pem", None, None, "kme-b", own)
        try:
            async with connected(place, "watcher", waiting=1):
                return "connected"
        except (BrokerError, ConfigError) as error:
            return str(error)

    async def test() -> None:
        with free_ports(1) as (port,):
            broker = Broker(tmp_path, tmp_path / "pki", "kme-a", port, rules=RULES, login=login)
            await broker.start()
            try:
                own.write_text("pässword 1\n")
                assert await said(port) == "connected"
                own.write_text("pässword 2\n")
                assert await said(port) == f"broker localhost port {port}: it refuses us: not authorized"
                for content in (b"", b"\n", b"p\xe4ssword"):
                    own.write_bytes(content)
                    assert await said(port) == f"{own}: not one password in UTF-8"
            finally:
                broker.stop()
            own.write_text("pässword 1\n")
            assert await said(port) == f"broker localhost port {port}: connection refused"
            assert (
                await said(port, "broker.invalid") == f"broker broker.invalid port {port}: its host name is not found"
            )

    asyncio.run(test())


@needs_mosquitto
def test_who_dies_is_offline_by_its_will_and_events_pass_by(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from pathlib import Path
from tests.fleet.test_fleet import Site
async def main():
    site = Site(Path(sys.argv[1]), int(sys.argv[2]))
    gateway = site.gateway("sae-alice")
    number = 0
    while True:
        await asyncio.sleep(0.1)
        number += 1
        gateway.events.publish("peer.blocked", "bob", detail="why", key_ids=("metro k-1234",), number=number)
asyncio.run(main())
"""

    async def test() -> None:
        async with running(tmp_path) as site:
            child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(site.port)])  # noqa: ASYNC220
            try:
                heard: dict[str, bytes] = {}
                async with connected(site.place("kme-b"), "listener", waiting=1000) as client:
                    await client.subscribe([("qtunnel/#", 1), ("homeassistant/#", 1)])
                    async for message in client.messages:
                        assert isinstance(message.payload, bytes)
                        heard[message.topic.value] = message.payload
                        if child.poll() is None and "qtunnel/sae-alice/event/peer.blocked" in heard and len(heard) > 10:
                            child.kill()
                        if heard.get("qtunnel/sae-alice/state") == b"offline":
                            break
            finally:
                child.kill()
                child.wait()
            event = json.loads(heard["qtunnel/sae-alice/event/peer.blocked"])
            assert (event["kind"], event["peer"], event["fields"]["detail"]) == ("peer.blocked", "bob", "why")
            assert not [topic for topic, payload in heard.items() if b"k-1234" in payload]
            configs = [json.loads(text) for topic, text in heard.items() if topic.startswith("homeassistant/")]
            assert {its["availability_topic"] for its in configs} == {"qtunnel/sae-alice/state"}
            assert {its["state_topic"] for its in configs} <= set(heard)

    asyncio.run(test())


@needs_mosquitto
def test_a_broker_that_refuses_is_told_in_words(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as site:
            with free_ports(1) as (nobody,), pytest.raises(BrokerError, match=f"port {nobody}: connection refused"):
                await read_fleet(site.place("kme-b", nobody), "qtunnel", "x")
            stranger = tmp_path / "other"
            make_pki(stranger)
            ca = Place("127.0.0.1", site.port, stranger / "ca.pem", site.pki / "kme-b.pem", site.pki / "kme-b.key")
            with pytest.raises(BrokerError, match=r"certificate|signed|issuer"):
                await read_fleet(ca, "qtunnel", "x")
            gateway = Gateway("sae-alice", ca)
            await until(lambda: gateway.told("mqtt.down"))
            await gateway.stop()
            code, output, errors = await site.command("--prefix", "elsewhere")
            assert (code, errors) == (1, "")
            assert output == "no gateway reports to this broker under this prefix\n"

    asyncio.run(test())


def test_a_password_comes_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("secret words\n")
    path.chmod(0o600)
    found = Place("127.0.0.1", 1883, username="alice", password_file=path).password()
    assert found is not None
    assert bytes(found.reveal()) == b"secret words"


def test_what_strangers_write_is_passed_over() -> None:
    members: dict[str, Member] = {}
    for topic, data in [
        ("qtunnel/a/peer/x", b"no json"),
        ("qtunnel/a/peer/x", b"[]"),
        ("qtunnel/a/peer/x", b'{"protected": "perhaps"}'),
        ("qtunnel/a/peer/x", b"x" * 70_000),
        ("qtunnel/a/peer", b"{}"),
        ("qtunnel/a/b/c/d", b"{}"),
        ("qtunnel", b"{}"),
        ("qtunnel/a/state", b"perhaps"),
        ("qtunnel/a/node", b'{"state": "up", "new": {"in": "another version"}}'),
    ]:
        take(members, "qtunnel", topic, data)
    assert list(members) == ["a"]
    assert not members["a"].online
    assert members["a"].node.state == "up"
    take(members, "qtunnel", "qtunnel/a/state", b"online")
    assert not members["a"].well, "of tunnel x nothing is known"
    take(members, "qtunnel", "qtunnel/a/peer/x", b'{"protected": true, "protection": "qkd+pqc"}')
    assert members["a"].well


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"NaN", b"1e300", b"-1", b'"1"', b"[]"])
def test_numbers_of_strangers_can_be_shown(number: bytes) -> None:
    members: dict[str, Member] = {}
    take(members, "qtunnel", "qtunnel/a/state", b"online")
    take(members, "qtunnel", "qtunnel/a/node", b'{"state": "up", "time": %s}' % number)
    take(members, "qtunnel", "qtunnel/a/peer/x", b'{"protected": true, "age_s": %s}' % number)
    take(members, "qtunnel", "qtunnel/a/source/s", b'{"healthy": true, "days_left": %s}' % number)
    Console(file=io.StringIO()).print(render(list(members.values()), 1e9))
    json.dumps([_document(its) for its in members.values()], allow_nan=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--broker", "mqtts://b:8883"], "mqtts:// needs --ca"),
        (["--broker", "mqtt://broker.example.org:1883"], "--broker is without TLS"),
        (["--broker", "mqtt://127.0.0.1:1883", "--username", "a"], "give both"),
        (["--broker", "mqtt://u:p@127.0.0.1:1883"], "has a user or password"),
        ([], "--broker"),
    ],
)
def test_bad_arguments_are_said(arguments: list[str], words: str) -> None:
    command = [sys.executable, "-m", "qtunnel", "fleet", "status", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert words in done.stderr


def test_reports_hold_no_key_ids_and_discovery_has_names_that_fit() -> None:
    found = reports(status("a"), "qtunnel", 1.0)
    assert set(found) == {"qtunnel/a/node", "qtunnel/a/peer/bob", "qtunnel/a/source/metro.1"}
    assert "k-1234" not in json.dumps(found)
    for topic, config in discovery(status("a"), "qtunnel").items():
        prefix, component, name, last = topic.split("/")
        assert (prefix, last) == ("homeassistant", "config")
        assert component in ("sensor", "binary_sensor")
        assert name == config["unique_id"]
        assert "." not in name
        assert config["state_topic"] in found


def test_who_reports_ends_also_where_the_first_wish_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is where a cancellation meets the broker's word, in Python 3.11."""
    monkeypatch.setattr(module, "UNHEARD", 0.05)
    lost: list[int] = []

    async def attend() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost.append(1)
                if len(lost) > 1:
                    raise

    async def test() -> None:
        task = asyncio.create_task(module.kept(attend, lambda why: None))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=20)
        assert task.cancelled()
        assert len(lost) == 2

    asyncio.run(test())
