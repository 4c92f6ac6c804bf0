"""A thousand peers do not act in the same moment: after a start, an outage of a KME, of the link, of power."""

from __future__ import annotations

import pytest

from qtunnel.keys.schedule import START_RATE
from tests.rekey.crowd import Crowd, among, busiest

PEERS = 1000
EVEN = PEERS / 120
"""Rekeys a second where they are spread over the whole interval."""
CALM = 3 * EVEN
"""In no second more: twice the evenly spread number would come by chance in one of a few hundred seconds."""


def test_a_single_tunnel_begins_in_the_moment_of_its_start() -> None:
    crowd = Crowd(1, hub_begins=True)
    crowd.run(0.0)
    assert crowd.asked == [0.0]
    crowd.run(1.0)
    assert len(crowd.agreed) == 1


@pytest.fixture(scope="module")
def started() -> Crowd:
    """A hub that began with all its peers at once, two intervals ago."""
    crowd = Crowd(PEERS, hub_begins=True)
    crowd.run(250.0)
    return crowd


def test_a_hub_that_starts_spreads_its_first_offers(started: Crowd) -> None:
    assert among(started.agreed, 0, 8) == PEERS, "not all are up in a few seconds"
    assert busiest(started.asked, 0, 8) <= 1.3 * START_RATE


def test_the_rekeys_after_the_start_are_spread_over_the_interval(started: Crowd) -> None:
    assert among(started.agreed, 8, 140) >= PEERS
    assert busiest(started.agreed, 8, 250) <= CALM


def test_peers_do_not_come_together_when_a_kme_comes_back(started: Crowd) -> None:
    crowd = started
    begin = crowd.now
    crowd.kme_up = False
    crowd.run(begin + 900)
    # Each tries once in 30 to 60 s by then.
    assert busiest(crowd.asked, begin + 300, begin + 900) <= 2 * PEERS / 45
    crowd.kme_up = True
    back = crowd.now
    crowd.run(back + 61)
    assert among(crowd.agreed, back, back + 61) >= PEERS
    assert busiest(crowd.asked, back, back + 61) <= 2 * PEERS / 45
    crowd.run(back + 320)
    assert among(crowd.agreed, back + 61, back + 200) >= PEERS
    assert busiest(crowd.agreed, back + 61, back + 320) <= CALM


def test_peers_do_not_come_together_when_the_link_comes_back(started: Crowd) -> None:
    crowd = started
    begin = crowd.now
    crowd.link_up = False
    crowd.run(begin + 400)
    tenths = [among(crowd.offered, begin + 200 + 10 * part, begin + 210 + 10 * part) for part in range(20)]
    assert busiest(crowd.offered, begin + 200, begin + 400, 0.1) <= 3 * max(tenths) / 100
    crowd.link_up = True
    back = crowd.now
    crowd.run(back + 100)
    assert among(crowd.agreed, back, back + 100) >= PEERS
    assert busiest(crowd.agreed, back + 1, back + 100) <= PEERS / 5
    crowd.run(back + 340)
    assert busiest(crowd.agreed, back + 100, back + 340) <= CALM


def test_a_thousand_gateways_that_get_power_in_one_moment_are_spread_by_their_next_rekey() -> None:
    """Each of them has this one peer, and knows nothing of the others."""
    crowd = Crowd(PEERS, hub_begins=False)
    crowd.run(250.0)
    assert among(crowd.agreed, 0, 10) == PEERS, "the hub's rates let them in one after the other"
    repeated = [time for time in crowd.offered if time > 0.0]
    assert busiest(repeated, 0, 10, 0.1) <= PEERS / 5, "they repeat themselves in the same moment"
    assert busiest(crowd.agreed, 10, 250) <= CALM
