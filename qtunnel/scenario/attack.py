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
    before = link_of(await ask({"request": "map"}), link)["alarms"]
    for action in (["restore"], ["eavesdrop", "intercept-resend"]):
        await ask({"request": "command", "target": link, "action": action[0], "arguments": action[1:]})
    limit = time.monotonic() + BOUND
    told = link_of(await ask({"request": "map"}), link)
    while told["alarms"] == before and time.monotonic() < limit:
        await asyncio.sleep(POLL)
        told = link_of(await ask({"request": "map"}), link)
    says = f"An intercept-resend attack on {link} is alarmed before {MOST_KEYS} further keys are delivered."
    if told["alarms"] == before:
        return Verdict(says, False, f"no alarm within {BOUND:g} s; the link is {told['state']}")
    return Verdict(says, *alarm_of(told, MOST_KEYS))
