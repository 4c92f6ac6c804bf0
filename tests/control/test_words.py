"""What the status says of the schedule, in words."""

from __future__ import annotations

from qtunnel.cli.status_view import peer_rows
from qtunnel.control.words import interval, volume
from tests.control.support import peer

WHY = "metro has 3 of 100 keys left"


def test_the_usual_interval_is_not_worth_a_word() -> None:
    usual = peer(interval_s=120.0, interval_usual_s=120.0)
    assert (interval(usual), volume(usual)) == ("", "")
    assert {"interval", "volume", "key supply"}.isdisjoint(name for name, _ in peer_rows(usual))


def test_a_moved_interval_is_shown_with_its_reason_and_what_there_is() -> None:
    moved = peer(interval_s=300.0, interval_usual_s=120.0, interval_reason=WHY, supply=[WHY])
    rows = dict(peer_rows(moved))
    assert rows["interval"] == f"5 min, longer than the usual 2 min: {WHY}"
    assert rows["key supply"] == WHY
    shorter = peer(interval_s=60.0, interval_usual_s=120.0, interval_reason="metro has 99 of 100 keys left")
    assert interval(shorter) == "1 min, shorter than the usual 2 min: metro has 99 of 100 keys left"


def test_volume_is_shown_where_it_counts() -> None:
    assert volume(peer(epoch_bytes=1_200_000_000, max_bytes=10**10)) == "1.2 GB of 10.0 GB since the last rekey"
    both = peer(epoch_bytes=5, max_bytes=10**6, epoch_packets=1500, max_packets=50_000_000)
    assert volume(both) == "5 B of 1.0 MB and 1,500 of 50,000,000 packets since the last rekey"
    assert volume(peer(max_packets=10)) == "an unknown number of 10 packets since the last rekey"


def test_the_policy_of_the_other_end_is_shown() -> None:
    assert dict(peer_rows(peer(peer_policy="required, at least 2 sources")))["peer's policy"] == (
        "required, at least 2 sources"
    )
