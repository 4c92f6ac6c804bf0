"""Every fault of the suite, on real brokers with a device, a proxy or a certificate that does wrong.

After each the same source delivers again by itself, and the source at the other site went on meanwhile.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qtunnel.drivers.mqtt_hub import Source
from qtunnel.errors import (
    KeySourceError,
)
from qtunnel.keys.quality import SeenKeys, defect
from qtunnel.secret import Secret
from tests.drivers.faults import CERTIFICATES, FAULTS, OVER_TLS, certificate
from tests.drivers.test_mqtt import delivers, until_async
from tests.support.kme import run, until
from tests.support.mosquitto import Proxy, needs_mosquitto, proxied
from tests.support.mqtt_device import Reply, SilenceError, Site, sites

pytestmark = needs_mosquitto

DELIVERED = "the key is delivered as it is, and refused for what it is by qtunnel.keys.quality"

CASES: dict[str, type[KeySourceError] | str] = OVER_TLS | dict.fromkeys(
    ("repeated-key", "all-zero", "low-entropy"), DELIVERED
)


def test_no_fault_is_left_out() -> None:
    assert CASES.keys() == FAULTS.keys()


@dataclass
class Scene:
    """Alice's site, which goes wrong, reached by a proxy; Bob's, which does not."""

    pki: Path
    site: Site
    proxy: Proxy
    alice: Source
    bob: Source

    async def error(self) -> KeySourceError:
        with pytest.raises(KeySourceError) as caught:
            await self.alice.get_key(32)
        return caught.value


@contextlib.asynccontextmanager
async def scene(pki: Path, tmp_path: Path, **options: Any) -> AsyncIterator[Scene]:
    async with sites(pki, tmp_path) as (a, b), proxied(a.broker.port) as proxy:
        url = f"mqtts://127.0.0.1:{proxy.port}"
        yield Scene(pki, a, proxy, a.source(url=url, **options), b.source())


@contextlib.contextmanager
def going_on(source: Source) -> Any:
    """Keys from it all the time."""

    async def ask() -> None:
        while True:
            await source.get_key(32)
            delivered.append(1)
            await asyncio.sleep(0.05)

    delivered: list[int] = []
    task = asyncio.create_task(ask())
    yield delivered
    assert not task.done(), task.exception()
    task.cancel()


def changed(**fields: Any) -> Callable[[Reply], Awaitable[None]]:
    async def change(reply: Reply) -> None:
        reply.fields |= fields

    return change


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()


FROM_DEVICE: dict[str, dict[str, Any]] = {
    "wrong-size": {"key": text(os.urandom(16))},
    "wrong-encoding": {"key": os.urandom(32).hex()},
    "huge": {"key": text(os.urandom(20_000))},
}

FIRST, SECOND = os.urandom(32), os.urandom(32)

BAD_KEYS: dict[str, bytes] = {"all-zero": bytes(32), "low-entropy": os.urandom(8) * 4, "repeated-key": FIRST}

SAID = {
    "expired-certificate": "expired",
    "clock-skew": "not valid yet",
    "wrong-certificate": "not signed by the CA",
    "name-mismatch": "another IP address",
}
"""Of certificates."""


@pytest.mark.parametrize("fault", CASES)
def test_a_fault_has_its_error_and_passes(pki: Path, tmp_path: Path, fault: str) -> None:
    async def test() -> None:
        # Where the fault is that nothing comes, the time to wait is short; else it is none that a busy machine needs.
        limit = "2s" if fault in ("slow", "slow-loris") else "20s"
        async with scene(pki, tmp_path, timeout=limit) as its:
            await delivers(its.alice)
            with going_on(its.bob) as meanwhile:
                before = len(meanwhile)
                if fault in BAD_KEYS:
                    await _delivered(its, fault)
                else:
                    error = await _failed(its, fault, tmp_path)
                    assert type(error) is CASES[fault], error
                    assert error.lost == (0 if fault in CERTIFICATES else 1)
                await until_async(lambda: len(meanwhile) > before)
                await delivers(its.alice)

    run(test)


async def _delivered(its: Scene, fault: str) -> None:
    seen = SeenKeys(Secret(os.urandom(32)))
    its.site.device.fault = changed(key=text(FIRST))
    ref, key = await its.alice.get_key(32)
    assert key == Secret(FIRST)
    assert defect(key) is None
    assert seen.taken_for(ref.key_id, key) is None
    its.site.device.fault = changed(key=text(BAD_KEYS[fault]))
    other, key = await its.alice.get_key(32)
    assert key == Secret(BAD_KEYS[fault]), "unchanged"
    assert (defect(key) is not None) == (fault != "repeated-key")
    assert (seen.taken_for(other.key_id, key) == ref.key_id) == (fault == "repeated-key")


async def _failed(its: Scene, fault: str, tmp_path: Path) -> KeySourceError:
    device, broker = its.site.device, its.site.broker
    if fault in FROM_DEVICE:
        device.fault = changed(**FROM_DEVICE[fault])
        return await its.error()
    if fault == "slow":
        device.fault = _silent
        return await its.error()
    if fault in ("cut", "slow-loris"):
        pace = its.proxy.cut if fault == "cut" else its.proxy.drip

        async def then_pace(reply: Reply) -> None:
            its.proxy.pace = pace

        device.fault = then_pace
        error = await its.error()
        its.proxy.pace = None
        return error
    if fault == "restart":

        async def end(reply: Reply) -> None:
            broker.stop()

        device.fault = end
        error = await its.error()
        await broker.start()
        return error
    broker.stop()
    await broker.start(certificate(fault, its.pki, tmp_path))
    # The connection that was lost is told first.
    errors: list[KeySourceError] = []

    async def told() -> bool:
        errors.append(await its.error())
        return SAID[fault] in str(errors[-1])

    await until(told)
    broker.stop()
    await broker.start()
    return errors[-1]


async def _silent(reply: Reply) -> None:
    raise SilenceError
