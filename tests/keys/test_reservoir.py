"""Two ends' reservoirs over messages that get lost: what one takes for shared, the other holds, and nothing twice."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qtunnel.keys.reservoir import MOST_WITHDRAWN, TRANSIT, Reservoir, mark_of
from qtunnel.secret import Secret
from qtunnel.terms import MAX_ANNOUNCED, MAX_ANNOUNCED_BYTES, NOTHING, KeyRef

SOURCES = ("metro", "backup")
AGE = 1000.0


def reservoir(name: str = "a", depth: int = 4) -> Reservoir:
    return Reservoir(name.encode() * 8, depth, AGE)


def ref(number: int, source: str = "metro") -> KeyRef:
    return KeyRef(source, f"id-{number}", 32)


def key(number: int) -> Secret:
    return Secret(number.to_bytes(32, "big"))


def filled(one: Reservoir, other: Reservoir, numbers: range) -> None:
    """``one`` has these keys, shared with ``other``."""
    for number in numbers:
        one.put(ref(number), key(number), 0.0)
    told = one.tell()
    for its in other.wanted(told.announced, SOURCES, 32):
        other.hold(its, key(int(its.key_id[3:])), 0.0)
    other.learn(told)
    one.heard(told)
    said = other.tell()
    one.learn(said)
    other.heard(said)


def test_a_key_is_offered_only_once_the_other_end_holds_it() -> None:
    one, other = reservoir("a"), reservoir("b")
    one.put(ref(1), key(1), 0.0)
    assert one.take("metro") is None
    told = one.tell()
    assert told.announced == (ref(1),)
    one.learn(other.tell())
    assert one.shared("metro") == 0  # the other end has not fetched it yet
    other.hold(ref(1), key(1), 0.0)
    one.learn(other.tell())
    assert one.shared("metro") == 1
    taken = one.take("metro")
    assert taken is not None
    assert taken[0] == ref(1)
    given_key = other.give(ref(1))
    assert given_key is not None
    assert given_key == taken[1]
    assert one.take("metro") is None
    assert other.give(ref(1)) is None


def test_a_key_that_comes_once_more_is_wiped_and_the_first_stays() -> None:
    other, first, again = reservoir("b"), key(1), key(1)
    other.hold(ref(1), first, 0.0)
    other.hold(ref(1), again, 1.0)
    assert (first.wiped, again.wiped) == (False, True)
    assert other.give(ref(1)) is first


def test_withdrawals_that_a_peer_never_hears_of_take_bounded_memory() -> None:
    one = reservoir("a", depth=16)
    numbers = range(MOST_WITHDRAWN + 100)
    for number in numbers:
        held = key(number)
        one.hold(ref(number), held, 1.0)
        assert one.distrust("metro", 0.0) == [ref(number)]
        assert held.wiped
    assert len(one._withdrawn) == MOST_WITHDRAWN
    assert mark_of(ref(numbers[-1])) in one._withdrawn, "the newest, which the peer may offer yet"


def test_the_oldest_goes_first() -> None:
    one, other = reservoir("a"), reservoir("b")
    filled(one, other, range(3))
    assert [taken[0] for taken in iter(lambda: one.take("metro"), None)] == [ref(0), ref(1), ref(2)]


def test_a_peer_that_does_not_take_up_keys_costs_no_more_than_one_message_of_them() -> None:
    one = reservoir("a", depth=100)
    for number in range(100):
        if not one.missing("metro"):
            break
        one.put(ref(number), key(number), 0.0)
        one.tell()
    assert one.missing("metro") == 0
    assert one.wipe() == MAX_ANNOUNCED


def test_long_references_are_announced_over_several_messages() -> None:
    one = reservoir("a", depth=16)
    for number in range(16):
        one.put(KeyRef("metro", f"{number:0200d}", 32), key(number), 0.0)
    told = one.tell()
    assert 0 < sum(its.wire_size for its in told.announced) <= MAX_ANNOUNCED_BYTES
    assert len(told.announced) == 5


def test_no_more_is_held_for_the_peer_than_our_own_depth() -> None:
    other = reservoir("b", depth=2)
    offered = [ref(number) for number in range(5)] + [ref(9, "unknown")]
    room = 2 + TRANSIT
    assert other.wanted(offered, ("metro",), 32) == tuple(offered[:room])
    other.hold(ref(0), key(0), 0.0)
    assert other.wanted(offered, ("metro",), 32) == tuple(offered[1:room])
    assert other.wanted([KeyRef("metro", "short", 16)], ("metro",), 32) == ()


def test_an_end_without_a_reservoir_tells_and_takes_nothing() -> None:
    none = reservoir(depth=0)
    assert none.tell() == NOTHING
    assert none.missing("metro") == 0
    assert none.wanted([ref(1)], SOURCES, 32) == ()


def test_a_peer_that_was_restarted_has_lost_what_it_held() -> None:
    one, other = reservoir("a"), reservoir("b")
    filled(one, other, range(3))
    anew = reservoir("c")
    one.put(ref(7), key(7), 0.0)  # not announced yet: nothing happened to it
    assert sorted(its.key_id for its in one.learn(anew.tell())) == ["id-0", "id-1", "id-2"]
    assert one.shared("metro") == 0
    assert one.tell().announced == (ref(7),)


def test_a_key_that_is_announced_again_is_marked_again() -> None:
    """Its owner was put back to before it heard the mark."""
    one, other = reservoir("a"), reservoir("b")
    filled(one, other, range(2))
    image, (first, _) = one.image(0.0, 1_000), one.refs
    before = replace(image, own=tuple(replace(its, state=its.ref == first or 2) for its in image.own))
    again = reservoir("c")
    again.take_up(before, 0.0, 1_000, lambda ref, key: True)
    assert (again.shared("metro"), again.store) == (1, one.store)
    assert other.tell().held == ()
    other.learn(again.tell())
    assert other.tell().held == (mark_of(first),)
    again.learn(other.tell())
    assert again.shared("metro") == 2


def test_an_image_has_all_of_it_and_its_age() -> None:
    one, other = reservoir("a"), reservoir("b")
    filled(one, other, range(3))
    other.put(ref(7), key(7), 5.0)
    image = other.image(10.0, 1_000_000)
    again = reservoir("c")
    again.take_up(image, 1_000.0, 1_050_000, lambda ref, key: ref != KeyRef("metro", "id-1", 32))
    assert again.refs == (ref(7), ref(0), ref(2)), "and none that came since"
    assert again.deadline == 1_000.0 - 60.0 + AGE
    young = reservoir("d")
    young.take_up(other.image(10.0, 1_000_000), 1_000.0, 0, lambda ref, key: True)
    assert young.deadline == 1_000.0 + AGE, "a clock that went back makes no key older"


def test_old_keys_are_wiped_and_named() -> None:
    one, other = reservoir("a"), reservoir("b")
    filled(one, other, range(2))
    assert one.deadline == AGE
    assert one.expire(AGE - 1) == []
    assert one.expire(AGE) == [ref(0), ref(1)]
    assert one.deadline is None
    assert one.take("metro") is None


def test_keys_of_a_source_that_is_gone_are_wiped() -> None:
    one = reservoir("a")
    one.put(ref(1), key(1), 0.0)
    one.put(ref(2, "backup"), key(2), 0.0)
    assert one.keep(["metro"]) == [ref(2, "backup")]
    assert one.counts() == {"metro": (0, 1)}


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20), st.integers(1, 65535))
def test_a_mark_depends_on_every_part_of_the_reference(source: str, key_id: str, size: int) -> None:
    marks = {
        mark_of(KeyRef(source, key_id, size)),
        mark_of(KeyRef(key_id, source, size)),
        mark_of(KeyRef(source + key_id, "", size)),
    }
    assert len(marks) == (2 if source == key_id else 3)
    assert mark_of(KeyRef(source, key_id, size)) in marks


class TwoEnds(RuleBasedStateMachine):
    """Messages go one at a time, and may get lost; either end may be restarted."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()
        self.stores = itertools.count(1)
        self.ends = [self._new(), self._new()]
        self.used: set[KeyRef] = set()
        self.now = 0.0

    def _new(self) -> Reservoir:
        return Reservoir(next(self.stores).to_bytes(8, "big"), 3, AGE)

    @rule(end=st.integers(0, 1), source=st.sampled_from(SOURCES))
    def fetch(self, end: int, source: str) -> None:
        its = self.ends[end]
        for _ in range(its.missing(source)):
            number = next(self.numbers)
            its.put(ref(number, source), key(number), self.now)

    @rule(sender=st.integers(0, 1), fetched=st.booleans(), heard=st.booleans())
    def message(self, sender: int, fetched: bool, heard: bool) -> None:
        one, other = self.ends[sender], self.ends[1 - sender]
        told = one.tell()
        other.learn(told)
        for its in other.wanted(told.announced, SOURCES, 32) if fetched else ():
            other.hold(its, key(int(its.key_id[3:])), self.now)
        if heard:
            one.heard(told)

    @rule(sender=st.integers(0, 1))
    def lost(self, sender: int) -> None:
        self.ends[sender].tell()

    @rule(end=st.integers(0, 1), source=st.sampled_from(SOURCES))
    def rekey(self, end: int, source: str) -> None:
        taken = self.ends[end].take(source)
        if taken is None:
            return
        assert taken[0] not in self.used, "used twice"
        self.used.add(taken[0])
        theirs = self.ends[1 - end].give(taken[0])
        if theirs is not None:
            assert theirs == taken[1]

    @rule(end=st.integers(0, 1))
    def restart(self, end: int) -> None:
        self.ends[end].wipe()
        self.ends[end] = self._new()

    @rule(end=st.integers(0, 1))
    def restart_with_a_store(self, end: int) -> None:
        before, now = self.ends[end], round(self.now * 1000)
        self.ends[end] = self._new()
        self.ends[end].take_up(before.image(self.now, now), self.now, now, lambda ref, key: True)
        assert (self.ends[end].tell(), self.ends[end].counts()) == (before.tell(), before.counts())

    @precondition(lambda self: self.now < 5 * AGE)
    @rule()
    def age(self) -> None:
        self.now += AGE / 3
        for its in self.ends:
            its.expire(self.now)

    @invariant()
    def bounded(self) -> None:
        for its in self.ends:
            for shared, held in its.counts().values():
                assert shared <= 5
                assert held <= 10


TestTwoEnds = TwoEnds.TestCase
TestTwoEnds.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_without_restarts_what_is_taken_for_shared_is_there() -> None:
    one, other = reservoir("a", 8), reservoir("b", 8)
    filled(one, other, range(8))
    while (taken := one.take("metro")) is not None:
        theirs = other.give(taken[0])
        assert theirs is not None
        assert theirs == taken[1]
