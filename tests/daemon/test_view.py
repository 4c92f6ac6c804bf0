"""The status says what is in force, and never more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qtunnel.config import PeerConfig, load_config
from qtunnel.daemon.view import Tally, is_stale, may_fall_short, peer_status, protection_in_force
from qtunnel.engines.base import PeerStats
from qtunnel.handshake.suites import SUITES
from qtunnel.keys.policy import Protection
from qtunnel.rekey.model import EpochInfo
from qtunnel.rekey.states import InState, OutState
from qtunnel.rekey.view import PeerView
from qtunnel.terms import KeyRef
from tests.config.conftest import MINIMAL
from tests.config.conftest import site as site  # the files that MINIMAL names
from tests.config.conftest import write as write

NOW = 10_000.0
OLD = EpochInfo(1, SUITES[1], (KeyRef("metro", "k1", 32),), False, NOW - 100_000)
NEW = EpochInfo(2, SUITES[1], (KeyRef("metro", "k2", 32),), True, NOW - 5)
PQC = EpochInfo(3, SUITES[1], (), True, NOW - 5)


@pytest.fixture
def peer(write: Callable[[str], Path]) -> PeerConfig:
    return load_config(write(MINIMAL), environ={}).peers[0]


def view(protection: Protection = Protection.QKD_PQC) -> PeerView:
    return PeerView(
        "bob", NEW, {1: OLD, 2: NEW, 3: PQC}, protection, "initiator", OutState.IDLE, InState.IDLE, NOW + 60, NOW + 595
    )


def stats(epoch: int | None) -> PeerStats:
    return PeerStats(("192.0.2.1", 51820), 1.7e9, 1, 2, epoch)


@pytest.mark.parametrize(
    ("installed", "epoch", "expected"),
    [
        (Protection.QKD_PQC, 2, Protection.QKD_PQC),
        (Protection.QKD_PQC, 3, Protection.PQC_ONLY),
        (Protection.QKD_PQC, 1, Protection.EXPIRED),  # a newer one is installed, and not yet in force
        (Protection.QKD_PQC, 77, Protection.EXPIRED),  # nobody knows what is in it
        (Protection.QKD_PQC, None, Protection.STARTING),
        (Protection.BLOCKED, 2, Protection.BLOCKED),
        (Protection.EXPIRED, 2, Protection.EXPIRED),
        (Protection.STARTING, 2, Protection.STARTING),
    ],
)
def test_protection_is_that_of_the_session_in_force(
    peer: PeerConfig, installed: Protection, epoch: int | None, expected: Protection
) -> None:
    assert protection_in_force(peer, view(installed), stats(epoch), NOW) is expected


def test_what_only_some_of_the_possible_epochs_have_is_not_claimed(peer: PeerConfig) -> None:
    """An engine that tells no epoch: the session is of the second or the third, and the third has no QKD key."""
    unsure = replace(stats(2), newest_epoch=3)
    assert protection_in_force(peer, view(), unsure, NOW) is Protection.PQC_ONLY
    status = peer_status(peer, view(), unsure, Tally(), str, None, 3, NOW, 1.7e9)
    assert not status.protected
    assert (status.epoch_in_force, status.sources, status.key_ids) == (2, ["x25519", "ml-kem-1024"], [])
    assert status.chained
    assert protection_in_force(peer, view(), replace(stats(2), newest_epoch=2), NOW) is Protection.QKD_PQC
    first = replace(stats(1), newest_epoch=2)
    assert not peer_status(peer, view(), first, Tally(), str, None, 2, NOW, 1.7e9).chained


def test_without_the_engines_word_nothing_is_in_force(peer: PeerConfig) -> None:
    status = peer_status(peer, view(), None, Tally(), str, None, None, NOW, 1.7e9)
    assert not status.protected
    assert status.epoch_in_force is status.epoch_installed is None
    assert status.sources == []
    assert status.key_ids == []


def test_installed_is_what_the_engine_has_taken(peer: PeerConfig) -> None:
    status = peer_status(peer, view(), stats(2), Tally(), lambda name: f"etsi014:{name}", None, 1, NOW, 1.7e9)
    assert (status.epoch_installed, status.epoch_in_force) == (1, 2)
    assert status.sources == ["x25519", "ml-kem-1024", "etsi014:metro"]
    assert [key.key_id for key in status.key_ids] == ["k2"]
    assert status.protected


@pytest.mark.parametrize(
    ("installed", "epoch", "expected"),
    [
        (Protection.QKD_PQC, 1, True),  # past max_age, and a newer one is there
        (Protection.QKD_PQC, 77, True),
        (Protection.QKD_PQC, 2, False),
        (Protection.QKD_PQC, None, False),
        (Protection.EXPIRED, 1, False),  # the grace of pqc-only: the next session would be of the same epoch
        (Protection.BLOCKED, 1, False),
    ],
)
def test_a_session_is_dropped_only_where_the_next_one_is_better(
    peer: PeerConfig, installed: Protection, epoch: int | None, expected: bool
) -> None:
    assert is_stale(peer, view(installed), stats(epoch), NOW) is expected
    assert is_stale(peer, view(installed), None, NOW) is False


def test_an_epoch_before_the_one_in_place_may_be_what_the_policy_forbids(peer: PeerConfig) -> None:
    weak = replace(view(), installed=replace(NEW, epoch=4), epochs={3: PQC, 4: replace(NEW, epoch=4)})
    assert may_fall_short(peer, weak, relaxed=False)
    assert not may_fall_short(peer, weak, relaxed=True), "the policy does without QKD now"
    assert not may_fall_short(peer, replace(weak, protection=Protection.BLOCKED), relaxed=False), "no session"
    assert not may_fall_short(peer, replace(weak, installed=None), relaxed=False), "no epoch yet"
    assert not may_fall_short(peer, replace(weak, epochs={1: OLD, 4: NEW}), relaxed=False), "they have a key each"
    assert not may_fall_short(peer, view(), relaxed=False), "the third is no epoch before the second"


def test_the_status_has_the_interval_in_force_and_why_and_what_was_carried(peer: PeerConfig) -> None:
    moved = replace(view(), interval=300.0, interval_reason="metro has 3 of 100 keys left", bytes=7, packets=9)
    told = peer_status(
        peer,
        moved,
        replace(stats(2), packets=1000),
        Tally(),
        str,
        None,
        2,
        NOW,
        1.7e9,
        ["metro has 3 of 100 keys left"],
    )
    assert (told.interval_s, told.interval_usual_s) == (300.0, 120.0)
    assert told.interval_reason == "metro has 3 of 100 keys left"
    assert told.supply == ["metro has 3 of 100 keys left"]
    assert (told.epoch_bytes, told.epoch_packets) == (7, 9)
    told = peer_status(peer, moved, stats(2), Tally(), str, None, 2, NOW, 1.7e9)
    assert (told.epoch_packets, told.supply) == (None, [])
