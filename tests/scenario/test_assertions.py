"""Each rule passes on facts that keep it, and fails on facts that break it and for want of facts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qtunnel.control.messages import PeerStatus, Protection
from qtunnel.demo.observe import FULL, Period
from qtunnel.demo.traffic import Pings
from qtunnel.scenario.assertions import NEEDS, RULES, judge
from qtunnel.scenario.facts import Epoch, Facts, TunnelFacts
from qtunnel.scenario.model import ASSERTIONS, AssertionSection
from tests.scenario.support import BEGAN, ENDS, SECONDS, facts, link, network_map, tunnel


def section(that: str, **given: Any) -> AssertionSection:
    return AssertionSection.model_validate({"that": that, "says": "It holds."} | given)


def both(protection: str, begin: float, end: float) -> list[Period]:
    """Both ends as said within, and fully protected before and after."""
    spans = ((FULL, 0.0, begin), (protection, begin + 0.1, end), (FULL, end + 0.1, SECONDS))
    return [Period(site, word, BEGAN + first, BEGAN + last) for site in ENDS for word, first, last in spans]


def blocked(*silences: tuple[float, float]) -> Facts:
    """Blocked from 5 to 10 s."""
    made = tunnel("office", *both("blocked", 5, 10))
    made.pings = Pings(sent=400, answered=350, final=True, gaps=[(BEGAN + 5.5, BEGAN + 9, 50)])
    made.pings.silences = [(BEGAN + begin, BEGAN + end) for begin, end in silences]
    return facts(made)


def lossy(second: float, silence: float = 1.0) -> Facts:
    made = tunnel()
    made.pings = Pings(sent=400, answered=397, final=True, gaps=[(BEGAN + second, BEGAN + second, 3)])
    made.pings.silences = [(BEGAN + second - 0.1, BEGAN + second - 0.1 + silence)]
    return facts(made)


def unpinged() -> Facts:
    made = tunnel()
    made.pings = Pings(final=True)
    return facts(made)


def with_epochs(*epochs: Epoch) -> Facts:
    made = tunnel()
    made.epochs = list(epochs)
    return facts(made)


def grown(**totals: int) -> Facts:
    """The totals of the network grow to these by its end."""
    last = network_map()
    last["totals"] |= totals
    return facts(maps=[network_map(), last])


def with_link(**given: Any) -> Facts:
    return facts(maps=[network_map(), network_map(links=[link(**given)])])


def with_node(keys: int, shares: int) -> Facts:
    node = {"name": "middle", "learned_keys": keys, "learned_shares": shares}
    return facts(maps=[network_map(), network_map(nodes=[node])])


def read(keys: int, touched: int = 900) -> Facts:
    made = grown(delivered=7)
    made.last_map["eavesdropper"] = {"keys": keys, "touched_bits": touched}
    return made


def hop(used: int, stored: int, weakest: str = "fibre") -> Facts:
    """Ten seconds of the network, in which the fibre makes 1000 bit/s by physics."""
    first = network_map(links=[link()])
    last = network_map(time_s=10.0, links=[link(bits={"made": used + stored, "used": used, "stored": stored})])
    last["totals"]["delivered"] = used // last["key_size"]
    rates = {"fibre": 1000.0, "other": 5000.0 if weakest == "fibre" else 900.0}
    return facts(maps=[first, last], rates=rates)


def passes(*states: str, stored: int = 0) -> Facts:
    pairs = [{"stored_keys": stored}]
    return facts(maps=[network_map(links=[link(state=state)], pairs=pairs) for state in states])


DARK = "no line of sight"
NIGHT = ["up", DARK, DARK, DARK, "up"]


def reservoir(*keys: int, states: tuple[str, ...] = ("up", DARK, DARK, "up", "up")) -> Facts:
    """Its keys at each look at the network."""
    made = passes(*states)
    made.tunnels["office"].shared_keys = [(at, number) for (at, _), number in zip(made.maps, keys, strict=True)]
    return made


def carried(amount: int | None) -> Facts:
    made = tunnel()
    made.carried = amount
    return facts(made)


def logged(number: int) -> Facts:
    return facts(
        logs={"bob": "ts=1 level=info event=endpoint.moved peer=alice\n" * number + "event=endpoint.moved-on\n"}
    )


CASES: dict[str, list[tuple[dict[str, Any], Callable[[], Facts], bool]]] = {
    "nothing-lost": [
        ({}, facts, True),
        ({}, lambda: lossy(7), False),
        ({"until": "5s"}, lambda: lossy(7), True),
        ({}, unpinged, False),
    ],
    "rekeys": [
        ({"least": 19}, facts, True),
        ({"least": 20}, facts, False),
        ({"least": 3, "since": "5s", "until": "8s"}, facts, True),
        ({"least": 1}, lambda: with_epochs(), False),
    ],
    "protected": [
        ({}, facts, True),
        ({}, lambda: facts(tunnel("office", *both("pqc-only", 5, 6))), False),
        ({"since": "8s"}, lambda: facts(tunnel("office", *both("pqc-only", 5, 6))), True),
    ],
    "falls-to": [
        ({"protection": "blocked", "since": "4s", "until": "12s"}, lambda: blocked((5, 10)), True),
        ({"protection": "blocked", "since": "12s"}, lambda: blocked((5, 10)), False),
        ({"protection": "pqc-only"}, facts, False),
    ],
    "ends-as": [
        ({}, lambda: facts(alive("qkd+pqc")), True),
        ({}, lambda: facts(alive("pqc-only")), False),
        ({}, facts, False),
    ],
    "silent-while-blocked": [
        ({}, lambda: blocked((5.2, 10.1)), True),
        ({}, lambda: blocked((5.2, 7), (7.1, 10.1)), False),
        ({}, facts, False),
    ],
    "back-within": [
        ({"most": 2}, lambda: lossy(7, silence=1.5), True),
        ({"most": 1}, lambda: lossy(7, silence=1.5), False),
        ({"most": 1}, unpinged, False),
    ],
    "fresh-keys": [
        ({}, facts, True),
        ({}, lambda: with_epochs(Epoch(1, BEGAN, ("a",)), Epoch(2, BEGAN + 1, ("a",))), False),
        ({}, lambda: with_epochs(Epoch(1, BEGAN, ("a",)), Epoch(2, BEGAN + 1, ())), False),
        ({}, lambda: with_epochs(), False),
    ],
    "happened": [
        ({"site": "bob", "event": "endpoint.moved", "least": 2}, lambda: logged(2), True),
        ({"site": "bob", "event": "endpoint.moved", "least": 2}, lambda: logged(1), False),
        ({"site": "bob", "event": "endpoint.moved"}, facts, False),
    ],
    "alarmed": [
        ({"link": "fibre"}, lambda: with_link(alarms=1, keys_until_alarm=99), True),
        ({"link": "fibre"}, lambda: with_link(alarms=1, keys_until_alarm=100), False),
        ({"link": "fibre"}, facts, False),
    ],
    "relayed": [
        ({"least": 5}, lambda: grown(relayed=5), True),
        ({"least": 6}, lambda: grown(relayed=5), False),
        ({}, facts, False),
    ],
    "unknown-to-nodes": [
        ({}, lambda: with_node(keys=0, shares=4), True),
        ({}, lambda: with_node(keys=1, shares=4), False),
        ({}, facts, False),
    ],
    "unknown-to-eavesdropper": [
        ({}, lambda: read(0), True),
        ({}, lambda: read(1), False),
        ({}, lambda: read(0, touched=0), False),
        ({}, facts, False),
    ],
    "weakest-hop": [
        ({"link": "fibre", "within": "10%"}, lambda: hop(9500, 300), True),
        ({"link": "fibre", "within": "10%"}, lambda: hop(8000, 300), False),
        ({"link": "fibre", "within": "10%"}, lambda: hop(9500, 1001), False),
        ({"link": "fibre", "within": "10%"}, lambda: hop(9500, 300, weakest="other"), False),
    ],
    "between-passes": [
        ({"link": "fibre", "least": 9}, lambda: passes(*NIGHT), True),
        ({"link": "fibre", "least": 9}, lambda: passes(*NIGHT, stored=1), False),
        ({"link": "fibre", "least": 9}, lambda: passes(*NIGHT[:-1]), False),
        ({"link": "fibre", "least": 9}, facts, False),
    ],
    "refilled": [
        ({"link": "fibre", "least": 10}, lambda: reservoir(60, 50, 40, 45, 50), True),
        ({"link": "fibre", "least": 11}, lambda: reservoir(60, 50, 40, 45, 50), False),
        ({"link": "fibre", "least": 1}, lambda: reservoir(60, 50, 40, 35, 30), False),
        ({"link": "fibre", "least": 15}, lambda: reservoir(60, 50, 40, 35, 50), True),  # lowest as the pass begins
        (
            {"link": "fibre", "least": 1},
            lambda: reservoir(30, 40, 50, 50, 50, states=("up", "up", DARK, DARK, "up")),
            False,
        ),
        ({"link": "fibre", "least": 1}, lambda: reservoir(10, 20, 30, 40, 50, states=("up",) * 5), False),
        ({"link": "fibre", "least": 1}, lambda: passes(*NIGHT), False),
    ],
    "carried": [
        ({"least": 10}, lambda: carried(10), True),
        ({"least": 10}, lambda: carried(9), False),
        ({"least": 1}, facts, False),
    ],
}


def alive(protection: Protection) -> TunnelFacts:
    """Both ends answer at the end, with this protection."""
    made = tunnel()
    for end in ENDS:
        made.observer.sides[end].peer = PeerStatus(name="x", protected=True, protection=protection, policy="required")
    return made


def test_every_rule_is_in_the_model_and_tried_both_ways() -> None:
    assert set(ASSERTIONS) == set(RULES) == set(NEEDS) == set(CASES)
    for name, cases in CASES.items():
        assert {good for _, _, good in cases} == {True, False}, name


@pytest.mark.parametrize(
    ("that", "given", "make", "good"), [(name, *case) for name, cases in CASES.items() for case in cases]
)
def test_a_rule(that: str, given: dict[str, Any], make: Callable[[], Facts], good: bool) -> None:
    verdict = judge(make(), section(that, **given))
    assert verdict.ok is good, verdict
    assert verdict.found
    assert verdict.says == "It holds."


def test_a_rule_is_about_the_tunnels_that_it_names() -> None:
    spoilt = tunnel("other", *both("pqc-only", 5, 6))
    made = facts(tunnel(), spoilt)
    assert judge(made, section("protected", tunnels=["office"])).ok
    assert not judge(made, section("protected")).ok
