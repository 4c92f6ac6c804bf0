"""Old first messages: news once at most, and no proof of where a peer is."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.rekey.limits import OFFERS_REMEMBERED
from qtunnel.rekey.model import Heard, Memory, Notice
from qtunnel.rekey.node import RekeyNode
from qtunnel.rekey.replay import ReplayTimes
from qtunnel.rekey.states import OutState
from qtunnel.rekey.timing import CLOCK_DOUBT, PENDING_LIMIT
from qtunnel.tai64n import tai64n
from tests.rekey.gateways import IDENTITIES, datagrams, first_message, hand, node, now, reasons, sent, settings

NS = 1_000_000_000
times = st.integers(0, 10**6).map(lambda seconds: tai64n(seconds * NS))


@given(st.lists(times, unique=True), st.integers(1, 8))
def test_a_replay_time_is_never_news_again(added: list[bytes], size: int) -> None:
    window, clock = ReplayTimes(size), tai64n(10**6 * NS)
    seen: list[bytes] = []
    for timestamp in added:
        window.add(timestamp, clock)
        seen.append(timestamp)
        assert all(old in window for old in seen)
        assert tai64n((10**6 + 1) * NS) not in window


@given(st.lists(times.filter(lambda its: its > tai64n(1000 * NS)), unique=True, max_size=30))
def test_replay_times_ahead_of_the_clock_never_make_those_of_the_clock_old(forged: list[bytes]) -> None:
    window, clock = ReplayTimes(4), tai64n(1000 * NS)
    for timestamp in forged:
        window.add(timestamp, clock)
    for seconds in range(990, 1000):
        timestamp = tai64n(seconds * NS)
        assert timestamp not in window
        window.add(timestamp, clock)
        assert timestamp in window


def test_offers_that_were_never_committed_are_news_once_however_many_they_are() -> None:
    hub = node("hub", settings("b"))
    recorded = [first_message("b", float(at)) for at in range(1, OFFERS_REMEMBERED + 10)]
    for at, message in enumerate(recorded, 1):
        assert hand(hub, message, "b", float(at)) is not None
    later = len(recorded) + PENDING_LIMIT + 1
    hub.tick(now(later))
    hub.take_effects()
    for number, message in enumerate(recorded):
        assert hand(hub, message, "mallory", later + number) is None
    assert reasons(hub.take_effects()) == ["replay"] * (len(recorded) - 1)  # the last one only gets the same answer


AHEAD = 86400.0


def behind() -> RekeyNode:
    """A hub that agreed with b when b's clock was a day ahead, or when it is a day later by both clocks."""
    hub = node("hub")
    hub.add_peer(settings("b"), Memory(5, seen=tai64n(now(AHEAD).unix_ns)), now(0.0))
    return hub


def test_a_peer_whose_clock_was_ahead_and_whose_state_is_lost_is_named_with_the_remedy() -> None:
    hub = behind()
    for at in (1.0, 40.0):
        hand(hub, first_message("b", at, epoch=6), "b", at)
        assert reasons(hub.take_effects()) == ["replay"], "that may be anybody's"
    offer = first_message("b", 75.0, epoch=6)
    hand(hub, offer, "b", 76.0)
    found = hub.take_effects()
    (notice,) = [effect for effect in found if isinstance(effect, Notice) and effect.kind == "message.rejected"]
    assert (notice.peer, notice.fields["reason"]) == ("b", "clock")
    assert "86325 s older" in str(notice.fields["detail"])
    assert "qtunnel identity new" in str(notice.fields["detail"])
    assert "peers.json" not in str(notice.fields["detail"]), "which is all peers' memory"
    hand(hub, offer, "mallory", 77.0)
    assert reasons(hub.take_effects()) == ["replay"], "a copy says nothing new"
    hand(hub, first_message("b", AHEAD - CLOCK_DOUBT, epoch=6), "b", 78.0)
    assert reasons(hub.take_effects()) == ["replay"], "two clocks differ by a little"
    assert hand(hub, first_message("b", AHEAD + 1, epoch=6), "b", AHEAD + 1) is not None


@pytest.mark.parametrize(
    "made",
    [
        [1.0] * 4,
        [1.0, 400.0, 800.0, 1200.0],
        [1200.0, 800.0, 400.0, 1.0],
        [1.0, 2.0, 1000.0, 1001.0, 2000.0, 2001.0],
    ],
)
def test_what_was_recorded_long_ago_brings_no_advice(made: list[float]) -> None:
    """Offers that never arrived, or that this end has forgotten since: authentic, new here, and old."""
    hub = behind()
    recorded = [first_message("b", at, epoch=6) for at in made]
    for number, offer in enumerate(recorded):
        hand(hub, offer, "mallory", 5000.0 + number)
    assert reasons(hub.take_effects()) == ["replay"] * len(made)


class Addresses:
    """Two gateways; each sends to where it believes the other to be, as the daemon does."""

    def __init__(self, one: RekeyNode, other: RekeyNode, real: dict[str, Hashable]) -> None:
        self.nodes = {"hub": one, "b": other}
        self.real = real
        self.known: dict[str, Hashable] = {}
        self.heard: list[Heard] = []

    def pass_on(self, name: str, at: float) -> int:
        """What ``name`` has to send; how much of it arrives."""
        peer = "b" if name == "hub" else "hub"
        arrived = 0
        for send in sent(self.nodes[name].take_effects(), peer):
            address = send.address if send.address is not None else self.known.get(peer)
            if address != self.real[peer]:
                continue
            arrived += 1
            heard = hand(self.nodes[peer], send.datagrams, self.real[name], at)
            if heard is not None:
                self.heard.append(heard)
                if heard.proven or name not in self.known:
                    self.known[name] = self.real[name]
        return arrived


def test_the_address_of_a_peer_is_proven_by_its_commit_and_not_by_its_offer() -> None:
    between = Addresses(node("hub", settings("b")), node("b", settings("hub")), {"hub": "hub", "b": "new"})
    between.known |= {"b": "old", "hub": "hub"}
    between.nodes["b"].rekey_now("hub", now(1.0))
    assert between.pass_on("b", 1.0) == 1
    assert between.heard == [Heard("b", proven=False)]
    assert between.pass_on("hub", 1.1) == 1  # to where the offer came from
    assert between.pass_on("b", 1.2) == 1
    assert between.heard == [Heard("b", proven=False), Heard("b", proven=True)]
    assert between.known["b"] == "new"
    assert between.nodes["hub"].peers["b"].view().installed is not None


def test_a_commit_again_proves_nothing() -> None:
    hub, b = node("hub", settings("b")), node("b", settings("hub"))
    b.rekey_now("hub", now(1.0))
    hand(hub, datagrams(b.take_effects(), "hub"), "b", 1.0)
    hand(b, datagrams(hub.take_effects(), "b"), "hub", 1.1)
    commit = datagrams(b.take_effects(), "hub")
    assert hand(hub, commit, "b", 1.2) == Heard("b", proven=True)
    assert hand(hub, commit, "mallory", 1.3) is None


def test_a_peer_that_moved_answers_our_offer_where_both_began() -> None:
    """Ours goes first and would go to where the peer was: it is sent to where the peer's own came from, too."""
    higher, lower = ("hub", "b") if _id("hub") > _id("b") else ("b", "hub")
    between = Addresses(node("hub", settings("b")), node("b", settings("hub")), {higher: "here", lower: "new"})
    between.known = {higher: "here", lower: "old"}
    for name, peer in ((higher, lower), (lower, higher)):
        assert between.nodes[name].rekey_now(peer, now(1.0))
    assert between.pass_on(higher, 1.0) == 0
    assert between.pass_on(lower, 1.1) == 1
    assert between.known[lower] == "old"
    assert between.pass_on(higher, 1.2) == 1
    assert between.pass_on(lower, 1.3) == 1  # message 2
    assert between.known[lower] == "new"
    for name in (higher, lower):
        assert between.pass_on(name, 1.4) == 1
    for name, peer in ((higher, lower), (lower, higher)):
        assert between.nodes[name].peers[peer].view().installed is not None


def test_our_offer_is_repeated_to_both_places() -> None:
    higher, lower = ("hub", "b") if _id("hub") > _id("b") else ("b", "hub")
    gateway = node(higher, settings(lower))
    assert gateway.rekey_now(lower, now(1.0))
    hand(gateway, first_message(lower, 1.1, to=higher), "new", 1.1)
    gateway.take_effects()
    gateway.tick(now(1.6))
    assert [send.address for send in sent(gateway.take_effects(), lower)] == [None, "new"]
    assert gateway.peers[lower].outbound.state is OutState.OFFERED


def _id(name: str) -> bytes:
    return IDENTITIES[name].public.id
