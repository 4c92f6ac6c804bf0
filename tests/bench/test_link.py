"""The link does to packets what it is asked to."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from qtunnel.bench import stream
from qtunnel.sandbox import pinger

pytestmark = pytest.mark.root

PACKETS = 10_000
CHILD = """
import json, subprocess, sys
from qtunnel.bench.link import ADDRESS, Link
from qtunnel.bench.options import LinkOptions
from qtunnel.sandbox import namespaces

def inside():
    commands = json.loads(sys.argv[1])
    link = Link(LinkOptions(*json.loads(sys.argv[2])))
    print("ready", flush=True)
    processes = []
    for end, command in commands:
        with link.networks[end].entered():
            processes.append(subprocess.Popen([word.format(**ADDRESS) for word in command]))
    return max(process.wait(20) for process in processes)

namespaces.enter("the test")
sys.exit(namespaces.run_as_init(inside, "the test"))
"""


@contextmanager
def across(link: tuple[Any, ...], *commands: tuple[str, list[str]]) -> Iterator[list[dict[str, Any]]]:
    """What programs at the ends of such a link report, a JSON object for each line."""
    arguments = [sys.executable, "-c", CHILD, json.dumps(commands), json.dumps(link)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    yield [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def counted(*link: Any) -> tuple[int, int]:
    """Packets sent, and lost, of a paced numbered stream."""
    start = time.monotonic() + 2  # a link with all it can have takes half a second to make
    window = ["5300", "200", str(start), str(start + 1), str(PACKETS)]
    python = [sys.executable, "-I", "-S", str(stream.__file__)]
    receive = ("bob", [*python, "receive", "{bob}", *window])
    send = ("alice", [*python, "send", "{bob}", *window])
    with across(link, receive, send) as reports:
        told = {key: value for report in reports for key, value in report.items()}
    assert told["duplicates"] == 0
    return told["sent"], told["sent"] - told["received"]


def test_loss_is_a_share_of_single_datagrams_even_where_they_are_delayed() -> None:
    sent, lost = counted("gso", 10.0, 10.0)
    assert sent > PACKETS / 2
    # six standard deviations of a binomial distribution; dropping twice would be 19 percent
    assert abs(lost - sent / 10) < 6 * (sent * 0.1 * 0.9) ** 0.5


def test_delay_is_added_to_every_round_trip() -> None:
    command = f"{sys.executable} -I -S {pinger.__file__} {{bob}} 0.01 < <(sleep 1)"
    with across(("datagrams", 0.0, 30.0), ("alice", ["bash", "-c", command])) as reports:
        last = reports[-1]
    assert last["answered"] == last["sent"] > 10
    assert 30 <= last["shortest_ms"] < 60  # the shortest of a hundred; all of it each way would be 60
