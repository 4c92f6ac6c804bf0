"""What the mqtt driver makes of what a device reports of itself, or does not."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from qtunnel.drivers import mqtt_hub
from qtunnel.drivers.mqtt_options import PeerOptions
from qtunnel.errors import (
    KeySourceProtocolError,
    KeySourceStatusError,
    KeySourceTimeoutError,
    KeySourceUnavailableError,
    KeySourceUnreachableError,
)
from tests.drivers.test_mqtt import delivers, failing
from tests.support.kme import run, until
from tests.support.mosquitto import needs_mosquitto
from tests.support.mqtt_device import one_site

pytestmark = needs_mosquitto


def test_status_in_our_terms(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            alice = site.source()
            assert (await alice.status()).stored_keys == 100
            site.device.link = {
                "v": 1, "link": "down", "stored_keys": 3, "max_keys": 500, "key_size": 256, "qber": 0.031,
                "key_rate": 1200.5, "alarm": None,
            }  # fmt: skip
            await site.device.report()
            await until(lambda: told(alice, stored_keys=3))
            status = await alice.status()
            assert (status.max_keys, status.key_size, status.qber, status.key_rate) == (500, 32, 0.031, 1200.5)
            assert status.healthy, "keys made before the link went down are good"
            assert status.detail == "kme-a to sae-bob, link down, 3 keys stored"
            site.device.link["stored_keys"] = 0
            await site.device.report()
            await until(lambda: told(alice, healthy=False))
            assert site.device.asked == [], "the status asks for nothing"

    run(test)


async def told(source: mqtt_hub.Source, **wanted: Any) -> bool:
    status = await source.status()
    return all(getattr(status, name) == value for name, value in wanted.items())


@pytest.mark.parametrize("of", ["link", "present"])
def test_an_alarm_is_told_and_no_key_is_asked_for_while_it_goes_on(pki: Path, tmp_path: Path, of: str) -> None:
    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            alice = site.source()
            await alice.get_key(32)
            said = getattr(site.device, of)
            said["alarm"] = {"code": "eavesdropping", "message": "QBER 0.14 at 12:03"}
            await site.device.report()
            words = "eavesdropping: QBER 0.14 at 12:03"
            await until(lambda: told(alice, alarm=words, healthy=False, for_all=of == "present"))
            error = await failing(alice)
            assert isinstance(error, KeySourceUnavailableError)
            assert (error.lost, error.detail) == (0, f"not asked: the device warns of {words}")
            assert len(site.device.asked) == 1
            said["alarm"] = None
            await site.device.report()
            await delivers(alice)

    run(test)


@pytest.mark.parametrize("of", ["link", "present"])
def test_an_alarm_that_came_and_went_between_two_looks_is_told_once(pki: Path, tmp_path: Path, of: str) -> None:
    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            alice = site.source()
            await alice.get_key(32)
            site.device.link["stored_keys"] = 50
            said = getattr(site.device, of)
            said["alarm"] = {"code": "tamper"}
            await site.device.report()
            said["alarm"] = None
            site.device.link["stored_keys"] = 51
            await site.device.report()
            topic = alice._hub.topics.link("sae-bob")
            await until(lambda: heard(alice, topic, 51))
            status = await alice.status()
            assert (status.alarm, status.healthy) == ("tamper", False)
            assert status.for_all is (of == "present"), "a device's alarm is for all peers, a link's for this one"
            assert await told(alice, alarm=None, healthy=True)

    run(test)


async def heard(source: mqtt_hub.Source, topic: str, stored_keys: int) -> bool:
    found = source._hub.reports._heard.get(topic)
    return found is not None and getattr(found.report, "stored_keys", None) == stored_keys


def test_an_alarm_that_was_a_devices_last_word_is_told(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            alice = site.source()
            await alice.get_key(32)
            site.device.present |= {"online": False, "alarm": {"code": "tamper", "message": "the case is open"}}
            await site.device.report()
            await until(lambda: gone(alice))
            status = await alice.status()
            assert (status.alarm, status.healthy, status.for_all) == ("tamper: the case is open", False, True)
            assert isinstance(await failing(alice), KeySourceUnreachableError)

    run(test)


async def gone(source: mqtt_hub.Source) -> bool:
    found = source._hub.reports._heard[source._hub.topics.status].report
    return not getattr(found, "online", True)


def test_a_hub_hears_the_reports_on_all_its_links(pki: Path, tmp_path: Path) -> None:
    """The broker sends all of them at once when the connection is made, and each only once."""
    count = 300

    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            report = json.dumps(site.device.link).encode()
            for first in range(0, count, 100):  # as many as may wait for their confirmation
                topics = (site.device.topic("link", f"peer-{number}") for number in range(first, first + 100))
                await asyncio.gather(*(site.device._publish(topic, report, retain=True) for topic in topics))
            hub = site.hub(timeout="50s")  # the broker sends the next one when one is confirmed
            sources = [hub.for_peer(PeerOptions(peer=f"peer-{number}")) for number in range(count)]
            assert all(status.healthy for status in await asyncio.gather(*(source.status() for source in sources)))

    run(test)


def test_a_device_that_goes_away_is_known_by_its_last_will(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            alice = site.source(timeout="20s")
            await alice.get_key(32)
            site.device.die()

            async def known() -> bool:
                try:
                    await alice.status()
                except KeySourceUnreachableError as error:
                    return "last will" in str(error)
                return False

            await until(known)
            error = await failing(alice)
            assert isinstance(error, KeySourceUnreachableError)
            assert error.lost == 0
            await site.device.start()
            await delivers(alice)

    run(test)


def test_a_report_that_is_over_counts_no_more(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            alice = site.source()
            await alice.status()
            site.device.expiry = 1
            await site.device.report()

            async def over() -> bool:
                try:
                    await alice.status()
                except KeySourceUnavailableError as error:
                    return "is over" in str(error)
                return False

            await until(over)
            site.device.expiry = None
            await site.device.report()
            await delivers(alice)

    run(test)


@pytest.mark.parametrize(
    "levels,payload,words",
    [
        (("status",), b"{", "it is not a JSON object"),
        (("status",), b'{"v":2,"online":true}', "its version"),
        (("link", "sae-bob"), b'{"v":1,"link":"up","qber":"low"}', "qber is not a number"),
        (("link", "sae-bob"), b"x" * 20_000, "more than 16384 bytes"),
    ],
)
def test_a_report_that_cannot_be_read_stops_requests(
    pki: Path, tmp_path: Path, levels: tuple[str, ...], payload: bytes, words: str
) -> None:
    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            alice = site.source()
            await alice.get_key(32)
            await site.device._publish(site.device.topic(*levels), payload, retain=True)

            async def refused() -> bool:
                try:
                    await alice.status()
                except KeySourceProtocolError as error:
                    return words in str(error)
                return False

            await until(refused)
            error = await failing(alice)
            assert (type(error), error.lost) == (KeySourceStatusError, 0)
            assert len(site.device.asked) == 1

    run(test)


def test_silence_of_the_device_is_told(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            wrong = site.source(device="qkd-x", timeout="2s")
            error = await failing(wrong, "status")
            assert isinstance(error, KeySourceTimeoutError)
            assert "no device has ever reported at qkd/v1/qkd-x/status" in str(error)

    run(test)


def test_a_peer_that_the_device_does_not_know(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            source = site.hub(timeout="2s").for_peer(PeerOptions(peer="sae-dave"))
            error = await failing(source)
            assert isinstance(error, KeySourceUnavailableError)
            assert (error.lost, site.device.asked) == (0, [])
            assert "no report at qkd/v1/kme-a/link/sae-dave" in str(error)

    run(test)


def test_what_was_reported_before_a_connection_was_lost_counts_no_more(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with one_site(pki, tmp_path) as site:
            alice = site.source(timeout="2s")
            await delivers(alice)
            await site.device.stop()
            site.broker.stop()
            await site.broker.start()  # which keeps no message over its end

            async def forgotten() -> bool:
                return "no device has ever reported" in (await failing(alice)).detail

            await until(forgotten)
            assert len(site.device.asked) >= 1
            await site.device.start()
            await delivers(alice)

    run(test)
