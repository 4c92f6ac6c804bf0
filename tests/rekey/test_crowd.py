"""A thousand peers do not act in the same moment: after a start, an outage of a KME, of the link, of power.

The tests run with fewer (QTUNNEL_SIM_PEERS); `make sim` with a thousand.
"""

from __future__ import annotations

import os

import pytest

from qtunnel.keys.schedule import START_RATE
from tests.rekey.crowd import INTERVAL, Crowd, among, busiest

PEERS = int(os.environ.get("QTUNNEL_SIM_PEERS", "200"))
EVEN = PEERS / INTERVAL
"""Rekeys a second where they are spread over the whole interval."""
CALM = 2 * EVEN + 10
"""In no second more: well above what comes by chance, and a third of what would come in the seconds of the jitter."""
RETRY = INTERVAL * 3 / 4
"""Seconds between two tries of one peer, on average, after a while."""

pytestmark = pytest.mark.timeout(540)


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
    crowd.run(2.2 * INTERVAL)
    return crowd


def test_a_hub_that_starts_spreads_its_first_offers(started: Crowd) -> None:
    up = PEERS / START_RATE + 3
    assert len(set(started.agreed)) > 1
    assert among(started.agreed, 0, up) >= PEERS, "not all are up in a few seconds"
    assert busiest(started.asked, 0, up) <= 1.3 * START_RATE


def test_the_rekeys_after_the_start_are_spread_over_the_interval(started: Crowd) -> None:
    up = PEERS / START_RATE + 3
    assert among(started.agreed, 0, 1.2 * INTERVAL + up) >= 2 * PEERS
    assert busiest(started.agreed, up, 2.2 * INTERVAL) <= CALM


def test_peers_do_not_come_together_when_a_kme_comes_back(started: Crowd) -> None:
    crowd = started
    begin = crowd.now
    crowd.kme_up = False
    crowd.run(begin + 6 * INTERVAL)
    tries = 2.5 * PEERS / RETRY + 10
    assert busiest(crowd.asked, begin + 3 * INTERVAL, begin + 6 * INTERVAL) <= tries
    crowd.kme_up = True
    back = crowd.now
    crowd.run(back + 2.5 * INTERVAL)
    assert among(crowd.agreed, back, back + INTERVAL + 1) >= PEERS, "all try within an interval"
    assert busiest(crowd.asked, back, back + INTERVAL) <= tries
    assert busiest(crowd.agreed, back, back + 2.5 * INTERVAL) <= CALM + PEERS / RETRY


def test_peers_do_not_come_together_when_the_link_comes_back(started: Crowd) -> None:
    crowd = started
    begin = crowd.now
    crowd.link_up = False
    crowd.run(begin + 200)
    sent = among(crowd.offered, begin + 100, begin + 200) / 100
    assert busiest(crowd.offered, begin + 100, begin + 200) <= 2 * sent + 10
    crowd.link_up = True
    back = crowd.now
    crowd.run(back + 3 * INTERVAL)
    assert among(crowd.agreed, back, back + 2 * INTERVAL) >= PEERS
    assert busiest(crowd.agreed, back + 2, back + 3 * INTERVAL) <= PEERS / 5, "no moment has a fifth of them"


def test_gateways_that_get_power_in_one_moment_are_spread_by_their_next_rekey() -> None:
    """Each of them has this one peer, and knows nothing of the others."""
    crowd = Crowd(PEERS, hub_begins=False)
    crowd.run(2.2 * INTERVAL)
    assert among(crowd.agreed, 0, 10) >= PEERS, "the hub's rates let them in one after the other"
    repeated = [time for time in crowd.offered if time > 0.3]  # by the clock; who got a cookie sent again at once
    assert busiest(repeated, 0, 10, 0.1) <= PEERS / 3 + 1, "they repeat themselves in the same moment"
    # They draw from the second half of the interval; two rekeys later nothing is seen of it.
    assert busiest(crowd.agreed, 10, 2.2 * INTERVAL) <= 2 * CALM
