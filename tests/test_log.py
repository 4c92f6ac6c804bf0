"""Structured logs: one event is one line that reads back, and no key is ever in it."""

from __future__ import annotations

import io
import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qtunnel.errors import KeyNotFoundError
from qtunnel.secret import Secret
from qtunnel.telemetry import log
from qtunnel.telemetry.log import LogFormat, Logger, plain, under_journal

KEY = bytes(range(200, 232))
Run = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging as it was; ``configure`` is global."""
    root, own = logging.getLogger(), logging.getLogger(log.ROOT)
    handlers, level, own_level = root.handlers[:], root.level, own.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    own.setLevel(own_level)
    logging.captureWarnings(False)


def lines_of(do: Callable[[Logger], None], style: LogFormat = "text", level: str = "info") -> list[str]:
    stream = io.StringIO()
    log.configure(style, level, stream, environ={})
    do(log.get("test"))
    text = stream.getvalue()
    assert text == "" or text.endswith("\n")
    return text.split("\n")[:-1]


def only(do: Callable[[Logger], None]) -> dict[str, Any]:
    (line,) = lines_of(do, "json")
    fields = json.loads(line)
    assert isinstance(fields, dict)
    return fields


def test_a_text_line_has_time_level_event_and_fields() -> None:
    (line,) = lines_of(lambda to: to.info("rekey.done", peer="bob", epoch=7, ms=1.5, ok=True, error=None))
    ts, rest = line.split(" ", 1)
    assert rest == "level=info event=rekey.done peer=bob epoch=7 ms=1.5 ok=true error=null logger=test"
    moment = datetime.fromisoformat(ts.removeprefix("ts="))
    assert moment.utcoffset() == UTC.utcoffset(None)
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 3600


def test_a_json_line_keeps_types() -> None:
    fields = only(lambda to: to.warning("x", n=1, f=0.25, t=True, none=None, many=["a", 2], of={"a": [1]}))
    assert list(fields)[:3] == ["ts", "level", "event"]
    assert {name: fields[name] for name in ("n", "f", "t", "none", "many", "of")} == {
        "n": 1,
        "f": 0.25,
        "t": True,
        "none": None,
        "many": ["a", 2],
        "of": {"a": [1]},
    }
    assert (fields["level"], fields["logger"]) == ("warning", "test")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["peer", "error", "a b", "é", "x=y", 'q"']), st.text(max_size=40)))
def test_any_text_stays_in_its_line_and_reads_back(fields: dict[str, str]) -> None:
    (line,) = lines_of(lambda to: to.info("x", **fields))
    assert line.isprintable()
    expected = {"".join(c if c.isascii() and c.isalnum() else "_" for c in name): fields[name] for name in fields}
    for name, value in expected.items():
        start = line.index(f" {name}=") + len(name) + 2
        if line[start] == '"':
            assert json.JSONDecoder().raw_decode(line[start:])[0] == value
        else:
            assert line[start:].split(" ", 1)[0] == value
    parsed = only(lambda to: to.info("x", **fields))
    assert {name: parsed[name] for name in expected} == expected


HOSTILE = ["a\nlevel=error event=fake", "\x1b[2J", "\u202e", "\u2028", "\x85", "\x7f", "\udcff", "\U000e0001"]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("style", ["text", "json"])
def test_what_terminals_obey_is_escaped(style: LogFormat, hostile: str) -> None:
    (line,) = lines_of(lambda to: to.info(hostile, error=hostile, many=[hostile], of={hostile: hostile}), style)
    assert line.isprintable()


def test_no_key_is_ever_in_a_line() -> None:
    secret = Secret(KEY)

    def everywhere(to: Logger) -> None:
        to.error(
            "x",
            secret=secret,
            raw=KEY,
            array=bytearray(KEY),
            view=memoryview(KEY),
            many=[secret, KEY],
            of={"k": {"k": secret}, "b": KEY},
            keys={KEY: 1},
        )

    for style in ("text", "json"):
        (line,) = lines_of(everywhere, style)
        for shape in (KEY.hex(), repr(KEY)[2:-1], "200, 201", str(list(KEY))[1:-1], KEY.decode("latin-1")):
            assert shape not in line
        assert "32 bytes, redacted" in line
        assert "<32 bytes>" in line


def test_levels_are_kept_apart() -> None:
    def all_of_them(to: Logger) -> None:
        for name in ("debug", "info", "warning", "error"):
            getattr(to, name)(name)

    for index, level in enumerate(("debug", "info", "warning", "error")):
        assert len(lines_of(all_of_them, level=level)) == 4 - index


def test_a_field_cannot_pose_as_the_level_or_time() -> None:
    fields = only(lambda to: to.info("x", level="error", ts="now", logger="other", event="fake"))
    assert (fields["level"], fields["event"], fields["level_"], fields["event_"]) == ("info", "x", "error", "fake")


def test_other_libraries_lines_have_the_same_form() -> None:
    def do(_: Logger) -> None:
        logging.getLogger("aiohttp.server").warning("it is %s\nand", "bad")
        logging.getLogger("aiohttp.access").info("not asked for")
        logging.getLogger("aiohttp.server").warning("wrong %d", "number")

    first, second = lines_of(do)
    assert shlex.split(first)[1:3] == ["level=warning", "event=log"]
    assert r'message="it is bad\nand" logger=aiohttp.server' in first
    assert "in the log call" in second


def test_a_defect_has_its_traceback_in_the_line_and_an_expected_error_none() -> None:
    def do(to: Logger) -> None:
        for error in (KeyNotFoundError("metro", "dec_keys", "gone"), ZeroDivisionError("by zero")):
            try:
                raise error
            except (KeyNotFoundError, ZeroDivisionError) as caught:
                to.defect("rekey.failed", caught, peer="bob")

    expected, defect = lines_of(do)
    assert 'peer=bob error="metro: dec_keys: gone" kind=KeyNotFoundError' in expected
    assert "Traceback" not in expected
    assert r'traceback="Traceback (most recent call last):\n' in defect


class Colour(Enum):
    RED = "red"


class Number(IntEnum):
    ONE_MORE = 1


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Path("/a/b"), "/a/b"),
        (Colour.RED, "red"),
        (Number.ONE_MORE, "one_more"),
        (ValueError("bad"), "bad"),
        (ValueError(), "ValueError"),
        (float("nan"), "nan"),
        (0.1 + 0.2, 0.3),
        (Broken(), "<Broken: RuntimeError>"),
        ((1, "a"), [1, "a"]),
        ("x" * 10_000, "x" * 8192 + "…"),
    ],
)
def test_values_are_made_plain(value: object, expected: object) -> None:
    assert plain(value) == expected


def test_endless_nesting_ends() -> None:
    nested: list[object] = []
    nested.append(nested)
    assert plain(nested) == [[[[["…"]]]]]


def test_a_stream_that_takes_nothing_does_not_disturb() -> None:
    program = """
import os
from qtunnel.telemetry import log
log.configure(stream=open("/dev/full", "w"))
for _ in range(3):
    log.get("test").info("x")
print("alive", flush=True)
os._exit(0)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (result.stdout, result.stderr) == ("alive\n", "")


@pytest.mark.parametrize("style", ["text", "json"])
def test_in_the_journal_lines_have_priorities_and_text_no_time(tmp_path: Path, style: LogFormat) -> None:
    with (tmp_path / "stream").open("w+") as stream:
        status = os.fstat(stream.fileno())
        journal = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert under_journal(stream, journal)
        assert not under_journal(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
        assert not under_journal(stream, {"JOURNAL_STREAM": "junk"})
        assert not under_journal(stream, {})
        assert not under_journal(io.StringIO(), journal)
        log.configure(style, "info", stream, environ=journal)
        log.get("test").info("x")
        log.get("test").error("y")
        stream.seek(0)
        first, second = stream.read().splitlines()
    assert first.startswith("<6>level=info" if style == "text" else '<6>{"ts"')
    assert second.startswith("<3>")


def test_connections_that_cannot_be_accepted_are_one_line_with_the_remedy() -> None:
    """asyncio has a hundred tracebacks a second of it."""
    program = """
import asyncio, resource, socket
from qtunnel.telemetry import log
log.configure()
async def main():
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    clients = [socket.socket() for _ in range(3)]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    for client in clients:
        client.connect(("127.0.0.1", port))
    await asyncio.sleep(1.5)
    asyncio.get_running_loop().call_exception_handler({"message": "another thing"})
    resource.setrlimit(resource.RLIMIT_NOFILE, before)  # what measures the process writes a file at its end
asyncio.run(main())
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    first, second = result.stderr.splitlines()
    assert 'message="connections cannot be accepted: too many open files; raise the limit (LimitNOFILE' in first
    assert "traceback" not in first
    assert 'message="another thing"' in second
