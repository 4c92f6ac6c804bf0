"""The mqtt driver against simulated devices behind real Mosquitto brokers."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import logging
import subprocess
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from qtunnel.drivers import mqtt, mqtt_hub, registry
from qtunnel.drivers import mqtt_wire as wire
from qtunnel.drivers.mqtt_options import PeerOptions
from qtunnel.errors import (
    FilePermissionError,
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnauthorizedError,
    KeySourceUnreachableError,
)
from qtunnel.keys.source import KeyRef
from qtunnel.tls import client_context
from tests.support.kme import files, run, until
from tests.support.mosquitto import needs_mosquitto
from tests.support.mqtt_device import Reply, Site, one_site, sites

pytestmark = needs_mosquitto


async def failing(source: mqtt_hub.Source, call: str = "get_key") -> KeySourceError:
    """The error that asking raises."""
    asked = source.get_key(32) if call == "get_key" else source.status()
    with pytest.raises(KeySourceError) as caught:
        await asked
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("metro (mqtt")
    return caught.value


async def delivers(source: mqtt_hub.Source) -> None:
    """Wait until it does: by itself, without being made anew."""

    async def once() -> bool:
        try:
            (await source.get_key(32))[1].wipe()
        except KeySourceError:
            await asyncio.sleep(0.1)
            return False
        return True

    await until(once)


def test_the_registry_finds_it() -> None:
    assert registry.find("mqtt") is mqtt.DRIVER


def test_two_hundred_keys_reach_both_ends(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with sites(pki, tmp_path) as (a, b):
            alice, bob = a.source(), b.source()
            assert (alice.name, alice.description) == ("metro", "mqtt:metro")
            seen = set()

            async def one(number: int) -> None:
                here, there, size = (alice, bob, 32) if number % 2 else (bob, alice, 64)
                ref, key = await here.get_key(size)
                assert (ref.source, ref.size, len(key)) == ("metro", size, size)
                assert await there.get_key_by_id(ref) == key
                seen.add(ref.key_id)

            for first in range(0, 200, 20):
                await asyncio.gather(*(one(number) for number in range(first, first + 20)))
            assert len(seen) == 200
            assert (len(a.device.asked), len(b.device.asked)) == (200, 200)
            ref, _ = await alice.get_key(32)
            await bob.get_key_by_id(ref)
            with pytest.raises(KeyNotFoundError, match=r"key-by-id: unknown-key: none of that key_ID") as caught:
                await bob.get_key_by_id(ref)
            assert caught.value.lost == 0

    run(test)


def test_all_peers_of_a_source_share_one_connection(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            hub = site.hub()
            sources = [hub.for_peer(PeerOptions(peer=name)) for name in ("sae-bob", "sae-carol")]
            await asyncio.gather(*(source.get_key(32) for source in sources for _ in range(10)))
            assert {asked["peer"] for asked in site.device.asked} == {"sae-bob", "sae-carol"}
            log = (site.broker.directory / "log").read_text()
            assert log.count(" as sae-alice ") == 1

    run(test)


@pytest.mark.parametrize("code", [*wire.REFUSALS, "of-version-2"])
def test_errors_have_names(pki: Path, tmp_path: Path, code: str) -> None:
    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            alice = site.source()
            site.device.refusal = code
            error = await failing(alice)
            kind, lost = wire.REFUSALS.get(code, (KeySourceProtocolError, 1))
            assert (type(error), error.lost) == (kind, lost)
            if code in wire.REFUSALS:
                assert error.detail == f"{code}: as the test wants it"
            site.device.refusal = None
            await alice.get_key(32)

    run(test)


def test_without_a_broker_every_call_says_so_at_once(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            site.broker.stop()
            alice = site.source(timeout="20s")
            for _ in range(20):
                error = await failing(alice)
                assert isinstance(error, KeySourceUnreachableError)
                assert (error.detail, error.lost) == ("no connection to the broker: connection refused", 0)
            await site.broker.start()
            await delivers(alice)

    run(test)


def test_a_request_that_is_delivered_twice_consumes_once(pki: Path, tmp_path: Path) -> None:
    """The device's side of it: the driver itself sends each request once."""

    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            request_id, topic = str(uuid.uuid4()), site.device.topic("response", "sae-alice", "test")
            async with client(site, "another-id") as alice:
                await alice.subscribe(topic, qos=1)
                properties = Properties(PacketTypes.PUBLISH)
                properties.ResponseTopic, properties.CorrelationData = topic, request_id.encode()
                for _ in range(2):
                    payload = wire.request(request_id, "sae-bob", 32)
                    await alice.publish(
                        site.device.topic("request", "sae-alice"), payload, qos=1, properties=properties
                    )
                first, second = await anext(alice.messages), await anext(alice.messages)
                assert first.payload == second.payload
                assert len(site.device.keys.made) == 1

    run(test)


def test_what_a_request_says_to_the_broker(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            hub = site.hub(timeout="20s")
            async with client(site, "another-device", "kme-a") as device:
                await device.subscribe(site.device.topic("request", "+"), qos=1)
                await hub.for_peer(PeerOptions(peer="sae-bob")).get_key(32)
                heard = await anext(device.messages)
            assert (heard.topic.value, heard.qos, heard.retain) == ("qkd/v1/kme-a/request/sae-alice", 1, False)
            said = heard.properties
            assert said is not None
            assert said.ResponseTopic == hub.topics.response  # type: ignore[attr-defined]
            assert said.CorrelationData.decode() == site.device.asked[0]["request_id"]  # type: ignore[attr-defined]
            assert 0 < said.MessageExpiryInterval <= 20  # type: ignore[attr-defined]

    run(test)


def client(site: Site, name: str, owner: str = "sae-alice") -> aiomqtt.Client:
    return aiomqtt.Client(
        "127.0.0.1", site.broker.port, identifier=name, protocol=aiomqtt.ProtocolVersion.V5,
        tls_context=client_context(files(site.pki, owner)),
    )  # fmt: skip


def test_an_answer_that_is_delivered_twice_is_one_key(pki: Path, tmp_path: Path) -> None:
    async def twice(reply: Reply) -> None:
        reply.times = 2

    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            alice = site.source()
            site.device.fault = twice
            await alice.get_key(32)
            await alice.get_key(32)
            await alice.status()  # raises for keys that came to nobody

    run(test)


def test_an_answer_to_nobody_is_booked_as_lost(pki: Path, tmp_path: Path) -> None:
    async def astray(reply: Reply) -> None:
        reply.correlation = b"nobody"

    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            alice = site.source(timeout="2s")
            await delivers(alice)
            site.device.fault = astray
            error = await failing(alice)
            assert (type(error), error.lost) == (KeySourceTimeoutError, 1)
            error = await failing(alice, "status")
            assert (type(error), error.lost) == (KeySourceProtocolError, 1)
            assert "1 answers came that nobody had asked for" in str(error)
            assert (await alice.status()).healthy, "told once"
            await alice.get_key(32)

    run(test)


def test_a_late_answer_is_booked_once(pki: Path, tmp_path: Path) -> None:
    late = asyncio.Event()

    async def slow(reply: Reply) -> None:
        await late.wait()

    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            alice = site.source(timeout="2s")
            await delivers(alice)
            site.device.fault = slow
            error = await failing(alice)
            assert (type(error), error.lost) == (KeySourceTimeoutError, 1)
            late.set()
            await alice.get_key(32)
            await alice.status()

    run(test)


def test_a_retained_answer_is_refused(pki: Path, tmp_path: Path) -> None:
    async def retained(reply: Reply) -> None:
        reply.retain = True

    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            alice = site.source()
            site.device.fault = retained
            error = await failing(alice)
            assert (type(error), error.lost) == (KeySourceProtocolError, 1)
            assert "retained" in str(error)
            await alice.get_key(32)

    run(test)


def test_another_key_than_was_asked_for_is_refused(pki: Path, tmp_path: Path) -> None:
    async def other(reply: Reply) -> None:
        reply.fields["key_ID"] = str(uuid.uuid4())

    async def test() -> None:
        async with sites(pki, tmp_path) as (a, b):
            alice, bob = a.source(), b.source()
            ref, _ = await alice.get_key(32)
            b.device.fault = other
            with pytest.raises(KeySourceProtocolError, match=f"where {ref.key_id} was asked") as caught:
                await bob.get_key_by_id(ref)
            assert caught.value.lost == 1
            ref, key = await alice.get_key(32)
            assert await bob.get_key_by_id(KeyRef("metro", ref.key_id.upper(), 32)) == key

    run(test)


def test_after_another_client_of_our_id_we_come_back(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            alice = site.source()
            await alice.get_key(32)
            async with client(site, "sae-alice"):

                async def heard() -> bool:
                    try:
                        await alice.status()
                    except KeySourceUnreachableError as error:
                        return "the connection to the broker was lost" in str(error)
                    return False

                await until(heard)
            await delivers(alice)

    run(test)


def test_by_user_name_and_password(pki: Path, tmp_path: Path) -> None:
    passwords = {"sae-alice": "correct horse", "kme-a": "battery"}
    login, own = tmp_path / "passwords", tmp_path / "alice.password"
    login.touch(0o600)
    for name, password in passwords.items():
        subprocess.run(["mosquitto_passwd", "-b", login, name, password], check=True, capture_output=True)
    own.touch(0o600)
    own.write_text(passwords["sae-alice"] + "\n")

    async def test() -> None:
        async with one_site(pki, tmp_path, login=(login, passwords)) as site:
            given = {"username": "sae-alice", "password_file": own}
            await site.source(**given).get_key(32)
            own.write_text("wrong")
            error = await failing(site.source(**given | {"client_id": "sae-other"}))
            assert isinstance(error, KeySourceUnauthorizedError)
            assert "the broker refuses us" in str(error)
            assert "wrong" not in str(error)
            own.chmod(0o640)
            with pytest.raises(FilePermissionError, match="chmod 600"):
                site.source(**given)

    run(test)


def test_without_tls_on_this_machine(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with one_site(pki, tmp_path, tls=False) as site:
            alice = site.source()
            await alice.get_key(32)
            assert list(mqtt.DRIVER.doubts(site.options())) == [
                "the broker takes anyone on this machine for this gateway; give username and password_file"
            ]

    run(test)


def test_no_key_and_no_password_is_logged(pki: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("mqtt").setLevel(logging.DEBUG)  # where the library logs by itself

    async def torn(reply: Reply) -> None:
        reply.payload = json.dumps(reply.fields).encode()[:-1]

    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            asyncio.get_running_loop().set_debug(True)
            alice = site.source()
            await alice.get_key(32)
            site.device.fault = torn
            error = await failing(alice)
            told = caplog.text + "".join(traceback.format_exception(error))
            assert "it is not a JSON object" in told
            for key in site.device.keys.made.values():
                assert base64.b64encode(key).decode()[:12] not in told
                assert repr(key)[2:20] not in told

    run(test)


def test_what_is_out_of_bounds_is_not_asked(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            alice = site.source()
            for ask in (
                lambda: alice.get_key(0),
                lambda: alice.get_key(wire.MAX_KEY + 1),
                lambda: alice.get_key_by_id(KeyRef("metro", "no uuid", 32)),
            ):
                with pytest.raises(KeyRequestRejectedError, match="not asked") as caught:
                    await ask()
                assert caught.value.lost == 0
            assert site.device.asked == []
            _, key = await alice.get_key(wire.MAX_KEY)
            assert len(key) == wire.MAX_KEY

    run(test)


def test_a_closed_source_says_so_and_leaves_nothing(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            hub = site.hub()
            alice = hub.for_peer(PeerOptions(peer="sae-bob"))
            await alice.get_key(32)
            waiting = asyncio.create_task(failing(alice))
            hang = asyncio.Event()

            async def never(reply: Reply) -> None:
                await hang.wait()

            site.device.fault = never
            await until_async(lambda: len(site.device.asked) == 2)
            await hub.close()
            error = await waiting
            assert (type(error), error.lost) == (KeySourceUnreachableError, 1)
            assert "closed" in str(await failing(alice))
            hang.set()
            await hub.close()
            gc.collect()

    run(test)


async def until_async(condition: Callable[[], bool]) -> None:
    async def held() -> bool:
        return condition()

    await until(held)
