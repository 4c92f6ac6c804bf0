"""When the interface is looked at."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qtunnel.daemon.looks import AFTER_CHANGE, ANYWAY, Looks

CHANGES = st.sampled_from([False] * 20 + [True])


@given(turns=st.lists(st.tuples(CHANGES, st.booleans()), max_size=300), cycle=st.integers(1, 30))
def test_every_change_is_followed_by_enough_looks_and_trouble_by_as_many_as_it_lasts(
    turns: list[tuple[bool, bool]], cycle: int
) -> None:
    heard = False
    looks = Looks(lambda: heard, lambda: cycle)
    changed_at = None
    for turn, (heard, trouble) in enumerate(turns):
        if heard:
            changed_at = turn
        looked = looks.due(trouble=trouble)
        if trouble or (changed_at is not None and turn - changed_at < max(AFTER_CHANGE, cycle)):
            assert looked


def test_what_was_just_made_is_looked_at_once() -> None:
    changes = iter([True, False, False, True])
    looks = Looks(lambda: next(changes, False), lambda: 16)
    looks.made()
    assert [looks.due(trouble=False) for _ in range(3 + 16)] == [True, False] + 16 * [True] + [False]


def test_a_quiet_host_costs_a_look_a_minute() -> None:
    looks = Looks(lambda: False, lambda: 16)
    looked = [turn for turn in range(10 * ANYWAY) if looks.due(trouble=False)]
    assert looked == [turn * ANYWAY - 1 for turn in range(1, 11)]
