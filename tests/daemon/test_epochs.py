"""An epoch that an engine may still name is still described."""

from __future__ import annotations

from dataclasses import replace

from qtunnel.daemon.epochs import KEPT, Epochs
from tests.daemon.test_view import NEW, OLD, view


def test_what_the_core_forgets_is_kept_for_a_while_and_not_for_ever() -> None:
    epochs = Epochs()
    assert set(epochs.complete(view(), 0.0).epochs) == {1, 2, 3}
    forgot = replace(view(), epochs={2: NEW})
    later = epochs.complete(forgot, KEPT)
    assert later.epochs[1] is OLD
    assert set(epochs.complete(forgot, KEPT + 1).epochs) == {2}
    assert set(epochs.complete(replace(forgot, name="carol"), KEPT + 1).epochs) == {2}
