"""The daemon's end of the audit log: what is recorded, and what becomes of a log that cannot be written."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qtunnel.audit.kinds import RECORDED
from qtunnel.auditlog import files
from qtunnel.auditlog.files import read_log
from qtunnel.config import AuditConfig
from qtunnel.daemon import accounting as module
from qtunnel.daemon.accounting import Accounting
from qtunnel.errors import QtunnelError
from qtunnel.events import EventStream
from qtunnel.identity import Identity
from tests.architecture import DOCUMENT

IDENTITY = Identity.create(os.urandom)


def accounting(
    directory: Path, events: EventStream, on_failure: str, end: Callable[[str], None] = lambda reason: None
) -> Accounting:
    (directory / "state").mkdir(exist_ok=True)
    audit = AuditConfig(path=directory / "log" / "audit.jsonl", on_failure=on_failure)
    node = SimpleNamespace(state_dir=directory / "state", name="alice")
    config: Any = SimpleNamespace(audit=audit, node=node)
    return Accounting(config, IDENTITY, events, end)


def text(directory: Path) -> str:
    return read_log(directory / "log" / "audit.jsonl").data.decode()


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_what_has_to_be_accounted_for_is_recorded_and_nothing_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        events = EventStream()
        its = accounting(tmp_path, events, "stop")
        events.publish("daemon.starting", None, version="1")
        await its.start()
        events.publish("epoch.in-force", "bob", epoch=7, sources=["x25519"], key_ids=["metro k1"])
        events.publish("message.rejected", None, reason="mac1")
        events.publish("source.keys-lost", None, source="metro", number=1, detail="x" * 5000)
        events.publish("daemon.stopped", None)
        events.close()
        await its.finish()
        assert its.records == 6  # with the file's first record and the signature
        assert its.problem is None

    asyncio.run(scenario())
    found = text(tmp_path)
    assert (
        '"kind":"epoch.in-force","peer":"bob","fields":{"epoch":7,"sources":["x25519"],"key_ids":["metro k1"]}' in found
    )
    assert found.count("\n") == 6
    assert "message.rejected" not in found
    assert "x" * 1001 not in found


def test_every_recorded_kind_is_an_event() -> None:
    section = DOCUMENT.read_text().partition("## The event stream")[2]
    assert {kind for kind in RECORDED if f"`{kind}`" not in section} == set()


def test_without_a_section_there_is_no_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        config: Any = SimpleNamespace(audit=None)
        its = Accounting(config, IDENTITY, EventStream(), lambda reason: None)
        await its.start()
        await its.finish()
        assert its.records is None

    asyncio.run(scenario())


class Disk:
    """Refuses while it is full, and hangs until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.goes = threading.Event()
        self.goes.set()
        write = files.LogFileWriter.write

        def refusing(writer: files.LogFileWriter, data: bytes) -> int:
            self.goes.wait(60)
            if self.full:
                raise OSError(28, "No space left on device")
            return write(writer, data)

        monkeypatch.setattr(files.LogFileWriter, "write", refusing)


def test_a_log_that_cannot_be_written_is_an_alarm_and_the_daemon_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, ended = Disk(monkeypatch), list[str]()

    async def scenario() -> None:
        events = EventStream()
        its = accounting(tmp_path, events, "go-on", ended.append)
        await its.start()
        disk.full = True
        events.publish("peer.blocked", "bob", detail="first")
        await until(lambda: its.problem is not None)
        assert "make room there" in str(its.problem)
        events.publish("peer.blocked", "bob", detail="second")
        disk.full = False
        await until(lambda: its.problem is None)
        assert [event.kind for event in events.history()][-1] == "audit.resumed"
        events.close()
        await its.finish()

    asyncio.run(scenario())
    found = text(tmp_path)
    assert found.index("first") < found.index("second")
    assert "audit.failing" in found
    assert "audit.resumed" in found
    assert ended == []


def test_a_disk_that_hangs_is_an_alarm_until_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    monkeypatch.setattr(module, "HANG_LIMIT", 0.05)
    monkeypatch.setattr(module, "LOOK_EVERY", 0.02)

    async def scenario() -> None:
        events = EventStream()
        its = accounting(tmp_path, events, "go-on")
        await its.start()
        disk.goes.clear()
        events.publish("peer.blocked", "bob", detail="first")
        await until(lambda: its.problem is not None)
        assert "the disk takes longer than 0.05 s" in str(its.problem)
        disk.goes.set()
        await until(lambda: its.problem is None)
        events.close()
        await its.finish()

    asyncio.run(scenario())
    assert "audit.failing" in text(tmp_path)


def test_a_log_that_cannot_be_written_ends_the_daemon_where_policy_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, ended = Disk(monkeypatch), list[str]()

    async def scenario() -> None:
        events = EventStream()
        its = accounting(tmp_path, events, "stop", ended.append)
        await its.start()
        disk.full = True
        events.publish("peer.blocked", "bob", detail="first")
        await until(lambda: ended)
        events.close()
        await its.finish()

    asyncio.run(scenario())
    (reason,) = ended
    assert reason.endswith("no space left on device; make room there (audit.on_failure is stop)")


@pytest.mark.parametrize("on_failure", ["stop", "go-on"])
def test_a_full_disk_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_failure: str) -> None:
    disk = Disk(monkeypatch)
    disk.full = True

    async def scenario() -> None:
        events = EventStream()
        its = accounting(tmp_path, events, on_failure)
        if on_failure == "stop":
            with pytest.raises(QtunnelError, match=r"no space left on device.*on_failure is stop"):
                await its.start()
            return
        await its.start()
        assert its.problem is not None
        events.publish("peer.blocked", "bob", detail="first")
        disk.full = False
        await until(lambda: its.problem is None)
        events.close()
        await its.finish()
        assert "first" in text(tmp_path)

    asyncio.run(scenario())
