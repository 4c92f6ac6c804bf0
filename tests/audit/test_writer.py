"""The writing thread: a full disk and one that hangs are told, and nothing is lost in silence."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qtunnel.auditlog import writer as module
from qtunnel.auditlog.log import AuditLog, Entry
from qtunnel.auditlog.writer import AuditWriter, Tell
from qtunnel.errors import QtunnelError
from tests.audit.support import KEY
from tests.audit.test_log import checked, kinds, options
from tests.support.netns import run, wait_until


class Told:
    """What the writer tells."""

    def __init__(self) -> None:
        self.problems: list[OSError | QtunnelError | None] = []

    def __call__(self, problem: OSError | QtunnelError | None) -> None:
        self.problems.append(problem)

    def last(self) -> OSError | QtunnelError | None:
        return self.problems[-1] if self.problems else None


def make(directory: Path, tell: Tell, log: AuditLog | None = None) -> AuditWriter:
    writer = AuditWriter(log or AuditLog(options(directory), KEY, time.time), tell, time.time, 0.01, 0.01)
    writer.start()
    return writer


def event(number: int, text: str = "") -> Entry:
    return Entry(time.time(), "rekey.done", "bob", {"epoch": number, "text": text})


def test_what_is_put_is_written_in_order_and_signed_at_the_end(tmp_path: Path) -> None:
    told = Told()
    writer = make(tmp_path, told)
    for number in range(100):
        writer.put(event(number))
    assert writer.close(20) == 0
    report = checked(tmp_path)
    assert report.findings == []
    epochs = [its.record.fields["epoch"] for its in report.lines if its.record and its.record.kind == "rekey.done"]
    assert epochs == list(range(100))
    assert report.unsigned == 0
    assert told.problems == [None]


def test_a_silent_daemon_says_now_and_then_that_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT", 0.02)
    writer = make(tmp_path, Told())
    path = options(tmp_path).path
    wait_until(lambda: path.exists() and path.read_bytes().count(b"log.alive") > 2, "three of them")
    assert writer.close(20) == 0
    assert checked(tmp_path).findings == []


class Stuck(AuditLog):
    """A disk that hangs until it is let go."""

    let_go = threading.Event()

    def sync(self) -> None:
        self.let_go.wait(60)
        super().sync()


def test_a_disk_that_hangs_keeps_nobody_waiting_and_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 10)
    log = Stuck(options(tmp_path), KEY, time.time)
    Stuck.let_go.clear()
    writer = make(tmp_path, Told(), log)
    for number in range(25):
        writer.put(event(number))
    wait_until(lambda: writer.hangs_for() > 0.05, "it is seen to hang")
    assert writer.close(0.05) >= 15
    Stuck.let_go.set()
    assert writer.close(20) == 0
    assert "log.gap" in kinds(tmp_path)
    report = checked(tmp_path)
    gap = next(its.record for its in report.lines if its.record and its.record.kind == "log.gap")
    assert gap.fields["number"] == 15
    assert report.findings == []


def test_a_defect_is_told_and_what_it_took_along_stays_visible_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    add, broken = AuditLog.add, threading.Event()
    broken.set()

    def breaks(self: AuditLog, entries: list[Entry]) -> None:
        if broken.is_set():
            raise ZeroDivisionError("a defect")
        add(self, entries)

    monkeypatch.setattr(AuditLog, "add", breaks)
    writer = make(tmp_path, told)
    for number in range(3):
        writer.put(event(number))
    wait_until(lambda: len(told.problems) > 2, "it is told again and again")
    assert "internal error (ZeroDivisionError: a defect)" in str(told.last())
    broken.clear()
    writer.put(event(3))
    wait_until(lambda: told.last() is None, "it writes again")
    writer.lost(2)
    assert writer.close(20) == 0
    report = checked(tmp_path)
    assert report.findings == []
    records = [its.record for its in report.lines if its.record]
    assert [its.fields["epoch"] for its in records if its.kind == "rekey.done"] == [3]
    assert sum(int(str(its.fields["number"])) for its in records if its.kind == "log.gap") == 5


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "log"
    place.mkdir(mode=0o700)
    run("mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(place))
    try:
        yield place
    finally:
        run("umount", "-l", str(place))


@pytest.mark.root
def test_a_full_disk_is_told_and_what_waited_is_written_once_there_is_room(tmp_path: Path, small_disk: Path) -> None:
    told = Told()
    writer = make(tmp_path, told)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(40_000))
    number = 0

    def full() -> bool:
        nonlocal number
        number += 1
        writer.put(event(number, "x" * 900))
        return told.last() is not None

    wait_until(full, "the disk is full")
    error = told.last()
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC
    for _ in range(5):
        number += 1
        writer.put(event(number))
    filler.unlink()
    wait_until(lambda: told.last() is None, "it writes again")
    assert writer.close(20) == 0
    report = checked(tmp_path)
    assert report.findings == []
    epochs = [its.record.fields["epoch"] for its in report.lines if its.record and its.record.kind == "rekey.done"]
    assert epochs == list(range(1, number + 1))


@pytest.mark.root
def test_what_a_full_disk_never_took_is_counted(tmp_path: Path, small_disk: Path) -> None:
    told = Told()
    (small_disk / "filler").write_bytes(bytes(64_000))
    writer = make(tmp_path, told)
    for number in range(7):
        writer.put(event(number))
    wait_until(lambda: told.last() is not None, "it is told")
    assert writer.close(20) == 8  # with the first line of the file
