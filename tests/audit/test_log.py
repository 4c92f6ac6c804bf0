"""The log on a real disk: rotation, restarts, a crash in the middle of a line, a head that knows better."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtunnel.audit.chain import HEAD_AFTER
from qtunnel.audit.head import key_name
from qtunnel.audit.record import parse
from qtunnel.audit.verify import Report, verify
from qtunnel.auditlog.files import HEAD_FILE, files_of, read_head, read_log
from qtunnel.auditlog.log import AuditLog, Entry, LogOptions
from qtunnel.auditlog.times import asked, seconds_of, text_of
from qtunnel.crypto.signature import SigningKey
from qtunnel.errors import AlreadyRunningError, AuditError
from tests.audit.support import KEY, OTHER_KEY

BEGIN = 1_790_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> float:
        self.now += 0.5
        return self.now


def options(directory: Path, rotate: int = 10**6) -> LogOptions:
    (directory / "state").mkdir(exist_ok=True)
    return LogOptions(directory / "log" / "audit.jsonl", rotate, directory / "state", "alice", "0.1")


def opened(directory: Path, rotate: int = 10**6, key: SigningKey = KEY) -> AuditLog:
    log = AuditLog(options(directory, rotate), key, Clock())
    log.open()
    return log


def entry(number: int) -> Entry:
    return Entry(BEGIN + number, "rekey.done", "bob", {"epoch": number})


def wrote(log: AuditLog, *numbers: int) -> None:
    for number in numbers:
        log.add([entry(number)])
        log.sync()


def checked(directory: Path, *keys: SigningKey) -> Report:
    """What ``qtunnel audit verify --config`` has to say."""
    files = [read_log(path) for path in files_of(directory / "log" / "audit.jsonl")]
    head = directory / "state" / HEAD_FILE
    return verify(files, heads=[(str(head), read_head(head))], keys=[key_name(key.public) for key in keys or (KEY,)])


def kinds(directory: Path) -> list[str]:
    return [line.record.kind for line in checked(directory).lines if line.record is not None]


def test_it_goes_on_where_it_ended(tmp_path: Path) -> None:
    for number in range(3):
        log = opened(tmp_path)
        wrote(log, number)
        log.close()
    again = ["log.head", "rekey.done"]  # nobody signed at the end before
    assert kinds(tmp_path) == ["log.opened", "rekey.done", *again, *again]
    assert checked(tmp_path).findings == []
    assert (tmp_path / "log" / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_full_file_is_followed_by_another_and_the_chain_goes_through_both(tmp_path: Path) -> None:
    log = opened(tmp_path, rotate=8_000)
    wrote(log, *range(60))
    log.close()
    names = [path.name for path in files_of(tmp_path / "log" / "audit.jsonl")]
    assert len(names) >= 3
    assert names[-1] == "audit.jsonl"
    assert all(re.fullmatch(r"audit-\d{12}\.jsonl", name) for name in names[:-1])
    for name in names[:-1]:
        lines = (tmp_path / "log" / name).read_bytes().splitlines()
        assert int(name[6:18]) == parse(lines[0]).seq
        assert parse(lines[-1]).kind == "log.head"
    report = checked(tmp_path)
    assert report.findings == []
    assert report.unsigned < 60


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(1, 400), restarts=st.integers(1, 3))
def test_a_line_that_a_crash_cut_short_stays_and_is_told(
    tmp_path_factory: pytest.TempPathFactory, cut: int, restarts: int
) -> None:
    directory = tmp_path_factory.mktemp("torn")
    log = opened(directory)
    wrote(log, 1)
    log.close()
    path = directory / "log" / "audit.jsonl"
    for number in range(restarts):
        os.truncate(path, path.stat().st_size - min(cut, 300))  # of the last line, which was not synced then
        (directory / "state" / HEAD_FILE).unlink()
        log = opened(directory)
        wrote(log, 2 + number)
        log.close()
        assert checked(directory).findings == []


def test_the_beginning_of_a_file_may_be_torn_too(tmp_path: Path) -> None:
    log = opened(tmp_path)
    wrote(log, 1)
    log.close()
    path = tmp_path / "log" / "audit.jsonl"
    os.truncate(path, 100)
    (tmp_path / "state" / HEAD_FILE).unlink()
    for _ in range(2):
        log = opened(tmp_path)
        wrote(log, 2)
        log.close()
    assert kinds(tmp_path) == ["log.torn", "log.opened", "rekey.done", "log.head", "rekey.done"]
    assert checked(tmp_path).findings == []


def test_a_record_that_lost_only_its_end_counts(tmp_path: Path) -> None:
    log = opened(tmp_path)
    wrote(log, 1)
    log.close()
    path = tmp_path / "log" / "audit.jsonl"
    os.truncate(path, path.stat().st_size - 1)
    log = opened(tmp_path)
    wrote(log, 2)
    log.close()
    assert kinds(tmp_path) == ["log.opened", "rekey.done", "log.head", "rekey.done"]
    assert checked(tmp_path).findings == []


def test_what_was_cut_off_before_a_start_stays_visible_for_ever(tmp_path: Path) -> None:
    log = opened(tmp_path)
    wrote(log, 1, 2, 3)
    log.close()
    path = tmp_path / "log" / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    (cut,) = checked(tmp_path).findings
    assert (cut.what, cut.place.line) == ("cut off", 2)
    log = opened(tmp_path)
    wrote(log, 4)
    log.close()
    (removed,) = checked(tmp_path).findings
    assert (removed.what, removed.place.line) == ("removed", 3)
    assert "records 3 to 4 stood before this line" in removed.words
    assert kinds(tmp_path)[-3:] == ["log.missing", "log.head", "rekey.done"]


def test_another_last_record_than_the_one_kept_stays_visible(tmp_path: Path) -> None:
    log = opened(tmp_path)
    wrote(log, 1)
    log.close()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    log = opened(elsewhere)
    wrote(log, 7)
    log.close()
    path = tmp_path / "log" / "audit.jsonl"
    path.write_bytes((elsewhere / "log" / "audit.jsonl").read_bytes())
    log = opened(tmp_path)
    wrote(log, 2)
    log.close()
    (found,) = checked(tmp_path).findings
    assert (found.what, found.place.line) == ("changed", 3)


def test_a_kept_head_that_somebody_changed_or_replaced_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    log = opened(tmp_path)
    wrote(log, 1)
    log.close()
    path, head = tmp_path / "log" / "audit.jsonl", tmp_path / "state" / HEAD_FILE
    before, kept = path.read_bytes(), head.read_text()
    forged = re.sub(r'"seq":\d+', '"seq":1', kept)
    assert forged != kept
    head.write_text(forged)
    with pytest.raises(AuditError, match=r"audit\.head: was changed: its signature does not hold"):
        opened(tmp_path)
    head.write_bytes(bytes(1 << 20))
    with pytest.raises(AuditError, match="bytes are too many for the head of an audit log"):
        opened(tmp_path)
    head.unlink()
    os.mkfifo(head)
    with pytest.raises(AuditError, match="not a regular file; the head of an audit log is expected here"):
        opened(tmp_path)
    assert path.read_bytes() == before
    head.unlink()
    head.write_text(kept)
    wrote(again := opened(tmp_path), 2)
    again.close()
    assert checked(tmp_path).findings == []


def test_a_file_that_was_taken_away_leaves_its_numbers(tmp_path: Path) -> None:
    log = opened(tmp_path)
    wrote(log, 1, 2)
    log.close()
    (tmp_path / "log" / "audit.jsonl").unlink()
    log = opened(tmp_path)
    wrote(log, 3)
    log.close()
    report = checked(tmp_path)
    assert (report.first, report.last) == (4, 5)
    assert report.findings == []
    assert any("begins with record 4" in note for note in report.notes)


def test_a_file_that_is_taken_away_while_it_is_written_to_is_told_and_leaves_its_numbers(tmp_path: Path) -> None:
    log = opened(tmp_path)
    wrote(log, 1)
    path = tmp_path / "log" / "audit.jsonl"
    path.rename(tmp_path / "log" / "taken")
    with pytest.raises(AuditError, match="was moved, removed or changed by somebody else"):
        log.open()
    log.open()
    wrote(log, 2)
    os.truncate(path, 0)
    with pytest.raises(AuditError, match="was moved, removed or changed"):
        log.open()
    log.open()
    wrote(log, 3)
    log.close()
    report = checked(tmp_path)
    assert (report.first, report.last, report.findings) == (5, 6, [])
    assert any("begins with record 5" in note for note in report.notes)


def test_a_crash_between_two_files_breaks_nothing(tmp_path: Path) -> None:
    log = opened(tmp_path, rotate=9_000)
    while len(files_of(tmp_path / "log" / "audit.jsonl")) < 2:
        wrote(log, 1)
    log.close()
    (tmp_path / "log" / "audit.jsonl").unlink()  # it had only its first line
    (tmp_path / "state" / HEAD_FILE).unlink()
    log = opened(tmp_path)
    wrote(log, 2)
    log.close()
    assert checked(tmp_path).findings == []


def test_however_it_comes_it_is_signed_often_enough(tmp_path: Path) -> None:
    """Of many records at once, and of a daemon that is killed again and again before a signature is due."""
    log = opened(tmp_path)
    log.add([entry(number) for number in range(3 * HEAD_AFTER)])
    log.sync()
    log.close()
    for start in range(5):
        log = opened(tmp_path)
        wrote(log, *range(start * 100, start * 100 + 100))
        log.close()  # without a signature, as after a kill
        with (tmp_path / "log" / "audit.jsonl").open("ab") as file:
            file.write(b'{"seq":1,"ti')
    for key in (OTHER_KEY, KEY):
        log = opened(tmp_path, key=key)
        wrote(log, *range(150))
        log.close()
    report = checked(tmp_path, KEY, OTHER_KEY)
    assert report.findings == []
    assert report.heads == 10


def test_another_identity_begins_another_file(tmp_path: Path) -> None:
    log = opened(tmp_path)
    wrote(log, 1)
    log.close()
    log = opened(tmp_path, key=OTHER_KEY)
    wrote(log, 2)
    log.close()
    assert len(files_of(tmp_path / "log" / "audit.jsonl")) == 2
    assert checked(tmp_path, KEY, OTHER_KEY).findings == []
    assert [its.what for its in checked(tmp_path, OTHER_KEY).findings] == ["key"]


def test_two_daemons_do_not_write_one_log(tmp_path: Path) -> None:
    log = opened(tmp_path)
    wrote(log, 1)
    with pytest.raises(AlreadyRunningError, match="another qtunnel writes this audit log"):
        opened(tmp_path)
    log.close()


@pytest.mark.parametrize(
    "content, words",
    [
        (b"hello\nworld\n", "has no record in it: it is no audit log, or was changed; move it away"),
        (b"\n", "has no record in it"),
    ],
)
def test_another_file_in_its_place_is_left_alone(tmp_path: Path, content: bytes, words: str) -> None:
    path = options(tmp_path).path
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(AuditError, match=re.escape(words)):
        opened(tmp_path)
    assert path.read_bytes() == content


def test_places_that_others_may_write_are_refused(tmp_path: Path) -> None:
    log = opened(tmp_path)
    wrote(log, 1)
    log.close()
    path = tmp_path / "log" / "audit.jsonl"
    path.chmod(0o622)
    with pytest.raises(AuditError, match="chmod 600"):
        opened(tmp_path)
    path.chmod(0o600)
    path.parent.chmod(0o777)
    with pytest.raises(AuditError, match="chmod 700"):
        opened(tmp_path)


def test_a_link_or_pipe_in_its_place_is_refused(tmp_path: Path) -> None:
    path = options(tmp_path).path
    path.parent.mkdir(mode=0o700)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuditError, match="not a regular file"):
        opened(tmp_path)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(AuditError, match="no regular file"):
        opened(tmp_path)


CHILD = """
import os, sys
from pathlib import Path
from tests.audit.test_log import entry, opened
log = opened(Path(sys.argv[1]), rotate=20_000)
number = 0
while True:
    number += 1
    log.add([entry(number)])
    log.sync()
    if number == 40:
        print("ready", flush=True)
"""


def test_after_kill_9_in_the_midst_of_writing_it_goes_on(tmp_path: Path) -> None:
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    log = opened(tmp_path)
    wrote(log, 0)
    log.close()
    report = checked(tmp_path)
    assert report.findings == []
    assert report.records > 120


@pytest.mark.parametrize(
    "written, meant",
    [
        ("2026-01-31T14:05", "2026-01-31T14:05:00.000Z"),
        ("2026-01-31 14:05:30.5Z", "2026-01-31T14:05:30.500Z"),
        ("2026-01-31T15:05+01:00", "2026-01-31T14:05:00.000Z"),
    ],
)
def test_times_are_read_as_people_write_them(written: str, meant: str) -> None:
    assert asked(written) == meant
    assert text_of(seconds_of(meant)) == meant


@pytest.mark.parametrize("written", ["Tuesday", "14:05", "2026-13-01T00:00", "9999-12-31T23:59-12:00", ""])
def test_a_time_that_is_none_is_refused_with_what_would_be_one(written: str) -> None:
    with pytest.raises(AuditError, match="write 2026-01-31T14:05"):
        asked(written)
