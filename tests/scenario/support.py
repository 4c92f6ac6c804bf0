"""Facts of a run that went well, to be spoilt."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from qtunnel.demo.observe import FULL, Observer, Period
from qtunnel.demo.traffic import Pings
from qtunnel.scenario.facts import Epoch, Facts, TunnelFacts
from qtunnel.scenario.report import COUNTED

BEGAN = 1000.0
SECONDS = 20.0
ENDS = ("alice", "bob")


def link(name: str = "fibre", **given: Any) -> dict[str, Any]:
    """As a map has it."""
    plain: dict[str, Any] = {"name": name, "state": "up", "alarms": 0, "keys_until_alarm": None}
    return plain | {"bits": {"made": 0, "used": 0, "stored": 0}} | given


def network_map(**given: Any) -> dict[str, Any]:
    totals = dict.fromkeys(COUNTED, 0)
    return {
        "time_s": 0.0,
        "key_size": 10,
        "links": [link()],
        "nodes": [{"name": "middle", "learned_keys": 0, "learned_shares": 0}],
        "pairs": [{"stored_keys": 5}],
        "eavesdropper": {"keys": 0, "touched_bits": 0},
        "totals": totals,
    } | given


def tunnel(name: str = "office", *periods: Period) -> TunnelFacts:
    """Up all the time, a rekey a second, 400 echoes answered."""
    made = TunnelFacts(name, ENDS, "required", Observer(BEGAN, ENDS), opened=BEGAN)
    for end in ENDS:
        whole = Period(end, FULL, BEGAN, BEGAN + SECONDS)
        made.observer.sides[end].periods += [one for one in periods if one.gateway == end] or [whole]
    made.pings = Pings(sent=400, answered=400, final=True)
    made.epochs = [Epoch(number, BEGAN + number, (f"key-{number}",)) for number in range(20)]
    return made


def facts(*tunnels: TunnelFacts, maps: list[dict[str, Any]] | None = None, **given: Any) -> Facts:
    """maps: spread evenly over the run; by default one at each end of it."""
    told = maps if maps is not None else [network_map(), network_map()]
    step = SECONDS / max(1, len(told) - 1)
    named = {one.name: one for one in tunnels or (tunnel(),)}
    dated = [(BEGAN + number * step, copy.deepcopy(one)) for number, one in enumerate(told)]
    return replace(Facts(BEGAN, BEGAN + SECONDS, named, maps=dated), **given)
