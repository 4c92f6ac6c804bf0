"""What a scenario's run says at the end, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from qtunnel.demo.observe import FULL
from qtunnel.scenario.assertions import Verdict
from qtunnel.scenario.facts import Facts, TunnelFacts
from qtunnel.scenario.gallery import Scenario

COUNTED = ("made", "used", "overflowed", "discarded", "delivered", "relayed", "refused", "lost", "alarms")
"""Totals of the network, of which the run's share is told."""


def summary(
    scenario: Scenario,
    facts: Facts,
    verdicts: Sequence[Verdict],
    done: Sequence[tuple[float, str]],
    failures: Sequence[str],
) -> dict[str, Any]:
    """What ``--json`` prints. ok: every assertion holds, and nothing failed. Seconds from traffic's beginning."""
    return {
        "scenario": scenario.name,
        "ok": bool(verdicts) and all(one.ok for one in verdicts) and not failures,
        "title": scenario.file.title,
        "seconds": round(facts.ended - facts.began, 1),
        "time_scale": facts.time_scale,
        "keys": {name: facts.grown(name) for name in COUNTED} if len(facts.maps) > 1 else {},
        "tunnels": [_tunnel(facts, tunnel) for tunnel in facts.tunnels.values()],
        "timeline": [{"at": at, "what": words} for at, words in done],
        "assertions": [{"says": one.says, "ok": one.ok, "found": one.found} for one in verdicts],
        "errors": list(failures),
    }


def _tunnel(facts: Facts, tunnel: TunnelFacts) -> dict[str, Any]:
    def since(moment: float) -> float:
        return round(max(0.0, moment - facts.began), 1)

    return {
        "name": tunnel.name,
        "between": list(tunnel.ends),
        "policy": tunnel.policy,
        "protection": tunnel.observer.protection if tunnel.opened is not None else "not opened",
        "rekeys": len(tunnel.rekeys),
        "keys_used": sum(len(epoch.key_ids) for epoch in tunnel.epochs),
        "pings_sent": tunnel.pings.sent,
        "pings_lost": tunnel.pings.lost,
        "throughput_gbps": None if tunnel.gbps is None else round(tunnel.gbps, 3),
        "outages": [{"from": since(begin), "to": since(end)} for begin, end in tunnel.outages],
        "policy_did": [
            {"site": one.gateway, "protection": one.protection, "from": since(one.first), "to": since(one.last)}
            for one in tunnel.observer.periods
            if one.protection != FULL
        ],
    }


def in_words(told: dict[str, Any], *, as_json: bool) -> str:
    """One JSON object, or the summary for people."""
    if as_json:
        return json.dumps(told)
    lines = [f"{'OK' if told['ok'] else 'NOT OK'}: {told['title']} ({told['seconds']:g} s)"]
    keys = told["keys"]
    if keys:
        lines.append(
            f"  keys: {keys['made']} made by the links, {keys['used']} used of them, {keys['delivered']} delivered, "
            f"{keys['relayed']} of these relayed, {keys['refused']} requests refused, "
            f"{keys['lost']} lost on their way, {keys['alarms']} alarms"
        )
    for tunnel in told["tunnels"]:
        lines.append(
            f"  {tunnel['name']} ({' and '.join(tunnel['between'])}, qkd: {tunnel['policy']}): {tunnel['protection']}, "
            f"{tunnel['rekeys']} rekeys, {tunnel['keys_used']} QKD keys used, "
            f"{tunnel['pings_lost']} of {tunnel['pings_sent']} pings lost"
            + ("" if tunnel["throughput_gbps"] is None else f", {tunnel['throughput_gbps']:g} Gbit/s")
        )
        lines += [f"    nothing came back from {one['from']:g} to {one['to']:g} s" for one in tunnel["outages"]]
        lines += [
            f"    {one['site']}: {one['protection']} from {one['from']:g} to {one['to']:g} s"
            for one in tunnel["policy_did"]
        ]
    lines += [f"  at {one['at']:g} s {one['what']}" for one in told["timeline"]]
    lines += [f"  {'yes' if one['ok'] else 'NO '}  {one['says']} ({one['found']})" for one in told["assertions"]]
    lines += [f"  failed: {error}" for error in told["errors"]]
    return "\n".join([*lines, "  The QKD keys are simulated."])
