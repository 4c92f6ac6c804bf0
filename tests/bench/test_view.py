"""Medians, ratios, and what people get to see."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from qtunnel.bench import flood
from qtunnel.bench.measure import METRICS
from qtunnel.bench.options import FloodOptions, LinkOptions, RekeyOptions, TunnelOptions
from qtunnel.bench.rekey import Outcome, Stretch
from qtunnel.bench.tools import Counted
from qtunnel.bench.tunnel import Line, Race
from qtunnel.bench.view import flood_table, race_table, rekey_table

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def shown(table: Table) -> str:
    console = Console(width=80, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def race() -> Race:
    lines = [Line(metric, [3.0, 100.0, 1.0], [2.0, 4.0, 0.0]) for metric in METRICS]
    return Race(
        TunnelOptions(mode="record", link=LinkOptions(loss=1)),
        BEGAN,
        "/usr/bin/wireguard-go",
        lines,
        ["active", "probing"],
    )


def test_a_line_has_medians_and_ours_over_the_rivals() -> None:
    line = Line(METRICS[0], [3.0, 100.0, 1.0], [2.0, 4.0, 0.0])
    assert line.medians == (3.0, 2.0)
    assert line.ratio == 1.5
    assert line.as_dict()["ours_rounds"] == [3.0, 100.0, 1.0]
    assert Line(METRICS[0], [1.0], [0.0]).ratio is None


def test_what_is_no_merit_has_no_ratio() -> None:
    offered = next(metric for metric in METRICS if metric.key == "udp64_offered_pps")
    assert Line(offered, [3.0], [2.0]).ratio is None


def test_the_table_fits_80_columns_and_says_what_ran() -> None:
    text = shown(race_table(race()))
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "record mode, chacha20-poly1305, link cuts to datagrams, 1 % loss" in text
    assert text.count("record mode ended as probing") == 1
    assert text.count("1.50") == sum(metric.higher is not None for metric in METRICS)


def test_json_names_every_metric() -> None:
    told = json.loads(json.dumps(race().as_dict()))
    assert list(told["measured"]) == [metric.key for metric in METRICS]
    assert (told["link"], told["loss_percent"], told["began"]) == ("datagrams", 1, "2026-01-02T03:04:05+00:00")


def test_rekeys_with_and_without() -> None:
    during = Stretch(10.0, Counted(sent=1000, received=997, in_time=990, duplicates=0), queue_drops=2)
    without = Stretch(5.0, Counted(sent=500, received=500, in_time=500, duplicates=0), queue_drops=0)
    outcome = Outcome(RekeyOptions(), BEGAN, 200.0, 100.0, without, during, in_force=60)
    told = outcome.as_dict()
    assert (told["lost"], told["lost_in_queue"], told["without_rekeys"]["lost"]) == (3, 2, 0)
    text = shown(rekey_table(outcome))
    assert "60 rekeys, one each 1 s; 60 in force" in text
    assert "1,000" in text


def test_floods_and_the_same_without() -> None:
    stretches = [
        flood.Stretch(kind, rate, 1.25, [0.05, 0.1, 0.15], failed, (1000, 998), (3, 3), 12.3, 70_000_000)
        for kind, rate, failed in (("none", 0.0, []), ("garbage", 50_000.0, ["no answer"]))
    ]
    outcome = flood.Outcome(FloodOptions(), BEGAN, 2.5, stretches, 80_000_000)
    told = json.loads(json.dumps(outcome.as_dict()))
    assert [stretch["flood"] for stretch in told["stretches"]] == ["none", "garbage"]
    assert (told["stretches"][1]["rekey_p50_ms"], told["stretches"][1]["rekey_max_ms"]) == (100, 150)
    text = shown(flood_table(outcome))
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "50,000" in text
    assert "3 of 4" in text
