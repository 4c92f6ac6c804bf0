"""Short real runs of the benchmarks: namespaces, both engines, load."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qtunnel.bench.measure import METRICS
from tests.bench.support import Ended, bench

pytestmark = pytest.mark.root


def report(ended: Ended) -> dict[str, Any]:
    """Standard output with ``--json``: one object, nothing else."""
    assert ended.code == 0, ended.told
    lines = ended.output.splitlines()
    assert len(lines) == 1, ended.output
    document: dict[str, Any] = json.loads(lines[0])
    return document


def test_a_race_measures_every_kind_for_both() -> None:
    told = report(bench("tunnel", "--rounds", "1", "--seconds", "1", "--only", "tcp1,udp,rtt,send,memory", "--json"))
    assert (told["bench"], told["mode"], told["link"], told["rounds"]) == ("tunnel", "standard", "gso", 1)
    assert told["rival"].endswith("/wireguard-go")
    measured = told["measured"]
    assert list(measured) == [metric.key for metric in METRICS if not metric.key.startswith("tcp4")]
    for key, line in measured.items():
        for side in ("ours", "rival"):
            assert line[f"{side}_rounds"] == [line[side]]
            assert line[side] > 0 or key.endswith("loss_percent"), (key, line)
        if line["higher_is_better"] is None:
            assert line["ratio"] is None
        else:
            assert line["ratio"] == pytest.approx(line["ours"] / line["rival"], rel=0.01)
    for side in ("ours", "rival"):
        assert measured["rtt_idle_p50_ms"][side] <= measured["rtt_idle_p99_ms"][side]
        for size in (64, 512, 1372):
            assert 0 <= measured[f"udp{size}_loss_percent"][side] < 100
            assert measured[f"udp{size}_pps"][side] <= measured[f"udp{size}_offered_pps"][side]


def test_record_mode_against_standard_mode_on_a_lossy_link() -> None:
    """Two rounds: which of the two begins must not decide whose name is told."""
    told = report(
        bench(
            *("tunnel", "--mode", "record", "--against", "standard", "--loss", "1", "--delay", "2"),
            *("--congestion", "reno", "--rounds", "2", "--seconds", "1", "--only", "tcp1", "--json"),
        )
    )
    assert (told["rival"], told["link"], told["congestion"]) == ("standard", "datagrams", "reno")
    assert len(told["record_states"]) == 2
    assert told["measured"]["tcp1_forth_gbps"]["rival"] > 0


def test_rekeys_are_made_and_packets_counted() -> None:
    told = report(bench("rekey", "--rekeys", "4", "--interval", "0.25", "--rate", "500", "--json"))
    assert (told["bench"], told["rekeys"], told["in_force"], told["offered_pps"]) == ("rekey", 4, 4, 500)
    assert told["sent"] > 0
    assert (told["received"], told["lost"], told["duplicates"]) == (told["sent"], 0, 0)
    assert told["without_rekeys"]["sent"] == told["without_rekeys"]["received"]


def test_a_hub_comes_up_and_every_rekey_of_the_round_takes_one_key() -> None:
    told = report(bench("hub", "--peers", "50", "--round", "5", "--idle", "1", "--json"))
    assert (told["bench"], told["peers"], told["qkd"]) == ("hub", 50, True)
    assert (told["start"]["rekeys"], told["start"]["failed"]) == (50, {})
    assert (told["round"]["rekeys"], told["round"]["failed"]) == (50, {})
    assert told["key_calls_of_hub"] == 100, "one for each rekey"
    for figures in (told["round"]["cpu_percent"], told["memory_mb"], told["peak_memory_mb"]):
        assert list(figures) == ["daemon", "engine", "kme"]
    assert all(told["memory_mb"][name] <= peak for name, peak in told["peak_memory_mb"].items())
    assert 0 < told["ready_s"] <= told["up_s"]


def test_a_hub_without_qkd_asks_no_kme() -> None:
    told = report(bench("hub", "--peers", "10", "--round", "2", "--idle", "1", "--no-qkd", "--json"))
    assert (told["qkd"], told["round"]["rekeys"], told["key_calls_of_hub"]) == (False, 10, 0)
    assert list(told["memory_mb"]) == ["daemon", "engine"]


def test_ctrl_c_ends_a_hub_and_leaves_nothing() -> None:
    ended = bench("hub", "--peers", "10", "--round", "60", "--idle", "1", "--json", interrupt_at="all peers begin")
    assert (ended.code, ended.output) == (130, "")
    assert ended.told.endswith("qtunnel: interrupted\n")


def test_ctrl_c_ends_a_race_and_leaves_nothing() -> None:
    ended = bench("tunnel", "--only", "tcp1", "--seconds", "1", "--json", interrupt_at="one flow, forth")
    assert (ended.code, ended.output) == (130, "")
    assert ended.told.endswith("qtunnel: interrupted\n")


def test_a_rival_that_does_not_start_is_one_clear_line() -> None:
    ended = bench("tunnel", "--against", "false", "--rounds", "1", "--seconds", "1", "--only", "memory", "--json")
    assert (ended.code, ended.output) == (1, "")
    assert ended.told.splitlines()[-1] == "qtunnel: round 1, rival: false at alice ended with exit code 1"
