"""A state directory that cannot be used: whose it is, who may write there, a disk that is full, hangs or fails."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from qtunnel.daemon import memory
from qtunnel.daemon.memory import FILE, NEW, StateDirectory
from qtunnel.errors import EXIT_FAILURE, AlreadyRunningError, ConfigError, QtunnelError
from qtunnel.rekey.model import Memory
from tests.daemon.memories import ALICE, BOB, KEPT, fails, opened, remember, shut
from tests.daemon.memories import closed as closed  # a fixture


def settle(state: StateDirectory) -> None:
    """Until no write is under way."""
    while state._writing:
        time.sleep(0.001)


def test_a_directory_that_cannot_be_made_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"state_dir.*give qtunnel a directory"):
        opened(tmp_path / "file" / "state")


def test_a_disk_that_fails_later_is_told_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, told = opened(tmp_path / "state")
    (tmp_path / "state" / NEW).mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fails(errno.EIO))
        for epoch in (1, 2):
            remember(state, ALICE, Memory(epoch))
    assert [kind for kind, _ in told] == ["state.unwritable"]
    assert state.of(ALICE).epoch == 2
    remember(state, BOB, Memory(1))
    (tmp_path / "state" / NEW).rmdir()
    remember(state, BOB, Memory(2))
    again, told = opened(tmp_path / "state")
    assert (again.of(ALICE).epoch, again.of(BOB).epoch) == (2, 2), "what could not be written is, once anything can"
    assert told == []


def test_a_second_process_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    state, _ = opened(tmp_path)
    remember(state, ALICE, KEPT)
    with pytest.raises(
        AlreadyRunningError, match=r"state_dir.*in use by another qtunnel; give each gateway a directory"
    ):
        StateDirectory(tmp_path, lambda *_: None)
    remember(state, BOB, Memory(3))
    again, _ = opened(tmp_path)
    assert (again.of(ALICE), again.of(BOB)) == (KEPT, Memory(3))


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o702])
def test_a_directory_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(ConfigError, match=r"others may write there.*chmod 700"):
        opened(tmp_path)
    assert os.listdir(tmp_path) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    target, state = tmp_path / "target", tmp_path / "state"
    target.write_text("of somebody else")
    state.mkdir(0o700)
    (state / NEW).symlink_to(target)
    opened(state)
    assert target.read_text() == "of somebody else"
    shut()
    (state / FILE).unlink()
    (state / FILE).symlink_to(target)
    with pytest.raises(ConfigError, match="symbolic link"):
        opened(state)
    assert target.read_text() == "of somebody else"


def test_a_disk_that_hangs_is_told_and_nothing_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, told = opened(tmp_path)
    free = threading.Event()
    real = StateDirectory._write

    def hang(self: StateDirectory, job: memory.Job) -> None:
        free.wait()
        real(self, job)

    monkeypatch.setattr(StateDirectory, "_write", hang)
    monkeypatch.setattr(memory, "WRITE_LIMIT", 0.05)

    async def use() -> None:
        ticks = 0

        async def others() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.005)
                ticks += 1

        running = asyncio.create_task(others())
        await state.remember(ALICE, Memory(1))
        assert ticks > 0, "the event loop stood still"
        await state.remember(ALICE, Memory(2))
        running.cancel()

    asyncio.run(use())
    assert [kind for kind, _ in told] == ["state.unwritable"]
    free.set()
    settle(state)
    shut()
    state, told_again = opened(tmp_path)
    assert (state.of(ALICE).epoch, told_again) == (2, []), "refused, and written late"
    monkeypatch.setattr(memory, "WRITE_LIMIT", 5.0)
    remember(state, ALICE, Memory(3))
    again, _ = opened(tmp_path)
    assert again.of(ALICE).epoch == 3


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "make room"), (errno.EDQUOT, "make room"), (errno.EIO, "see to that disk")]
)
def test_a_disk_that_fails_at_the_start_is_no_fault_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    monkeypatch.setattr(os, "fsync", fails(number))
    with pytest.raises(QtunnelError, match=rf"state_dir.*{remedy}") as caught:
        opened(tmp_path)
    assert caught.value.exit_code == EXIT_FAILURE, "after which systemd starts the service again"


@pytest.mark.root
def test_a_full_file_system_is_told_with_the_remedy_and_not_as_a_fault_of_the_configuration(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=700", "none", tmp_path], check=True)
    try:
        with pytest.raises(OSError, match="No space"):
            (tmp_path / "fill").write_bytes(bytes(1 << 16))
        with pytest.raises(QtunnelError, match=r"state_dir.*No space left on device; make room there") as caught:
            opened(tmp_path)
        assert caught.value.exit_code == EXIT_FAILURE
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_a_place_that_no_time_makes_usable_is_a_fault_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", fails(number))
    with pytest.raises(ConfigError, match=r"state_dir.*a directory that it may write"):
        opened(tmp_path)


def test_a_disk_that_hangs_at_the_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    monkeypatch.setattr(StateDirectory, "_write", lambda *_: free.wait(30))
    monkeypatch.setattr(memory, "START_LIMIT", 0.05)
    with pytest.raises(QtunnelError, match=r"state_dir.*the disk takes longer") as caught:
        opened(tmp_path)
    free.set()
    assert caught.value.exit_code == EXIT_FAILURE
