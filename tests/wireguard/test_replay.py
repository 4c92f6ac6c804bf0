"""The replay window against a set that remembers everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qtunnel.wireguard.limits import REPLAY_WINDOW
from qtunnel.wireguard.replay import ReplayWindow


class Reference:
    def __init__(self) -> None:
        self.seen: set[int] = set()

    def accept(self, counter: int) -> bool:
        greatest = max(self.seen, default=-1)
        if counter in self.seen or counter <= greatest - REPLAY_WINDOW:
            return False
        self.seen.add(counter)
        return True


steps = st.one_of(
    st.integers(-3, 3),
    st.integers(-40, 40),
    st.sampled_from([REPLAY_WINDOW + d for d in (-2, -1, 0, 1, 2)]),
    st.sampled_from([-REPLAY_WINDOW + d for d in (-2, -1, 0, 1, 2)]),
    st.integers(-2 * REPLAY_WINDOW, 3 * REPLAY_WINDOW),
)


@given(st.lists(steps, max_size=60))
def test_it_answers_as_the_reference(moves: list[int]) -> None:
    window, reference, counter = ReplayWindow(), Reference(), 0
    for move in moves:
        counter = max(0, counter + move)
        assert window.accept(counter) == reference.accept(counter), counter


def test_every_counter_of_a_window_passes_once_in_reverse() -> None:
    window = ReplayWindow()
    assert window.accept(REPLAY_WINDOW)
    assert not window.accept(0)
    assert all(window.accept(counter) for counter in range(REPLAY_WINDOW - 1, 0, -1))
    assert not any(window.accept(counter) for counter in range(REPLAY_WINDOW + 1))


def test_the_largest_counters() -> None:
    window = ReplayWindow()
    assert window.accept((1 << 64) - 1)
    assert window.accept((1 << 64) - REPLAY_WINDOW)
    assert not window.accept((1 << 64) - 1)
    assert not window.accept(0)
