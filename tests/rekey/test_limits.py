"""What one sender, or one peer, may cost: a share of what there is, never all of it."""

from __future__ import annotations

import pytest

from qtunnel.handshake.messages import MAX_OFFER, MIN_OFFER, init_sizes
from qtunnel.rekey.limits import OFFER_BURST, OFFER_RATE, SOURCE_BURST, UNPROVEN_BURST, TokenBuckets
from tests.rekey.gateways import SUITE, first_message, hand, junk, node, reasons, sent, settings

LEAST = sum(init_sizes(SUITE)) + MIN_OFFER


def test_a_peer_is_answered_at_its_own_rate_only() -> None:
    hub = node("hub", settings("b"), settings("c"))
    for number in range(100):
        at = 1.0 + number / 100
        hand(hub, first_message("b", at, epoch=1 + number), f"b {number}", at)
    found = hub.take_effects()
    answers = len(sent(found, "b"))
    assert OFFER_BURST <= answers <= OFFER_BURST + OFFER_RATE + 1
    assert reasons(found).count("flood") == 100 - answers
    assert hand(hub, first_message("c", 2.0), "c", 2.0) is not None
    assert hand(hub, first_message("b", 4.0, epoch=200), "b", 4.0) is not None


def test_replays_do_not_use_up_the_rate_of_the_peer() -> None:
    hub = node("hub", settings("b"))
    old = first_message("b", 1.0)
    for number in range(20):
        hand(hub, old if number else first_message("b", 2.0), f"mallory {number}", 2.0)
    assert reasons(hub.take_effects()) == ["replay"] * 19
    assert hand(hub, first_message("b", 3.0), "b", 3.0) is not None


@pytest.mark.usefixtures("never_loaded")
def test_what_cannot_be_a_first_message_by_its_length_costs_nothing() -> None:
    hub = node("hub", settings("b"))
    for number in range(UNPROVEN_BURST + 1):
        hand(hub, junk(1), number, 1.0)
    for size in (LEAST - 1, LEAST - MIN_OFFER + MAX_OFFER + 1):
        for _ in range(SOURCE_BURST + 1):
            hand(hub, junk(size), "b", 1.0)
    assert set(reasons(hub.take_effects())) == {"malformed"}
    assert hand(hub, first_message("b", 1.0), "b", 1.0) is not None


@pytest.mark.usefixtures("never_loaded")
def test_one_source_does_not_use_up_what_there_is_for_all() -> None:
    hub = node("hub", settings("b"), source_of=lambda address: str(address).split(":")[0])
    for number in range(UNPROVEN_BURST):
        hand(hub, junk(LEAST), f"mallory:{number}", 1.0)
    found = reasons(hub.take_effects())
    beyond = (UNPROVEN_BURST - SOURCE_BURST) * len(junk(LEAST))
    assert (found.count("authentication"), found.count("cookie")) == (SOURCE_BURST, beyond)
    assert hand(hub, first_message("b", 1.0), "b:1", 1.0) is not None


def test_buckets_are_bounded_and_the_one_unused_for_longest_gives_way() -> None:
    buckets = TokenBuckets(1.0, 0.0, 3)
    assert [buckets.take(key, 0.0) for key in "abcabc"] == [True] * 3 + [False] * 3
    assert buckets.take("d", 0.0)
    assert not buckets.take("b", 0.0)
    assert buckets.take("a", 0.0)
    assert len(buckets) == 3
