"""What an engine says becomes records: one for a traceback, each at its level."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Iterator

import pytest

from qtunnel.engines.process import ChildProcess
from qtunnel.engines.voice import MAX_LINES, Paragraphs, log_to
from qtunnel.telemetry import log

DEEP = "def f(n):\n    if n: f(n - 1)\n    raise ValueError('broken')\nprint('before', flush=True)\nf(3)\n"
CAUGHT = (
    "import traceback\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    traceback.print_exc()\n"
    "print('time=T level=WARNING interface=qt0 msg=late')\nprint('time=T level=INFO msg=fine')\n"
)
GROUP = "raise ExceptionGroup('two', [ValueError('a'), OSError('b')])"


@pytest.fixture
def records() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    log.configure("json", "debug", stream, environ={})
    yield stream
    log.configure("text", "info", sys.stderr, environ={})


def says(stream: io.StringIO, code: str) -> list[dict[str, str]]:
    """The log records of a Python program that runs this code as an engine does."""

    async def main() -> None:
        child = ChildProcess([sys.executable, "-u", "-c", code], {}, log_to(log.get("engine"), interface="qt0"))
        await child.start()
        await child.wait()
        await child.stop()

    asyncio.run(main())
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [record for record in found if record["event"] == "engine.says"]


def test_a_traceback_is_one_record_and_names_the_error(records: io.StringIO) -> None:
    before, crash = says(records, DEEP)
    assert (before["line"], before["level"], before["interface"]) == ("before", "info", "qt0")
    assert (crash["line"], crash["level"]) == ("ValueError: broken", "error")
    assert crash["traceback"].startswith("Traceback (most recent call last):\n  File ")
    assert crash["traceback"].count("in f") == 4


def test_what_comes_after_a_traceback_stands_alone_at_its_own_level(records: io.StringIO) -> None:
    levels = [(record["level"], record["line"].rpartition("=")[2]) for record in says(records, CAUGHT)]
    assert levels == [("error", "ZeroDivisionError: division by zero"), ("warning", "late"), ("info", "fine")]


def test_an_exception_group_is_one_record(records: io.StringIO) -> None:
    (crash,) = says(records, GROUP)
    assert "ValueError: a" in crash["traceback"]
    assert "OSError: b" in crash["traceback"]


def test_a_go_panic_is_one_record(records: io.StringIO) -> None:
    panic = "panic: runtime error: index out of range\n\ngoroutine 1 [running]:\nmain.main()\n\t/src/main.go:7\nexit 2"
    (crash,) = says(records, f"print({panic!r})")
    assert crash["line"] == "panic: runtime error: index out of range"
    assert "main.go:7" in crash["traceback"]


def test_a_traceback_without_an_end_is_bounded() -> None:
    said: list[str] = []
    paragraphs = Paragraphs(said.append)
    paragraphs.line("Traceback (most recent call last):")
    for number in range(1000):
        paragraphs.line(f"  frame {number}")
    assert said == []
    paragraphs.end()
    paragraphs.end()
    (only,) = said
    assert len(only.splitlines()) == MAX_LINES + 1
    assert "left out" in only
    assert only.endswith("frame 999")
