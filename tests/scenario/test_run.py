"""Real runs: a QKD network with KMEs over mutual TLS, daemons, tunnels, pings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.demo.support import Demo, traces


def result(demo: Demo) -> tuple[int, dict[str, Any]]:
    code, output, said = demo.finish()
    lines = output.splitlines()
    assert len(lines) == 1, (output, said)
    told: dict[str, Any] = json.loads(lines[0])
    return code, told


@pytest.mark.root
def test_scenarios_at_once_are_ok_an_attack_is_alarmed_an_interruption_told_and_nothing_is_left() -> None:
    before = traces()
    london = Demo("--scenario", "bt-london", "--json")
    geneva = Demo("--scenario", "geneva", "--attack", "unige-cern", "--json")
    stopped, broken = (Demo("--scenario", "geneva", "--json") for _ in range(2))
    try:
        stopped.wait_for("traffic begins")
        stopped.process.send_signal(signal.SIGINT)
        broken.wait_for("traffic begins")
        os.kill(broken.program("cern"), signal.SIGKILL)
        ended = [result(stopped), result(broken)]
        outcomes = [result(london), result(geneva)]
    finally:
        for one in (london, geneva, stopped, broken):
            one.close()
    for (code, told), words in zip(ended, ("interrupted", "cern was ended by SIGKILL; its last words"), strict=True):
        assert (told["ok"], told["assertions"], code) == (False, [], 1), told
        assert told["errors"][0].startswith(words)
    for code, told in outcomes:
        assert (told["ok"], told["errors"], code) == (True, [], 0), told
        assert all(one["ok"] for one in told["assertions"])
        assert told["keys"]["made"] > told["keys"]["used"] > 0
        (tunnel,) = told["tunnels"]
        assert tunnel["pings_sent"] > 200
        assert (tunnel["pings_lost"], tunnel["outages"], tunnel["protection"]) == (0, [], "qkd+pqc")
        assert tunnel["keys_used"] > tunnel["rekeys"] > 5
    assert outcomes[0][1]["keys"]["relayed"] > 0
    assert outcomes[0][1]["keys"]["alarms"] == 1
    last = outcomes[1][1]["assertions"][-1]
    assert last["says"].startswith("An intercept-resend attack on unige-cern is alarmed before 100 further keys")
    assert traces() == before


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qtunnel", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_list_has_a_line_each() -> None:
    done = demo("--list")
    assert done.returncode == 0
    assert "darpa " in done.stdout
    assert "ten nodes" in done.stdout
    assert {one["scenario"] for one in json.loads(demo("--list", "--json").stdout)} >= {"geneva", "micius"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--attack", "x"], "--attack LINK goes with --scenario NAME"),
        (["--scenario", "geneva", "--seconds", "9"], "--seconds does not go with --scenario, which says it itself"),
    ],
)
def test_options_that_do_not_go_together_are_told(arguments: list[str], words: str) -> None:
    done = demo(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
