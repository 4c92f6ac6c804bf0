"""Warnings of an engine in the background reach syslog, and a syslog that stands still stops nothing."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qtunnel.cli import wg
from qtunnel.netio.syslog import MAX_MESSAGE, SyslogHandler
from tests.support.netns import namespaces, run, unique_name, wait_until
from tests.wireguard.gateways import socket_path

ENGINE = """
import sys
from pathlib import Path
from qtunnel.cli import wg
from qtunnel.cli.main import main
from qtunnel.netio import losses
wg.SYSLOG, losses.INTERVAL = Path(sys.argv.pop(1)), 0.5
main()
"""


def listen(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(path))
    made.settimeout(20)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    root = logging.getLogger("qtunnel")
    before = list(root.handlers), root.level, root.propagate
    yield root
    for handler in root.handlers:
        if handler not in before[0]:
            handler.close()
    root.handlers[:], root.level, root.propagate = before


def test_warnings_go_to_syslog_and_the_rest_does_not(
    path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wg, "SYSLOG", path)
    with listen(path) as syslog:
        wg._set_up_logging("qt0", None, "info", to_stderr=False)
        log = logging.getLogger("qtunnel.netio.test")
        log.info("msg=%r", "quiet")
        log.warning("msg=%r", "loud")
        log.error("msg=%r", "two\nlines")
        tag = f"qtunnel[{os.getpid()}]: "
        assert syslog.recv(2048).decode() == f"<28>{tag}level=WARNING interface=qt0 msg='loud'"
        assert syslog.recv(2048).decode() == f"<27>{tag}level=ERROR interface=qt0 msg='two\\nlines'"


def test_without_syslog_the_engine_starts_all_the_same(
    path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wg, "SYSLOG", path)
    wg._set_up_logging("qt0", None, "info", to_stderr=False)
    logging.getLogger("qtunnel.netio.test").error("lost")
    assert [type(handler) for handler in logger.handlers] == [logging.NullHandler]


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("qtunnel", logging.ERROR, "", 0, text, (), None)


def test_a_syslog_that_stands_still_costs_messages_but_no_time(path: Path) -> None:
    with listen(path) as syslog:
        handler = SyslogHandler(path)
        for number in range(5000):  # more than its queue holds; a blocking socket would wait here for ever
            handler.emit(record(f"number {number}"))
        assert b"number 0" in syslog.recv(2048)
        handler.close()


def test_a_syslog_that_was_restarted_is_found_again(path: Path) -> None:
    with listen(path):
        handler = SyslogHandler(path)
    handler.emit(record("nobody listens"))
    path.unlink()
    handler.emit(record("nothing is there"))
    with listen(path) as syslog:
        handler.emit(record("x" * 5000))
        assert len(syslog.recv(8192)) == MAX_MESSAGE
    handler.close()


@pytest.mark.root
def test_drops_of_an_engine_in_the_background_are_seen_in_syslog(path: Path) -> None:
    name = unique_name("qs")
    with listen(path) as syslog, namespaces(1) as (host,):
        assert run("ip", "netns", "exec", host.name, sys.executable, "-c", ENGINE, str(path), "wg", name).stderr == ""
        try:
            host.address(name, "10.77.0.1/24")
            host.run("ping", "-c", "3", "-i", "0.1", "-W", "1", "10.77.0.9", check=False)
            said = syslog.recv(2048).decode()
            assert f"interface={name} msg='dropped since the last report: " in said
            assert "no-peer-for-destination=" in said
        finally:
            socket_path(name).unlink()  # which ends it
            wait_until(lambda: name not in host.links(), "the interface is gone")


def test_who_loses_its_reader_goes_on_in_syslog(
    path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an engine whose daemon was killed."""
    monkeypatch.setattr(wg, "SYSLOG", path)
    reader, writer = os.pipe()
    stderr = os.fdopen(writer, "w", buffering=1)
    with listen(path) as syslog, contextlib.suppress(BrokenPipeError):
        monkeypatch.setattr(sys, "stderr", stderr)
        wg._set_up_logging("qt0", None, "info", to_stderr=True)
        log = logging.getLogger("qtunnel.wireguard.test")
        log.warning("msg=%r", "heard")
        assert b"heard" in os.read(reader, 1000)
        os.close(reader)
        log.warning("msg=%r", "in syslog")
        assert b"in syslog" in syslog.recv(MAX_MESSAGE)
        log.warning("msg=%r", "again")
        assert b"again" in syslog.recv(MAX_MESSAGE)
        monkeypatch.undo()
        stderr.close()  # which has something that nobody takes
