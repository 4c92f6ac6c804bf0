"""Rejected datagrams are counted, and told at a bounded rate."""

from __future__ import annotations

from qtunnel.daemon.rejections import KIND, KINDS_KEPT, PAUSE, Rejections, blame, is_limited
from qtunnel.rekey.model import Notice


def notice(reason: str, peer: str = "") -> Notice:
    return Notice(peer, KIND, {"reason": reason, "detail": "x"})


def test_the_first_is_told_and_then_one_in_a_pause_with_the_number_held_back() -> None:
    rejections = Rejections()
    told = [rejections.admit(notice("mac1"), number / 100) for number in range(1000)]
    assert told[0] == notice("mac1")
    assert told[1:] == [None] * 999
    later = rejections.admit(notice("mac1"), PAUSE)
    assert later is not None
    assert later.fields["more"] == 999
    quiet = rejections.admit(notice("mac1"), 3 * PAUSE)
    assert quiet == notice("mac1")
    assert rejections.by_reason == {"mac1": 1002}


def test_reasons_and_peers_are_apart_and_bounded() -> None:
    rejections = Rejections()
    assert rejections.admit(notice("mac1"), 0.0)
    assert rejections.admit(notice("replay"), 0.0)
    assert rejections.admit(notice("replay", "bob"), 0.0)
    for number in range(3 * KINDS_KEPT):
        rejections.admit(notice("replay", str(number)), 0.0)
    assert len(rejections._said) <= KINDS_KEPT


def refusal(role: str, reason: str = "stale-epoch") -> Notice:
    return Notice("bob", "rekey.failed", {"role": role, "reason": reason, "detail": "x"})


def test_refused_offers_are_limited_and_our_own_failures_are_not() -> None:
    assert is_limited(notice("mac1"))
    assert is_limited(refusal("responder"))
    assert not is_limited(refusal("initiator"))
    assert not is_limited(Notice("bob", "rekey.done", {"role": "responder"}))
    rejections = Rejections()
    assert rejections.admit(notice("stale-epoch", "bob"), 0.0)
    told = [rejections.admit(refusal("responder"), number / 100) for number in range(800)]
    assert told == [refusal("responder")] + [None] * 799
    assert rejections.admit(refusal("responder", "suite"), 8.0)


def test_what_comes_from_one_peers_address_does_not_hide_what_comes_from_anothers() -> None:
    rejections = Rejections()
    for name in ("bob", "carol"):
        placed = Notice("", KIND, {"reason": "unknown-peer", "detail": "x", "from": name})
        assert rejections.admit(placed, 0.0)
        assert rejections.admit(placed, 0.0) is None


def test_only_what_speaks_of_a_wrong_configuration_is_blamed_on_a_peer() -> None:
    assert "is the public file here the peer's?" in (blame(notice("unknown-peer")) or "")
    assert "does the peer have this gateway's public file?" in (blame(notice("mac1")) or "")
    assert {reason: blame(notice(reason)) for reason in ("exchange", "malformed", "replay", "flood")} == {
        "exchange": None, "malformed": None, "replay": None, "flood": None,
    }  # fmt: skip
