"""Supply and demand in virtual time, where both are known beforehand."""

from __future__ import annotations

import math

import pytest

from qtunnel.qkdnet.channel import Fibre, Satellite
from qtunnel.qkdnet.network import Network, NodeSpec
from qtunnel.qkdnet.plan import Tunnel, plan
from qtunnel.qkdnet.relay import TAG_BITS
from tests.qkdnet.support import RATE, chain, simple, spec

DAY = 86_400.0


def test_a_tunnel_that_takes_less_than_the_links_make_never_starves() -> None:
    network = chain("a", "b", "c")
    found = plan(network, [Tunnel("t", "a", "c", 10.0, begin=10.0)], DAY)
    assert found.ok
    (tunnel,) = found.tunnels
    assert tunnel.served == tunnel.asked == DAY / 10
    assert tunnel.interval == pytest.approx(384 / RATE, rel=1e-4)  # with the tag of a message in which it is relayed
    assert [link.used for link in found.links] == [384 * tunnel.served] * 2
    assert [str(path) for path in tunnel.usual] == ["a - b - c"]


def test_one_that_takes_more_starves_when_the_store_is_empty() -> None:
    """256 bits a second more than what is made: 2,560,000 bits last 10,000 s."""
    network = chain("a", "b", initial=2_560_000)
    wanted = Tunnel("greedy", "a", "b", 1.0, bits=256, keys=11, begin=1.0)
    found = plan(network, [wanted], 20_000.0)
    assert not found.ok
    (tunnel,) = found.tunnels
    assert tunnel.starved[0][0] == pytest.approx(10_000, abs=20)
    assert tunnel.interval == pytest.approx(1.1, rel=1e-4)
    assert "a-b has" in tunnel.why


def test_a_rekey_that_finds_its_usual_way_used_up_goes_another_one() -> None:
    dark = Fibre(100.0)
    links = [
        spec("direct", "a", "b", channel=dark, initial=5 * 256),
        spec("to", "a", "c", channel=dark, initial=100_000),
        spec("from", "c", "b", channel=dark, initial=100_000),
    ]
    network = Network([NodeSpec(name) for name in "abc"], links, simple)
    found = plan(network, [Tunnel("t", "a", "b", 10.0, begin=10.0)], 300.0)
    assert found.ok
    (tunnel,) = found.tunnels
    assert {str(path): number for (path,), number in tunnel.ways.items()} == {"a - b": 5, "a - c - b": 25}


def test_links_that_several_tunnels_share_say_what_interval_all_can_have() -> None:
    network = chain("a", "b", "c")
    tunnels = [Tunnel("one", "a", "b", 60.0, begin=9), Tunnel("two", "a", "c", 60.0, keys=3, begin=9)]
    found = plan(network, tunnels, 3600.0)
    by_name = {link.name: link for link in found.links}
    assert by_name["a-b"].interval == pytest.approx((4 * 256 + TAG_BITS) / RATE, rel=1e-4)
    assert by_name["b-c"].interval == pytest.approx((3 * 256 + TAG_BITS) / RATE, rel=1e-4)
    assert [tunnel.interval for tunnel in found.tunnels] == pytest.approx([0.45, 0.45], rel=1e-4)


def test_a_satellite_feeds_a_tunnel_from_one_pass_to_the_next_or_does_not() -> None:
    orbit = Satellite(500.0, math.radians(70), math.radians(10), first=1000.0, every=DAY, loss=-20.0)
    network = Network([NodeSpec("sky"), NodeSpec("ground")], [spec("down", "sky", "ground", channel=orbit)], simple)
    made = plan(network, [], DAY).links[0].made
    fits = DAY / (made / 256)

    def starves(interval: float) -> list[tuple[float, float | None]]:
        again = Network([NodeSpec("sky"), NodeSpec("ground")], [spec("down", "sky", "ground", channel=orbit)], simple)
        return plan(again, [Tunnel("t", "sky", "ground", interval, begin=2000.0)], 5 * DAY).tunnels[0].starved

    assert starves(fits * 1.2) == []
    hungry = starves(fits * 0.5)
    assert len(hungry) == 5
    assert 0.3 * DAY < hungry[0][0] < 0.7 * DAY
    assert hungry[0][1] is not None
    assert hungry[0][1] == pytest.approx(DAY + 1000 - orbit.pass_length / 2, abs=120)


def test_a_plan_counts_what_the_links_say() -> None:
    network = chain("a", "b", initial=5000)
    found = plan(network, [Tunnel("t", "a", "b", 60.0)], 7200.0)
    (link,) = found.links
    assert link.made == 5000 + 7200 * RATE - 250  # which wait in the window
    assert link.rate == pytest.approx(RATE, rel=1e-4)
    assert len(found.times) == len(link.stored)
    assert link.used == 256 * found.tunnels[0].served
