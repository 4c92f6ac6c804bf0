"""Keys agreed ahead that are kept on disk: either end may be killed at any moment, and no key is used twice."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qtunnel.errors import StoreError
from qtunnel.keys.stored import SALT_SIZE, seal, unseal
from qtunnel.rekey.ahead import Kept
from qtunnel.rekey.model import Effect, Install, Keep, Memory, Remember, Send
from qtunnel.rekey.node import RekeyNode
from qtunnel.secret import Secret
from qtunnel.terms import RESERVOIR, KeyRef
from tests.rekey.simulation import Conditions, Host, Simulation
from tests.rekey.test_ahead import LOSSY, initiator, shared
from tests.rekey.test_rekey import CLEAN

DEPTH = 12
KEY = Secret(bytes(range(32)))


class KilledError(Exception):
    """The process ends here."""


class KeptSimulation(Simulation):
    """Two hosts with a disk each. broken: ends whose disk refuses to be written; withheld: what the shell sends not."""

    def __init__(self, seed: int, conditions: Conditions = CLEAN, **changes: Any) -> None:
        self.files: dict[str, bytes] = {}
        self.disk = {"a": Memory(), "b": Memory()}
        self.broken: set[str] = set()
        self.withheld: set[str] = set()
        self.left: dict[str, int | None] = {"a": None, "b": None}
        self.used: dict[str, set[KeyRef]] = {"a": set(), "b": set()}
        self.out: dict[str, set[KeyRef]] = {"a": set(), "b": set()}
        """Keys that each end has offered, or answered with: none of them may ever be in its reservoir again."""
        self.refused: list[str] = []
        given = {"interval": 1.0, "jitter": 0.0, "capabilities": RESERVOIR, "reservoir": DEPTH, "store_key": KEY}
        super().__init__(seed, conditions, **{**given, **changes})

    def ends(self, name: str) -> tuple[bytes, bytes]:
        own, other = self.identities if name == "a" else self.identities[::-1]
        return own.public.id, other.public.id

    def start(self, name: str, memory: Memory | None = None) -> None:
        """With what is on its disk, as daemon/stores.py does it."""
        memory, kept = self.disk[name] if memory is None else memory, Kept()
        if name in self.files and self.settings[name].store_key is not None:
            try:
                generation, image = unseal(self.files[name], KEY, self.ends(name))
                kept = Kept(image if memory.stored and generation >= memory.stored else None, "an old copy")
            except StoreError as error:
                kept = Kept(None, str(error))
            if kept.image is None:
                self.refused.append(name)
        if kept.image is not None:
            back = {entry.ref for entry in (*kept.image.own, *kept.image.theirs)}
            assert not back & self.out[name], "a key that was used came back"
        peer = "b" if name == "a" else "a"
        self.left[name] = None
        self.withheld.discard(name)
        node = RekeyNode(self.identities[0 if name == "a" else 1], self.rng.randbytes)
        self.hosts[name] = Host(name, node, peer, memory=memory)
        node.add_peer(self.settings[name], memory, self.clock(), kept=kept)
        self._carry_out(self.hosts[name])

    def kill(self, name: str, after: int) -> None:
        """So many effects from now."""
        self.left[name] = after

    def _carry_out(self, host: Host) -> None:
        try:
            super()._carry_out(host)
        except KilledError:
            self.start(host.name)

    def _effect(self, host: Host, effect: Effect) -> None:
        name, left = host.name, self.left[host.name]
        if left is not None:
            if left == 0:
                raise KilledError
            self.left[name] = left - 1
        match effect:
            case Keep():
                self.withheld.discard(name)
                if name in self.broken:
                    if effect.used:
                        self.withheld.add(name)
                        host.node.unkept(host.peer, self.clock())
                elif effect.image is None or effect.key is None:
                    self.files.pop(name, None)
                else:
                    salt = self.rng.randbytes(SALT_SIZE)
                    self.files[name] = seal(effect.image, effect.generation, effect.key, salt, effect.ends)
            case Remember():
                if name not in self.broken:  # which is told, and stops nothing
                    self.disk[name] = effect.memory
                super()._effect(host, effect)
            case Send():
                if name not in self.withheld:
                    peer = host.node.peers[host.peer]
                    initiator, sealed = peer.outbound._initiator, peer.inbound._sealed
                    self.out[name] |= set(initiator.offer.keys if initiator is not None else ())
                    self.out[name] |= set(sealed.keys.keys if sealed is not None else ())
                    super()._effect(host, effect)
            case Install():
                refs = set(host.node.peers[host.peer].context.epochs[effect.epoch].keys)
                assert not refs & self.used[name], "a key was used twice"
                self.used[name] |= refs
                super()._effect(host, effect)
            case _:
                super()._effect(host, effect)

    def full(self) -> None:
        self.run_until(lambda: shared(self, initiator(self)) >= DEPTH, limit=300)
        self.run_for(2.0)
        self.run_until(lambda: self.agreed, limit=30)

    def lost(self, name: str) -> int:
        fields = [notice.fields for notice in self.hosts[name].notices if notice.kind == "reservoir.lost"]
        return sum(int(str(its["number"])) for its in fields)

    def held(self, name: str) -> int:
        host = self.hosts[name]
        return len(host.node.peers[host.peer].ahead.reservoir.refs)


@pytest.mark.parametrize("who", ["a", "b", "ab"])
@pytest.mark.parametrize("conditions", [CLEAN, LOSSY], ids=["clean", "lossy"])
def test_ends_that_are_killed_go_on_with_qkd_keys_while_the_kmes_are_down(who: str, conditions: Conditions) -> None:
    its = KeptSimulation(3, conditions)
    its.full()
    held = {name: its.held(name) for name in "ab"}
    its.kme.down = {"a", "b"}
    delivered = its.kme.delivered
    for name in who:
        its.start(name)
        assert its.held(name) == held[name]
    before = {name: its.hosts[name].engine.epoch or 0 for name in "ab"}
    its.run_until(lambda: all((its.hosts[n].engine.epoch or 0) > before[n] + 4 for n in "ab") and its.agreed, limit=120)
    assert all(its.lost(name) == 0 for name in "ab")
    assert its.kme.delivered == delivered


def test_without_a_store_a_killed_end_books_what_it_held() -> None:
    its = KeptSimulation(3, store_key=None)
    its.full()
    held = its.held("a")
    its.start("a")
    assert its.held("a") == 0
    assert its.lost("a") == held
    its.start("a")
    assert its.lost("a") == 0, "once, not at every start"
    assert its.files == {}


def test_what_was_learned_and_lost_is_learned_again() -> None:
    """Both ends go back to the file of a moment before: no state of a key is stuck."""
    its = KeptSimulation(5)
    its.run_until(lambda: its.held("a") > 6 and its.held("b") > 0, limit=60)
    for _ in range(6):
        its.run_for(0.37)
        its.start("a")
        its.run_for(0.41)
        its.start("b")
    its.full()
    its.run_until(lambda: its.agreed, limit=30)


def test_an_old_copy_is_refused_and_booked() -> None:
    its = KeptSimulation(3)
    its.full()
    copy = its.files["a"]
    its.run_for(5.0)
    its.files["a"] = copy
    held = sum(number for _, number in its.disk["a"].held)
    its.start("a")
    assert its.refused == ["a"]
    assert its.lost("a") == held
    assert "a" not in its.files, "it is removed"
    its.full()


def test_a_file_whose_state_file_is_gone_is_refused() -> None:
    its = KeptSimulation(3)
    its.full()
    its.run_for(30.0)
    generation, _ = unseal(its.files["a"], KEY, its.ends("a"))
    its.start("a", Memory())
    assert its.refused == ["a"]
    its.run_for(5.0)
    its.full()
    assert unseal(its.files["a"], KEY, its.ends("a"))[0] > generation, "older copies stay older"


def test_a_disk_that_refuses_stops_no_tunnel_and_lets_no_key_be_used_twice() -> None:
    its = KeptSimulation(3)
    its.full()
    its.broken = {"a", "b"}
    for _ in range(4):
        before = its.hosts["a"].engine.installs
        its.run_until(lambda before=before: its.hosts["a"].engine.installs > before, limit=120)  # type: ignore[misc]
    for name in "ab":
        its.start(name)  # with the files of before the disk broke
    its.broken = set()
    its.full()
    its.run_for(20.0)  # and no key came twice, which Install looks at
    assert its.agreed


def test_a_store_that_is_taken_out_of_the_configuration_leaves_no_file() -> None:
    its = KeptSimulation(3)
    its.full()
    copy = its.files["a"]
    its.settings["a"] = replace(its.settings["a"], store_key=None)
    its.hosts["a"].node.change_peer(its.settings["a"], its.clock())
    its.run_for(3.0)
    assert "a" not in its.files
    assert its.held("a") > 0
    its.files["a"] = copy  # and what a backup brings back is too old
    its.settings["a"] = replace(its.settings["a"], store_key=KEY)
    its.start("a")
    assert its.refused == ["a"]


def test_another_key_for_the_store_seals_it_anew() -> None:
    its = KeptSimulation(3)
    its.full()
    its.settings["a"] = replace(its.settings["a"], store_key=Secret(bytes(32)))
    its.hosts["a"].node.change_peer(its.settings["a"], its.clock())
    its._carry_out(its.hosts["a"])
    with pytest.raises(StoreError):
        unseal(its.files["a"], KEY, its.ends("a"))
    unseal(its.files["a"], Secret(bytes(32)), its.ends("a"))


def test_old_keys_are_old_after_a_restart_too() -> None:
    its = KeptSimulation(3, reservoir_age=60.0)
    its.full()
    its.kme.down = {"a", "b"}
    its.now += 50.0
    its.start("a")
    assert its.held("a") > 0
    its.run_for(11.0)
    assert its.held("a") == 0


faults = st.sampled_from(["", "", "broken", "copy"])
moments = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 12), st.floats(0.0, 4.0), faults), max_size=12)


STALE = [("b", 0, 0.0, "broken"), ("a", 0, 0.0, ""), ("a", 0, 0.75, ""), ("a", 0, 2.5, ""), ("a", 0, 0.0, ""),
         ("b", 0, 1.0, ""), ("a", 0, 2.0, "copy")]  # fmt: skip
"""An answer went out whose key was gone from the file, but not from a copy of before: its generation still counted."""


@settings(max_examples=40)
@example(8223, STALE)
@given(st.integers(0, 1 << 30), moments)
def test_whenever_an_end_is_killed_no_key_is_used_twice(seed: int, kills: list[tuple[str, int, float, str]]) -> None:
    """Between any two effects, with old copies put back and disks that refuse for a while."""
    its = KeptSimulation(seed, random.Random(seed).choice([CLEAN, LOSSY]))
    its.run_until(lambda: its.held("a") > 4, limit=300)
    for name, after, seconds, what in kills:
        copy = its.files.get(name)
        if what == "broken":
            its.broken = {name}
        its.run_for(seconds)
        if what == "copy" and copy is not None:
            its.files[name] = copy
        its.kill(name, after)
        its.run_for(1.0)
        its.broken = set()
    its.run_for(5.0)
    its.run_until(lambda: its.agreed, limit=600)
