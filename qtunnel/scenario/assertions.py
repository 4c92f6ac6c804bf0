"""The rules by which a scenario is judged, by name. Pure: facts in, a verdict in words out.

A rule that has nothing to judge (no epoch, no alarm, no silence where one has to be) fails: ``ok`` is never true for
want of facts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from qtunnel.demo.observe import FULL
from qtunnel.scenario.facts import Facts, TunnelFacts, link_of
from qtunnel.scenario.model import AssertionSection

LOOK_SLACK = 0.7
"""Seconds that a status may be old when it is taken down: a look, and a daemon that waits for the processor."""

LEAST_SECONDS = 10.0
"""Of the network's time, over which a rate is measured: keys come in portions of some."""

DARK = "no line of sight"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one assertion. found: what was seen, in words."""

    says: str
    ok: bool
    found: str


@dataclass(frozen=True, slots=True)
class Case:
    """What a rule gets: the facts, the tunnels that it is about, its section, and when it looks."""

    facts: Facts
    tunnels: list[TunnelFacts]
    one: AssertionSection
    begin: float
    end: float

    def clock(self, moment: float) -> str:
        return f"{max(0.0, moment - self.facts.began):.1f} s"


Found = tuple[bool, str]
Rule = Callable[[Case], Found]


def judge(facts: Facts, one: AssertionSection) -> Verdict:
    """The verdict on one assertion."""
    begin = facts.began + (one.since or 0.0)
    end = facts.ended if one.until is None else facts.began + one.until
    tunnels = [tunnel for name, tunnel in facts.tunnels.items() if not one.tunnels or name in one.tunnels]
    ok, found = RULES[one.that](Case(facts, tunnels, one, begin, end))
    return Verdict(one.says, ok, found)


def _each(case: Case, rule: Callable[[TunnelFacts], Found]) -> Found:
    """All tunnels have to pass."""
    found = [(tunnel, *rule(tunnel)) for tunnel in case.tunnels]
    words = "; ".join(f"{tunnel.name}: {words}" if len(found) > 1 else words for tunnel, _, words in found)
    return bool(found) and all(ok for _, ok, _ in found), words


def _nothing_lost(case: Case) -> Found:
    def rule(tunnel: TunnelFacts) -> Found:
        lost = tunnel.lost(case.begin, case.end)
        return lost == 0 and tunnel.pings.answered > 0, f"{lost} of {tunnel.pings.sent} pings lost"

    return _each(case, rule)


def _rekeys(case: Case) -> Found:
    least = case.one.least or 1

    def rule(tunnel: TunnelFacts) -> Found:
        number = sum(case.begin <= epoch.at <= case.end for epoch in tunnel.rekeys)
        return number >= least, f"{number} rekeys, at least {least:g}"

    return _each(case, rule)


def _protected(case: Case) -> Found:
    wanted = case.one.protection or FULL

    def rule(tunnel: TunnelFacts) -> Found:
        begin = max(case.begin, tunnel.opened or case.begin)
        seen = list(tunnel.periods(begin, case.end))
        other = [one for one in seen if one.protection != wanted]
        words = ", ".join(f"{one.protection} at {one.gateway} from {case.clock(one.first)}" for one in other)
        return bool(seen) and not other, words or f"{wanted} at every look"

    return _each(case, rule)


def _falls_to(case: Case) -> Found:
    wanted = case.one.protection

    def rule(tunnel: TunnelFacts) -> Found:
        seen = [one for one in tunnel.periods(case.begin, case.end) if one.protection == wanted]
        missing = set(tunnel.ends) - {one.gateway for one in seen}
        if missing:
            return False, f"{' and '.join(sorted(missing))} never said {wanted}"
        return True, f"{wanted} from {case.clock(min(one.first for one in seen))}"

    return _each(case, rule)


def _ends_as(case: Case) -> Found:
    wanted = case.one.protection or FULL
    return _each(case, lambda tunnel: (tunnel.observer.protection == wanted, tunnel.observer.protection))


def _silent_while_blocked(case: Case) -> Found:
    """While an end says that it blocks, no echo is answered; there has to be such a time."""

    def rule(tunnel: TunnelFacts) -> Found:
        spans = [(a + LOOK_SLACK, b - LOOK_SLACK) for a, b in tunnel.blocked() if b - a > 2 * LOOK_SLACK]
        if not spans:
            return False, "was never blocked long enough to see"
        loud = [(a, b) for a, b in spans if not any(begin <= a and end >= b for begin, end in tunnel.pings.silences)]
        words = ", ".join(f"{case.clock(a)} to {case.clock(b)}" for a, b in loud or spans)
        return not loud, f"{'pings were answered' if loud else 'no ping was answered'} within {words}"

    return _each(case, rule)


def _back_within(case: Case) -> Found:
    most = case.one.most or 0.0

    def rule(tunnel: TunnelFacts) -> Found:
        longest = max((end - begin for begin, end in tunnel.outages), default=0.0)
        return longest <= most and tunnel.pings.answered > 0, f"longest outage {longest:.1f} s, at most {most:g} s"

    return _each(case, rule)


def _fresh_keys(case: Case) -> Found:
    """Every epoch within has QKD keys, and none was in an epoch before."""

    def rule(tunnel: TunnelFacts) -> Found:
        within = [epoch for epoch in tunnel.epochs if case.begin <= epoch.at <= case.end]
        without = [epoch.number for epoch in within if not epoch.key_ids]
        used = [key_id for epoch in tunnel.epochs for key_id in epoch.key_ids]
        twice = len(used) - len(set(used))
        words = f"{len(within)} epochs, {len(without)} without a QKD key, {twice} keys used twice"
        return bool(within) and not without and not twice, words

    return _each(case, rule)


def _happened(case: Case) -> Found:
    """A daemon's log has an event so many times."""
    least = case.one.least or 1
    log = case.facts.logs.get(case.one.site or "", "")
    number = sum(f"event={case.one.event} " in f"{line} " for line in log.splitlines())
    return number >= least, f"{case.one.event} {number} times in the log of {case.one.site}, at least {least:g}"


def _alarmed(case: Case) -> Found:
    most = 100 if case.one.most is None else case.one.most
    return alarm_of(case.facts.link(case.one.link or ""), most)


def alarm_of(link: dict[str, object], most: float) -> Found:
    """Whether a link raised an alarm, and had delivered fewer than ``most`` keys since the eavesdropper came."""
    keys = link["keys_until_alarm"]
    if not link["alarms"] or not isinstance(keys, int):
        return False, f"{link['name']} raised no alarm over an eavesdropper"
    return keys < most, f"{link['name']} alarmed after {keys} further keys, fewer than {most:g} allowed"


def _relayed(case: Case) -> Found:
    least = case.one.least or 1
    number = case.facts.grown("relayed", case.begin, case.end)
    return number >= least, f"{number} keys relayed, at least {least:g}"


def _unknown_to_nodes(case: Case) -> Found:
    nodes = [node for node in case.facts.last_map["nodes"] if not case.one.nodes or node["name"] in case.one.nodes]
    knowing = [f"{node['name']} {node['learned_keys']}" for node in nodes if node["learned_keys"]]
    shares = sum(node["learned_shares"] for node in nodes)
    if knowing:
        return False, f"whole keys known to {', '.join(knowing)}"
    return shares > 0, f"no whole key; {shares} shares went through"


def _unknown_to_eavesdropper(case: Case) -> Found:
    """No key was delivered that was made of light that she touched before both ends knew of the errors that this makes,
    or that blinded detectors gave. She was there, or it says nothing."""
    known = case.facts.last_map["eavesdropper"]
    delivered = case.facts.grown("delivered")
    words = f"{known['keys']} of {delivered} delivered keys known to an eavesdropper, who touched "
    return known["keys"] == 0 and delivered > 0 and known["touched_bits"] > 0, f"{words}{known['touched_bits']} bits"


def _weakest_hop(case: Case) -> Found:
    """Between the looks at the beginning and at the end, the network delivered what its weakest link makes by physics,
    over which all of its keys go.

    It only says something where more is asked for than that link makes: it counts from the first look at which less
    than a second's worth is in its store, and has to end so as well.
    """
    facts, name, within = case.facts, case.one.link or "", case.one.within or 0.0
    weakest = min(facts.rates, key=lambda link: facts.rates[link])
    if weakest != name:
        return False, f"the weakest link by physics is {weakest}"
    wanted = facts.rates[name]
    looks = [told for at, told in facts.maps if case.begin <= at <= case.end]
    drained = [told for told in looks if link_of(told, name)["bits"]["stored"] < wanted]
    if len(drained) < 2 or drained[-1] is not looks[-1]:
        return False, f"{name} has keys in store, so nobody asked for all that it makes"
    first, last = drained[0], drained[-1]
    seconds = last["time_s"] - first["time_s"]
    rate = (last["totals"]["delivered"] - first["totals"]["delivered"]) * last["key_size"] / seconds
    used = (link_of(last, name)["bits"]["used"] - link_of(first, name)["bits"]["used"]) / seconds
    words = f"{rate:.0f} bit/s of keys delivered over {seconds:.0f} s, {wanted:.0f} bit/s by physics"
    words += f", {used:.0f} bit/s of the link used with the messages' tags"
    return abs(rate - wanted) <= within * wanted and seconds >= LEAST_SECONDS, words


def _dark(case: Case) -> Iterator[tuple[float, float, bool]]:
    """Stretches between looks in which the link was out of sight; whether the KMEs had no key for anybody."""
    for (begin, before), (end, after) in pairwise(case.facts.maps):
        states = [link_of(told, case.one.link or "")["state"] for told in (before, after)]
        if states == [DARK, DARK]:
            yield begin, end, not any(pair["stored_keys"] for told in (before, after) for pair in told["pairs"])


def _between_passes(case: Case) -> Found:
    """Rekeys with QKD keys while the link is out of sight and the KMEs are empty, with a pass before and one after."""
    least = case.one.least or 1
    states = [link_of(told, case.one.link or "")["state"] for _, told in case.facts.maps]
    changes = sum(one == DARK and other != DARK for one, other in pairwise(states))
    dark = list(_dark(case))
    empty = [(begin, end) for begin, end, nothing in dark if nothing]

    def rule(tunnel: TunnelFacts) -> Found:
        number = sum(
            any(begin < epoch.at <= end for begin, end in empty) and bool(epoch.key_ids) for epoch in tunnel.rekeys
        )
        seconds = sum(end - begin for begin, end in empty)
        words = f"{number} rekeys with QKD keys in {seconds:.0f} s out of sight with empty KMEs, at least {least:g}"
        return number >= least and changes >= 1, f"{words}; {changes} passes began"

    return _each(case, rule)


def _refilled(case: Case) -> Found:
    """From the last look before light comes back on, the reservoir grows by so many keys from its lowest: they are
    agreed ahead a little after the KMEs have some."""
    least = case.one.least or 1
    looks = [(at, link_of(told, case.one.link or "")["state"] == DARK) for at, told in case.facts.maps]
    rises = [at for (_, before), (at, dark) in pairwise(looks) if before and not dark]

    def rule(tunnel: TunnelFacts) -> Found:
        grown = 0
        for rise, end in pairwise([*rises, case.facts.ended]):
            before = [keys for at, keys in tunnel.shared_keys if at < rise]
            lowest = before[-1] if before else None
            for keys in (keys for at, keys in tunnel.shared_keys if rise <= at <= end):
                lowest = keys if lowest is None else min(lowest, keys)
                grown = max(grown, keys - lowest)
        words = f"the reservoir grew by {grown} keys at a pass, at least {least:g}; {len(rises)} passes began"
        return bool(rises) and grown >= least, words

    return _each(case, rule)


def _carried(case: Case) -> Found:
    least = case.one.least or 1

    def rule(tunnel: TunnelFacts) -> Found:
        carried = tunnel.carried or 0
        return carried >= least, f"{carried / 1e6:.0f} MB carried ({tunnel.gbps or 0:.2f} Gbit/s)"

    return _each(case, rule)


RULES: dict[str, Rule] = {
    "nothing-lost": _nothing_lost,
    "rekeys": _rekeys,
    "protected": _protected,
    "falls-to": _falls_to,
    "ends-as": _ends_as,
    "silent-while-blocked": _silent_while_blocked,
    "back-within": _back_within,
    "fresh-keys": _fresh_keys,
    "happened": _happened,
    "alarmed": _alarmed,
    "relayed": _relayed,
    "unknown-to-nodes": _unknown_to_nodes,
    "unknown-to-eavesdropper": _unknown_to_eavesdropper,
    "weakest-hop": _weakest_hop,
    "between-passes": _between_passes,
    "refilled": _refilled,
    "carried": _carried,
}

NEEDS: dict[str, tuple[str, ...]] = dict.fromkeys(RULES, ()) | {
    "falls-to": ("protection",),
    "back-within": ("most",),
    "happened": ("site", "event"),
    "alarmed": ("link",),
    "weakest-hop": ("link", "within"),
    "between-passes": ("link",),
    "refilled": ("link",),
    "carried": ("least",),
}
"""Fields that a rule cannot do without."""
