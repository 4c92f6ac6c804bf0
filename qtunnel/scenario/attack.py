"""Intercept and resend on a link while its keys are in use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from qtunnel.scenario.assertions import Verdict, alarm_of
from qtunnel.scenario.facts import link_of

MOST_KEYS = 100
"""Keys that may go over the link between the eavesdropper's beginning and the alarm."""

BOUND = 20.0
"""Seconds of the clock for the alarm: a link of 100 bit/s sees it after eight."""

POLL = 0.1

Ask = Callable[[dict[str, Any]], Awaitable[Any]]


async def attack(ask: Ask, link: str) -> Verdict:
    """Attack it, and see whether it warns in time; raises ``NetworkError``."""
    await ask({"request": "command", "target": link, "action": "restore", "arguments": []})
    # one that warns already could not begin to
    before = await _until(ask, link, lambda told: told["alarm"] is None)
    eavesdrop = {"request": "command", "target": link, "action": "eavesdrop", "arguments": ["intercept-resend"]}
    await ask(eavesdrop)
    told = await _until(ask, link, lambda told: told["alarms"] != before["alarms"])
    says = f"An intercept-resend attack on {link} is alarmed before {MOST_KEYS} further keys are delivered."
    if told["alarms"] == before["alarms"]:
        return Verdict(says, False, f"no alarm within {BOUND:g} s; the link is {told['state']}")
    return Verdict(says, *alarm_of(told, MOST_KEYS))


async def _until(ask: Ask, link: str, met: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The link as it is once it is so, or when the time is over."""
    limit = time.monotonic() + BOUND
    told = link_of(await ask({"request": "map"}), link)
    while not met(told) and time.monotonic() < limit:
        await asyncio.sleep(POLL)
        told = link_of(await ask({"request": "map"}), link)
    return told
