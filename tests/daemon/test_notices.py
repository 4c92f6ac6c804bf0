"""What a notice of the core means for the status of a peer, and what others can make it say."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

from qtunnel.daemon import notices as module
from qtunnel.daemon.notices import Notices
from qtunnel.daemon.rejections import PAUSE
from qtunnel.daemon.view import PROVEN_KEPT, Tally
from qtunnel.rekey.model import Notice

OWN = Notice("bob", "rekey.failed", {"role": "initiator", "reason": "policy", "detail": "no QKD key"})
FORGED = Notice("", "message.rejected", {"reason": "mac1", "detail": "x", "address": "192.0.2.1:51821"})


class Told:
    """Notices with bob expected at 192.0.2.1, and an engine that has the epoch ``in_place``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.in_place: int | None = None
        self.events: list[tuple[str, dict[str, object]]] = []
        self.tallies: dict[str, Tally] = defaultdict(Tally)
        tunnel: Any = SimpleNamespace(epoch_in_place=lambda peer: self.in_place)
        self.asked: list[str] = []
        endpoints: Any = SimpleNamespace(
            peer_at={"192.0.2.1:51821": "bob"}.get,
            doubt=lambda peer: self.asked.append(f"doubt {peer}"),
            in_vain=lambda peer: self.asked.append(f"in vain {peer}"),
        )
        monkeypatch.setattr(module, "monotonic", lambda: self.now)
        self.notices = Notices(self.tallies, tunnel, endpoints, self._publish)

    def _publish(self, kind: str, peer: str | None = None, **fields: object) -> None:
        self.events.append((kind, fields))

    @property
    def last_error(self) -> str:
        return self.tallies["bob"].last_error or ""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


def test_what_anybody_can_send_does_not_hide_an_error_of_the_peers_own(told: Told) -> None:
    told.notices.tell(OWN)
    told.now += PROVEN_KEPT - 1
    assert told.notices.admit(FORGED) is not None
    assert told.last_error == "no QKD key"
    told.now += PAUSE
    assert told.notices.admit(FORGED) is not None
    assert "made for another identity" in told.last_error


def test_an_address_is_in_doubt_when_nobody_answers_and_was_in_vain_when_the_attempt_is_over(told: Told) -> None:
    told.notices.tell(Notice("bob", "rekey.unanswered", {"detail": "no answer yet, after 8 s"}))
    told.notices.tell(Notice("bob", "rekey.failed", {"role": "initiator", "reason": "no-answer", "detail": "x"}))
    told.notices.tell(Notice("bob", "rekey.failed", {"role": "initiator", "reason": "unconfirmed", "detail": "x"}))
    assert told.asked == ["doubt bob", "in vain bob"]


def test_silence_does_not_hide_why_a_peer_is_silent(told: Told) -> None:
    told.notices.tell(Notice("bob", "rekey.unanswered", {"detail": "no answer yet, after 8 s"}))
    assert told.last_error == "no answer yet, after 8 s"
    assert told.notices.admit(FORGED) is not None
    assert "made for another identity" in told.last_error


def test_only_what_is_told_is_blamed_on_a_peer(told: Told) -> None:
    assert told.notices.admit(FORGED) is not None
    first = told.tallies["bob"].last_error_at
    told.now += PAUSE / 2
    assert told.notices.admit(FORGED) is None
    assert told.tallies["bob"].last_error_at == first


def test_an_error_of_the_peers_own_replaces_what_was_blamed_on_it(told: Told) -> None:
    told.notices.admit(FORGED)
    told.notices.tell(OWN)
    assert told.last_error == "no QKD key"


def test_an_offer_that_is_much_too_old_is_the_peers_last_error(told: Told) -> None:
    old = Notice("bob", "message.rejected", {"reason": "clock", "detail": "see to the clocks"})
    assert told.notices.admit(old) is not None
    assert told.last_error == "refused: see to the clocks"
    told.notices.tell(OWN)
    told.now += PAUSE
    assert told.notices.admit(old) is not None
    assert told.last_error == "no QKD key", "anybody may send an old one again"


def test_a_refused_offer_is_not_blamed_twice(told: Told) -> None:
    refused = Notice("bob", "rekey.failed", {"role": "responder", "reason": "suite", "detail": "another suite"})
    admitted = told.notices.admit(refused)
    assert admitted is not None
    assert told.last_error == ""
    told.notices.tell(admitted)
    assert told.last_error == "another suite"


@pytest.mark.parametrize(
    ("in_place", "kind"), [(None, "rekey.failed"), (4, "rekey.failed"), (5, "rekey.done"), (6, "rekey.done")]
)
def test_an_epoch_is_done_where_the_engine_has_it_or_one_after_it(told: Told, in_place: int | None, kind: str) -> None:
    told.in_place = in_place
    told.notices.tell(Notice("bob", "rekey.done", {"role": "responder", "epoch": 5}))
    assert [kind for kind, _ in told.events] == [kind]
    assert (told.tallies["bob"].done, told.tallies["bob"].failed) == ((1, 0) if kind == "rekey.done" else (0, 1))
