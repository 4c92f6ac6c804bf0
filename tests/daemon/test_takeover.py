"""What a daemon makes of the keys that it finds in an engine of before its start."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.daemon.takeover import MAX_NOTE, epoch_of, lease_of, note_of, shortfall, take_up
from qtunnel.engines.base import Lease, Left, PeerSpec
from qtunnel.errors import EngineError
from qtunnel.handshake.suites import SUITES
from qtunnel.identity import Identity
from qtunnel.rekey.model import EpochInfo, Memory, Now, PeerSettings
from qtunnel.rekey.node import RekeyNode
from qtunnel.rekey.protection import Guard
from qtunnel.rekey.timing import RELAXED_GRACE
from qtunnel.terms import KeyRef, Policy, QkdPolicy

SUITE, OTHER = list(SUITES.values())[:2]
ALICE, BOB = Identity.create(os.urandom), Identity.create(os.urandom)
SETTINGS = PeerSettings("bob", BOB.public, SUITE, Policy(QkdPolicy.REQUIRED), 120.0, 0.1, 600.0, sources=("metro",))
INFO = EpochInfo(7, SUITE, (KeyRef("metro", "1234-5678", 32),), True, 1000.0)
NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
NOW = Now(1300.0, 1_700_000_000_000_000_000)


@given(
    st.builds(
        EpochInfo,
        st.integers(1, 2**62),
        st.just(SUITE),
        st.lists(st.builds(KeyRef, NAMES, NAMES, st.just(32)), max_size=3).map(tuple),
        st.booleans(),
        st.floats(0, 1e9),
    )
)
def test_an_epoch_comes_back_as_it_was(info: EpochInfo) -> None:
    note = note_of(info, BOB.public)
    assert note.isascii()
    assert note.isprintable()
    assert epoch_of(info.epoch, note, SETTINGS) == info


def test_of_many_sources_the_names_are_kept() -> None:
    keys = tuple(KeyRef(f"source-{number}", "é" * 60, 32) for number in range(8))
    note = note_of(replace(INFO, keys=keys), BOB.public)
    assert len(note) <= MAX_NOTE
    back = epoch_of(7, note, SETTINGS)
    assert back is not None
    assert back.sources == tuple(key.source for key in keys)
    assert note_of(replace(INFO, keys=tuple(KeyRef("s" * 200, "k", 32) for _ in range(8))), BOB.public) == ""


@given(st.text(max_size=60) | st.sampled_from(["[]", "{}", "null", '{"made":"x","suite":1,"chained":1,"keys":[1]}']))
def test_what_nobody_can_read_is_no_epoch(note: str) -> None:
    assert epoch_of(7, note, SETTINGS) is None


def test_an_epoch_of_another_suite_is_none() -> None:
    assert epoch_of(7, note_of(replace(INFO, suite=OTHER), BOB.public), SETTINGS) is None


@pytest.mark.parametrize(
    "info, settings, words",
    [
        (INFO, SETTINGS, None),
        (None, SETTINGS, "nobody can tell"),
        (replace(INFO, keys=()), SETTINGS, "fewer QKD sources"),
        (replace(INFO, keys=()), replace(SETTINGS, policy=Policy(QkdPolicy.PREFERRED)), None),
        (INFO, replace(SETTINGS, policy=Policy(QkdPolicy.REQUIRED, 2)), "fewer QKD sources"),
        (INFO, replace(SETTINGS, sources=("another",)), "fewer QKD sources"),
        (replace(INFO, made=700.0), SETTINGS, "older than 600 s"),
        (replace(INFO, made=1301.0), SETTINGS, "older than 600 s"),  # of a future that cannot be
        (INFO, replace(SETTINGS, max_age=300.0), "older than 300 s"),
    ],
)
def test_the_policy_of_now_judges_it(info: EpochInfo | None, settings: PeerSettings, words: str | None) -> None:
    problem = shortfall(info, settings, NOW.mono)
    assert (problem is None) if words is None else (problem is not None and words in problem)


def test_an_epoch_with_another_peer_is_none() -> None:
    """Of the same WireGuard key: the configuration may have given it to somebody else, and WireGuard knows no other."""
    note = note_of(INFO, BOB.public)
    assert epoch_of(7, note, SETTINGS) == INFO
    assert epoch_of(7, note, replace(SETTINGS, public=Identity.create(os.urandom).public)) is None


def node(settings: PeerSettings = SETTINGS) -> RekeyNode:
    core = RekeyNode(ALICE, os.urandom)
    core.add_peer(settings, Memory(), NOW)
    return core


def test_an_epoch_that_was_taken_up_runs_out_as_any_other() -> None:
    core = node()
    assert lease_of(core, "bob") is None
    core.take_up("bob", INFO, None, NOW)
    view = core.peers["bob"].view()
    assert (view.installed, view.expires, view.protection.value) == (INFO, 1600.0, "qkd+pqc")
    assert core.peers["bob"].current_psk() is None
    lease = lease_of(core, "bob")
    assert lease is not None
    assert (lease.ends, lease.note, lease.before) == (1600.0, note_of(INFO, BOB.public), ())
    core.take_effects()
    core.tick(Now(1600.0, NOW.unix_ns))
    assert "Block" in [type(effect).__name__ for effect in core.take_effects()]
    assert lease_of(core, "bob") is None


def test_a_lease_tells_when_the_epoch_before_is_over() -> None:
    core = node()
    core.take_up("bob", INFO, replace(INFO, epoch=6, made=950.0), NOW)
    lease = lease_of(core, "bob")
    assert lease is not None
    assert (lease.ends, lease.before) == (1600.0, ((6, 1550.0),))


def test_no_epoch_up_to_it_is_ever_installed_again() -> None:
    core = node()
    core.take_up("bob", INFO, replace(INFO, epoch=6), NOW)
    context = core.peers["bob"].context
    assert (context.floor, context.epoch, sorted(context.epochs)) == (7, 7, [6, 7])


def test_a_lease_lasts_as_long_as_the_daemon_itself_would_let_the_key_live() -> None:
    guard = Guard(replace(SETTINGS, pqc_on_expiry=True), 0.0)
    assert guard.ends is None
    guard.install(INFO)
    assert guard.ends == 1600.0 + RELAXED_GRACE
    guard.tick(1600.0)  # relaxed: PQC alone may replace it
    assert guard.ends == 1600.0 + RELAXED_GRACE
    guard.tick(1600.0 + RELAXED_GRACE)
    assert guard.ends is None
    guard.install(replace(INFO, keys=(), made=2000.0))  # an epoch without QKD, as the policy now allows
    assert guard.ends == 2600.0


class Recorded:
    """In the place of the tunnel: what it is told."""

    def __init__(self, left: Left) -> None:
        self.left = {"bob": left}
        self.told: list[object] = []

    async def block(self, peer: str) -> None:
        self.told.append("block")

    async def renew(self, peer: str, lease: Lease) -> None:
        self.told.append(lease.ends)


GOOD, WEAK = note_of(INFO, BOB.public), note_of(replace(INFO, keys=()), BOB.public)
FOREIGN = note_of(INFO, ALICE.public)


@pytest.mark.parametrize(
    "installed, in_force, ended, told, event, words",
    [
        ((7, GOOD), (7, GOOD), None, 1600.0, "epoch.kept", "in place since before the restart"),
        ((7, GOOD), None, None, 1600.0, "epoch.kept", "in place since before the restart"),
        ((7, GOOD), (6, GOOD), None, 1600.0, "epoch.kept", "in place since before the restart"),
        (
            (7, GOOD),
            (6, WEAK),
            None,
            "block",
            "peer.blocked",
            "epoch 7 of before the restart is not kept: it has fewer",
        ),
        ((7, GOOD), (6, ""), None, "block", "peer.blocked", "nobody can tell what it is made of"),
        ((7, FOREIGN), (7, FOREIGN), None, "block", "peer.blocked", "nobody can tell what it is made of"),
        ((7, GOOD), (6, FOREIGN), None, "block", "peer.blocked", "nobody can tell what it is made of"),
        ((7, WEAK), (7, WEAK), None, "block", "peer.blocked", "fewer QKD sources than the policy demands"),
        (None, None, 7, "block", "peer.blocked", "no daemon renewed epoch 7 within 600 s: the engine blocked the peer"),
        (None, None, None, "block", None, ""),
    ],
)
def test_what_is_found_goes_on_or_is_blocked(
    installed: tuple[int, str] | None, in_force: tuple[int, str] | None, ended: int | None, told: object,
    event: str | None, words: str,
) -> None:  # fmt: skip
    tunnel = Recorded(Left(PeerSpec(bytes(32)), installed, in_force, ended))
    events: list[tuple[str, dict[str, object]]] = []
    core = node()
    publish = lambda kind, peer, **fields: events.append((kind, fields))  # noqa: E731
    asyncio.run(take_up(tunnel, core, [SETTINGS], NOW, publish))  # type: ignore[arg-type]  # all that it is asked
    assert tunnel.told == [told]
    assert [kind for kind, _ in events] == ([] if event is None else [event])
    assert not events or words in str(events[0][1]["detail"])
    assert (core.peers["bob"].view().installed is not None) == (event == "epoch.kept")


class Hanging(Recorded):
    """An engine that takes too long for one peer."""

    async def block(self, peer: str) -> None:
        raise EngineError(f"no answer for {peer} within 5 s")


def test_one_peer_that_the_engine_refuses_does_not_end_the_takeover_of_the_others() -> None:
    left = Left(PeerSpec(bytes(32)), (7, GOOD), (7, GOOD))
    tunnel = Hanging(left)
    tunnel.left = {"alice": Left(PeerSpec(bytes(32)), (7, WEAK), None), "bob": left}
    events: list[tuple[str, str | None]] = []
    core = node()
    publish = lambda kind, peer, **fields: events.append((kind, peer))  # noqa: E731
    both = [replace(SETTINGS, name="alice"), SETTINGS]
    asyncio.run(take_up(tunnel, core, both, NOW, publish))  # type: ignore[arg-type]  # all that it is asked
    assert events == [("engine.trouble", "alice"), ("epoch.kept", "bob")]
    assert core.peers["bob"].view().installed is not None
