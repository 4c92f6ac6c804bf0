"""From looks at the gateways to the verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qtunnel.control.messages import PeerStatus
from qtunnel.demo.observe import Observer
from qtunnel.demo.options import DemoOptions
from qtunnel.demo.verdict import MAX_ERRORS, Measured, Summary, judge

SOURCES = ["x25519", "ml-kem-1024", "etsi014:metro"]
BEGAN = 1000.0
OUTAGE = DemoOptions(seconds=45, kme_outage=True)


def peer(epoch: int, protection: str = "qkd+pqc", error: tuple[str, float] | None = None) -> PeerStatus:
    return PeerStatus.model_validate(
        {
            "name": "peer", "protected": True, "protection": protection, "policy": "required", "epoch_installed": epoch,
            "epoch_in_force": epoch, "sources": SOURCES if protection == "qkd+pqc" else SOURCES[:2],
            "last_error": error[0] if error else None, "last_error_age_s": error[1] if error else None,
        }
    )  # fmt: skip


def observed(seconds: float, lowered: dict[float, str] | None = None, interval: float = 2.0) -> Observer:
    """Looks five times a second; ``lowered``: protection from a time on, for both ends."""
    observer = Observer(BEGAN, ("alice", "bob"))
    protection, epoch = "qkd+pqc", 1
    for step in range(int(seconds * 5) + 1):
        now = step / 5
        for when, level in (lowered or {}).items():
            if when <= now:
                protection = level
        if protection != "blocked":
            epoch = 1 + int(now / interval)
        error = None if protection == "qkd+pqc" else ("no key", 0.0)
        look = peer(epoch, protection, error)
        observer.see(BEGAN + now, {"alice": (look, None), "bob": (look, None)})
    return observer


def good(seconds: float = 30.0) -> Measured:
    return Measured(BEGAN, BEGAN + seconds, pings_sent=3000, gbps=0.51234)


def outage(first: float = 20.2, last: float = 30.4, *, silence: tuple[float, float] | None = None) -> Measured:
    """What a run with policy ``required`` brings: silence while blocked."""
    begin, end = silence or (first - 0.2, last + 0.2)
    return Measured(
        BEGAN, BEGAN + 45, pings_sent=4500, pings_lost=1000, gbps=0.5, outage=(BEGAN + 15, BEGAN + 30.3),
        outage_kme="kme-b", gaps=[(BEGAN + begin, BEGAN + last - 1, 1000)], silences=[(BEGAN + begin, BEGAN + end)],
    )  # fmt: skip


def blocked_run() -> Observer:
    return observed(45, {15.0: "qkd+pqc", 20.2: "blocked", 30.6: "qkd+pqc"})


def test_a_good_run() -> None:
    assert judge(DemoOptions(), observed(30), good()) == Summary(
        ok=True, seconds=30.0, rekeys=15, pings_sent=3000, pings_lost=0, throughput_gbps=0.512,
        protection="qkd+pqc", sources=SOURCES, errors=[],
    )  # fmt: skip


def test_a_lost_ping_is_told_with_its_time() -> None:
    summary = judge(DemoOptions(), observed(30), replace(good(), pings_lost=1, gaps=[(BEGAN + 4.51, BEGAN + 4.51, 1)]))
    assert not summary.ok
    assert summary.pings_lost == 1
    assert summary.errors == ["1 ping lost from 4.5 s to 4.5 s"]


@pytest.mark.parametrize("level", ["pqc-only", "blocked", "expired", "starting"])
def test_lower_protection_without_an_outage_is_never_fine(level: str) -> None:
    summary = judge(DemoOptions(policy="preferred"), observed(30, {10.0: level, 10.4: "qkd+pqc"}), good())
    assert not summary.ok
    assert f"alice: protection {level} from 10.0 s to 10.2 s" in summary.errors
    assert "alice: no key" in summary.errors


def test_too_few_rekeys_and_no_throughput() -> None:
    summary = judge(DemoOptions(), observed(30, interval=4.0), replace(good(), gbps=None))
    assert (summary.ok, summary.rekeys, summary.throughput_gbps) == (False, 7, None)
    assert summary.errors == ["7 rekeys, expected 12 or more", "no throughput was measured"]


def test_an_epoch_counts_once_it_is_in_force_at_both_ends() -> None:
    observer = Observer(BEGAN, ("alice", "bob"))
    for number, (alice, bob) in enumerate([(5, 4), (5, 5), (6, 5), (7, 6), (7, 7), (8, 7)]):
        observer.see(BEGAN + number, {"alice": (peer(alice), None), "bob": (peer(bob), None)})
    assert observer.rekeys == 2  # 6 and 7; 5 was there at the first look, 8 is at one end only


def test_what_went_wrong_before_the_run_is_not_told() -> None:
    observer = Observer(BEGAN, ("alice", "bob"))
    looks = {"alice": (peer(1, error=("no answer", 3.0)), None), "bob": (peer(1, error=("refused", 0.5)), None)}
    observer.see(BEGAN + 1, looks)
    observer.see(BEGAN + 2, looks)
    assert observer.sides["alice"].errors == []
    assert observer.sides["bob"].errors == [(BEGAN + 0.5, "refused")]


def test_a_gateway_that_does_not_answer_is_not_protected() -> None:
    observer = observed(30)
    observer.see(BEGAN + 30, {"alice": (None, "no daemon"), "bob": (peer(16), None)})
    summary = judge(DemoOptions(), observer, good())
    assert not summary.ok
    assert summary.protection == "unknown"
    assert "alice: no status: no daemon" in summary.errors


def test_a_run_that_was_cut_short_says_only_why() -> None:
    summary = judge(DemoOptions(), Observer(BEGAN, ("alice", "bob")), Measured(BEGAN, BEGAN, failures=["interrupted"]))
    assert (summary.ok, summary.errors, summary.protection, summary.sources) == (False, ["interrupted"], "unknown", [])


def test_many_errors_are_cut() -> None:
    gaps = [(BEGAN + n, BEGAN + n, 1) for n in range(MAX_ERRORS + 5)]
    summary = judge(DemoOptions(), observed(30), replace(good(), gaps=gaps))
    assert summary.errors[-1] == "and 5 more"


def test_an_outage_where_qkd_is_required() -> None:
    summary = judge(OUTAGE, blocked_run(), outage())
    assert summary.ok, summary.errors
    assert summary.errors[0] == "kme-b was stopped from 15.0 s to 30.3 s"
    assert "alice: protection blocked from 20.2 s to 30.4 s" in summary.errors
    assert summary.errors[-1] == "1000 pings lost while blocked, as qkd: required asks"


def test_an_outage_without_a_block_is_a_failure() -> None:
    measured = replace(outage(), gaps=[], silences=[], pings_lost=0)
    summary = judge(OUTAGE, observed(45), measured)
    assert not summary.ok
    assert "traffic was not blocked although the key got older than 6 s" in summary.errors
    assert "no gateway told of the KME's outage" in summary.errors


def test_a_block_that_comes_late_is_a_failure() -> None:
    summary = judge(OUTAGE, observed(45, {25.0: "blocked", 30.6: "qkd+pqc"}), outage(25.0))
    assert not summary.ok
    assert "blocked at 25.0 s, due by 22.5 s" in summary.errors


@pytest.mark.parametrize("silence", [(25.0, 30.6), (20.0, 26.0)])
def test_an_answer_while_blocked_is_a_failure(silence: tuple[float, float]) -> None:
    summary = judge(OUTAGE, blocked_run(), outage(silence=silence))
    assert not summary.ok
    assert "pings went through while blocked from 20.2 s to 30.4 s" in summary.errors


def test_pings_lost_outside_of_the_blocked_time_are_a_failure() -> None:
    measured = outage()
    gaps = [*measured.gaps, (BEGAN + 40, BEGAN + 40.1, 10)]
    summary = judge(OUTAGE, blocked_run(), replace(measured, gaps=gaps))
    assert not summary.ok
    assert "10 pings lost from 40.0 s to 40.1 s" in summary.errors


def test_protection_that_does_not_come_back_is_a_failure() -> None:
    summary = judge(OUTAGE, observed(45, {20.2: "blocked"}), outage(last=45))
    assert not summary.ok
    assert "bob: protection is blocked at the end instead of qkd+pqc" in summary.errors


def test_required_never_goes_on_with_pqc_alone() -> None:
    summary = judge(OUTAGE, observed(45, {17.0: "pqc-only", 30.6: "qkd+pqc"}), replace(outage(), gaps=[], silences=[]))
    assert not summary.ok


def test_an_outage_where_qkd_is_preferred() -> None:
    options = replace(OUTAGE, policy="preferred")
    measured = replace(outage(), pings_lost=0, gaps=[], silences=[])
    summary = judge(options, observed(45, {17.0: "pqc-only", 31.6: "qkd+pqc"}), measured)
    assert summary.ok, summary.errors
    assert "bob: protection pqc-only from 17.0 s to 31.4 s" in summary.errors
    lossy = judge(options, observed(45, {17.0: "pqc-only", 31.6: "qkd+pqc"}), replace(measured, gaps=[(1020, 1020, 1)]))
    assert not lossy.ok
    silent = judge(options, observed(45), measured)
    assert "alice: never showed that it went on without QKD" in silent.errors
