"""``qtunnel status --watch`` on a real terminal, against a real control server with answers from a can."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.cli.ages import Ages, from_events, line
from qtunnel.cli.watch_view import Scene, draw
from qtunnel.control.client import ControlClient
from qtunnel.control.messages import KeySourceStatus, PlainPeerStatus, ReservoirStatus, Status
from tests.control.support import BLOCKED, NODE, Canned, Serving, peer, serving
from tests.support.terminal import CURSOR_OFF, CURSOR_ON, OTHER_SCREEN, OWN_SCREEN, terminal

WATCH = [sys.executable, "-m", "qtunnel", "status", "--watch", "--interval", "0.2"]
METRO = KeySourceStatus(
    name="metro", description="etsi014:metro", healthy=True, state="well", stored_keys=9_800, max_keys=10_000,
    qber=0.021, qber_limit=0.11, key_rate=4_100.0, lasts=True,
)  # fmt: skip
ATTACKED = METRO.model_copy(
    update={"name": "east", "healthy": False, "state": "in quarantine", "qber": 0.13, "alarm": "QBER of 13.0%"}
)
BOB = peer(reservoir=[ReservoirStatus(source="metro", keys=12, depth=20, held=20)], interval_s=120.0)


def scene(*, ages: dict[str, Ages] | None = None, away: str | None = None, **parts: object) -> Scene:
    report = Status.model_validate({"node": NODE, "peers": [BOB], "key_sources": [METRO]} | parts)
    return Scene(report, 1000.0, "12:04:05", 1.0, away, 988.0, ages or {})


def picture(its: Scene, width: int = 80, height: int = 24) -> list[str]:
    found = [row.plain.rstrip() for row in draw(its, width, height)]
    assert len(found) <= height
    assert max(map(len, found)) <= width
    return found


# The line of ages


def test_an_age_grows_until_the_next_epoch() -> None:
    ages = Ages()
    for now in range(60):
        ages.look(float(now), now % 20 + 0.01 * (now % 3))  # three epochs; answers take their time
    cells = ages.cells(60.0, 60.0, 12)
    assert [round(age) for age in cells if isinstance(age, float)] == [5, 10, 15, 20] * 3
    assert line(cells, 20.0) == "▃▅▇█" * 3
    assert line(cells, 20.0, ascii_only=True) == "-=*#" * 3


def test_no_epoch_and_nothing_known_are_not_an_age_of_zero() -> None:
    ages = Ages()
    ages.look(0.0, None)
    ages.look(20.0, 0.0)
    ages.away(40.0)
    ages.look(50.0, 30.0)
    cells = ages.cells(60.0, 60.0, 6)
    assert cells == ["none", "none", 10.0, 20.0, None, 40.0], "what happened while the daemon was away is not made up"
    assert line(cells, 40.0) == "··▃▅ █"


def test_what_the_daemon_remembers_is_there_from_the_first_look_on() -> None:
    told: list[dict[str, Any]] = [
        {"kind": "epoch.in-force", "peer": "bob", "time": 5040.0, "fields": {}},
        {"kind": "rekey.done", "peer": "bob", "time": 5050.0, "fields": {}},
        {"kind": "epoch.in-force", "peer": "bob", "time": 5080.0, "fields": {}},
        {"kind": "epoch.in-force", "peer": None, "time": "x"},
    ]
    ages = from_events(told, 5000.0)
    ages["bob"].look(100.0, 20.4)
    assert ages.keys() == {"bob"}
    assert [None if age is None else round(float(age)) for age in ages["bob"].cells(100.0, 100.0, 10)] == [
        None, None, None, None, 10, 20, 30, 40, 10, 20,
    ]  # fmt: skip


@given(
    st.lists(st.tuples(st.floats(0, 50), st.one_of(st.none(), st.floats(0, 1000)), st.booleans()), max_size=200),
    st.floats(1, 5000), st.integers(1, 100),
)  # fmt: skip
def test_any_looks_make_a_line(looks: list[tuple[float, float | None, bool]], span: float, count: int) -> None:
    ages, now = Ages(), 0.0
    for step, age, away in looks:
        now += step
        ages.away(now) if away else ages.look(now, age)
    cells = ages.cells(now + 1.0, span, count)
    assert len(cells) == len(line(cells, 10.0)) == count
    if looks and not looks[-1][2] and looks[-1][1] is not None:
        assert cells[-1] is not None


# The picture


def test_all_of_it_in_80_columns() -> None:
    ages = Ages()
    for now in range(700, 1000):
        ages.look(float(now), (now - 700) % 100 + 1.0)
    rows = picture(scene(ages={"bob": ages}, key_sources=[METRO, ATTACKED], plain_peers=[PlainPeerStatus(name="dave")]))
    said = "\n".join(rows)
    for expected in (
        "alice is up: qt0, engine qtunnel (pid 42), for 1 h 2 min",
        "12:04:05",
        "bob        protected: QKD and post-quantum (qkd policy: required)",
        "  epoch 7 ",
        "1 min 5 s of 10 min, next in 55 s",
        "████████████░░░░░░░░  12 of 20 keys of metro agreed ahead",
        "dave       WireGuard only",
        "metro    well           QBER 2.1% of 11.0%  █████████░ 9,800 keys  4.1 kbit/s",
        "east     in quarantine",
        "QBER of 13.0%",
        "every 1 s until Ctrl-C",
        "last 10 min",
    ):
        assert expected in said
    drawn = next(row for row in rows if row.startswith("  epoch 7"))[11:36]
    assert drawn.strip() == "▁▃▅▆▇▃▄▆▇▂▄▆▇", "three epochs of 100 s, in five of ten minutes"


def test_a_daemon_that_is_away_leaves_no_old_state_as_present() -> None:
    ages = Ages()
    ages.look(900.0, 1.0)
    ages.away(988.0)
    said = "\n".join(picture(scene(ages={"bob": ages}, away="no daemon answers at /run/x.sock")))
    assert "alice: the daemon is away, for 12 s; what it protects is not known" in said
    assert "no daemon answers at /run/x.sock" in said
    assert "bob        not known; 12 s ago: QKD and post-quantum" in said
    assert "protected:" not in said
    assert "well" not in said
    assert "of 10 min" not in said


@pytest.mark.parametrize("height", [6, 12, 24, 60])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_more_than_a_screen_shows_first_what_needs_a_look(width: int, height: int) -> None:
    peers = [peer(f"p{number}") for number in range(100)]
    peers[70] = BLOCKED
    sources = [METRO.model_copy(update={"name": f"s{number}"}) for number in range(30)]
    rows = picture(scene(peers=peers, key_sources=sources), width, height)
    if height >= 24:
        assert any(row.startswith("carol") for row in rows)
        assert "none of them unprotected" in "\n".join(rows) or width == 40


def test_what_no_terminal_can_show_is_drawn_in_ascii() -> None:
    ages = Ages()
    ages.look(950.0, 1.0)
    rows = draw(scene(ages={"bob": ages}, peers=[BOB, BLOCKED]), 80, 24, ascii_only=True)
    assert all(row.plain.isascii() for row in rows)


def test_words_of_others_cannot_draw_and_take_one_line() -> None:
    rows = draw(
        scene(peers=[peer("bob", protected=False, last_error="\x1b[2Jno\nkey\t", last_error_age_s=1.0)]), 80, 24
    )
    assert any(row.plain.rstrip() == "  error    1 s ago: ?[2Jno?key?" for row in rows)
    assert all("red" in {str(span.style) for span in row.spans} for row in rows if "error" in row.plain)


# On a terminal


@pytest.mark.parametrize("end", ["\x03", signal.SIGTERM, signal.SIGHUP], ids=["ctrl-c", "term", "hup"])
def test_a_terminal_is_as_it_was_afterwards(server: Serving, end: str | signal.Signals) -> None:
    server.canned.peers, server.canned.key_sources = [BOB], [METRO]
    with terminal(*WATCH, "--socket", str(server.path)) as screen:
        before = screen.modes()
        screen.shows("bob        protected: QKD and post-quantum")
        assert screen.colours("protected") == {"green"}
        server.canned.peers = [BLOCKED]
        screen.shows("carol      NOT protected: blocked")
        assert screen.colours("NOT protected") == {"red"}
        screen.resize(60, 10)
        screen.shows("QBER 2.1% of 11.0%")
        screen.type(end) if isinstance(end, str) else screen.process.send_signal(end)
        assert screen.end() == 1
        assert screen.modes() == before
        raw = screen.raw
    assert raw.count(OTHER_SCREEN) == raw.count(OWN_SCREEN) == 1
    assert raw.rindex(CURSOR_ON) > raw.rindex(CURSOR_OFF)
    assert raw.rindex(OWN_SCREEN) > raw.rindex("QBER")
    assert "Traceback" not in raw


def test_a_daemon_that_goes_is_said_to_be_away_and_comes_back(directory: Path) -> None:
    path = directory / "alice.sock"
    with contextlib.ExitStack() as stack:
        with serving(path):
            screen = stack.enter_context(terminal(*WATCH, "--socket", str(path)))
            screen.shows("bob        protected")
        screen.shows("alice: the daemon is away, for")
        screen.shows("bob        not known")
        assert "protected:" not in screen.text
        canned = Canned()
        canned.peers = [peer(epoch_in_force=9, epoch_installed=9, age_s=0.5)]
        with serving(path, canned):
            screen.shows("bob        protected")
            screen.shows("  epoch 9")
            assert "away" not in screen.text
        screen.shows("away")
        screen.type("\x03")
        assert screen.end() == 3, "nothing is known at the end"


def test_a_shell_has_its_terminal_while_it_is_stopped(server: Serving) -> None:
    """As a person uses it: Ctrl-Z, fg, Ctrl-C, and the shell goes on."""
    environment = os.environ | {"PS1": "ready> "}
    with terminal("bash", "--norc", "--noprofile", "-i", environment=environment, columns=100) as screen:
        screen.shows("ready>")
        screen.type(" ".join([*WATCH, "--socket", str(server.path)]) + "\n")
        screen.shows("bob        protected")
        screen.type("\x1a")
        screen.shows("Stopped")
        assert screen.raw.count(OWN_SCREEN) == 1
        assert screen.raw.rindex(CURSOR_ON) > screen.raw.rindex(CURSOR_OFF)
        screen.type("clear; fg\n")
        screen.shows("bob        protected")
        screen.type("\x03")
        screen.type("echo it ended with $?\n")
        screen.shows("it ended with 0")
        screen.type("exit\n")
        screen.end()
        assert screen.raw.count(OTHER_SCREEN) == screen.raw.count(OWN_SCREEN) == 2


@pytest.mark.parametrize("name", ["NO_COLOR", "TERM"])
def test_a_terminal_that_wants_it_plain_gets_no_control_sequence(server: Serving, name: str) -> None:
    environment = dict(os.environ) | {name: {"NO_COLOR": "1", "TERM": "dumb"}[name]}
    with terminal(*WATCH, "--socket", str(server.path), environment=environment, lines=60) as screen:
        screen.shows("peer bob: protected")
        screen.type("\x03")
        assert screen.end() == 0
        assert "\x1b" not in screen.raw


def test_into_a_pipe_the_daemon_that_is_away_is_told_once(directory: Path) -> None:
    path = directory / "alice.sock"
    with contextlib.ExitStack() as stack:
        with serving(path):
            command = [*WATCH, "--socket", str(path)]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)  # where something fails: by itself it would go on
            assert process.stdout is not None
            while "transfer" not in process.stdout.readline():
                pass
        while "alice: the daemon is away" not in process.stdout.readline():
            pass
        time.sleep(1.0)  # five looks
        with serving(path):
            said = ""
            while "transfer" not in said:
                said += process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        assert "away" not in said


def test_a_peer_that_a_reload_takes_out_ends_it(server: Serving) -> None:
    with terminal(*WATCH, "bob", "--socket", str(server.path)) as screen:
        screen.shows("bob        protected")
        server.canned.peers = [peer("carol")]
        assert screen.end() == 2
        assert "qtunnel: no peer 'bob'; there are: carol" in screen.raw
        assert screen.raw.rindex(OWN_SCREEN) < screen.raw.rindex("no peer 'bob'")


def test_an_interval_is_for_watching_and_within_bounds(server: Serving) -> None:
    for arguments in (["--interval", "1"], ["--watch", "--interval", "0"], ["--watch", "--interval", "nan"]):
        command = [sys.executable, "-m", "qtunnel", "status", "--socket", str(server.path), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr


def test_the_past_of_a_daemon_ends_by_itself(server: Serving) -> None:
    server.call(lambda: [server.canned.events.publish("epoch.in-force", "bob", epoch=n) for n in range(300)])
    server.call(lambda: server.canned.events.publish("epoch.in-force", "carol", epoch=1))
    told = ControlClient(server.path).past()
    assert len(told) == 256
    assert told[-1]["peer"] == "carol"
    assert [event["peer"] for event in ControlClient(server.path).past("carol")] == ["carol"]
    assert json.dumps(told)
