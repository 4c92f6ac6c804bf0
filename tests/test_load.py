"""How much of a processor something takes under a budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.load import Budget

STEPS = st.lists(st.tuples(st.floats(0.0, 0.05), st.floats(0.0, 0.2)), min_size=1, max_size=200)


@given(STEPS, st.floats(0.1, 1.0), st.floats(0.0, 0.5))
def test_who_rests_as_told_never_takes_more_than_its_share(
    steps: list[tuple[float, float]], share: float, burst: float
) -> None:
    """steps: seconds of processor time, and of idling before them. What is taken at once is on top of the share, and so
    is the last piece, which is measured only when it is over."""
    budget, now, taken = Budget(share, burst), 100.0, 0.0
    for took, idle in steps:
        now += idle + took
        taken += took
        assert taken <= (now - 100.0) * share + burst + 0.05 + 1e-9
        now += budget.spend(took, now)


def test_there_is_no_rest_within_the_share_and_as_much_as_it_takes_beyond() -> None:
    budget = Budget(0.5, 0.1)
    assert budget.spend(0.1, 10.0) == 0.0
    assert budget.spend(0.1, 10.1) == pytest.approx(0.1)
    assert budget.spend(0.1, 10.4) == 0.0
    assert budget.spend(0.2, 10.4) == pytest.approx(0.4)
