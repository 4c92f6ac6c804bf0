"""What survives a restart, and what a damaged file means."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qtunnel.daemon import memory
from qtunnel.daemon.memory import DAMAGED, EPOCH_BOUND, FILE, NEW, StateDirectory
from qtunnel.errors import ConfigError
from qtunnel.rekey.model import Memory

ALICE, BOB = b"\x01" * 64, b"\x02" * 64
KEPT = Memory(7, b"\x40" * 12, b"\x41" * 12, 9)


_open: list[StateDirectory] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    shut()


def shut() -> None:
    """As the end of the process does."""
    while _open:
        _open.pop().close()


def opened(path: Path) -> tuple[StateDirectory, list[tuple[str, str]]]:
    """The directory as the next process finds it."""
    shut()
    told: list[tuple[str, str]] = []
    state = StateDirectory(path, lambda kind, detail: told.append((kind, detail)))
    _open.append(state)
    return state, told


def remember(state: StateDirectory, identity: bytes, kept: Memory) -> None:
    asyncio.run(state.remember(identity, kept))


def test_what_is_remembered_is_there_after_a_restart_and_private(tmp_path: Path) -> None:
    state, _ = opened(tmp_path / "state")
    remember(state, ALICE, KEPT)
    again, told = opened(tmp_path / "state")
    assert again.of(ALICE) == KEPT
    assert again.of(BOB) == Memory()
    assert told == []
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"version": 2, "peers": {}}',
        '{"version": 1, "peers": {"aa": {"epoch": -1, "sent": "00", "seen": "00"}}}',
        json.dumps({"version": 1, "peers": {"aa": {"epoch": EPOCH_BOUND, "sent": "00" * 12, "seen": "00" * 12}}}),
        json.dumps({"version": 1, "peers": {"aa": {"epoch": True, "sent": "00" * 12, "seen": "00" * 12}}}),
        json.dumps({"version": 1, "peers": {"aa": {"epoch": 1, "sent": "00" * 11, "seen": "00" * 12}}}),
    ],
)
def test_a_damaged_file_is_kept_aside_told_and_counts_as_a_loss(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    state, told = opened(tmp_path)
    assert [kind for kind, _ in told] == ["state.damaged"]
    assert (tmp_path / "peers.damaged").read_text() == content
    assert state.of(ALICE).had_epochs
    remember(state, ALICE, Memory(1, lost=True))
    again, told = opened(tmp_path)
    assert told == []
    assert again.of(ALICE).had_epochs
    assert again.of(BOB).had_epochs  # it may have been in the file that is lost


def test_a_directory_that_cannot_be_made_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"state_dir.*give qtunnel a directory"):
        opened(tmp_path / "file" / "state")


def test_a_disk_that_fails_later_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    state, told = opened(tmp_path / "state")
    (tmp_path / "state" / "peers.new").mkdir()
    for epoch in (1, 2):
        remember(state, ALICE, Memory(epoch))
    assert [kind for kind, _ in told] == ["state.unwritable"]
    assert state.of(ALICE).epoch == 2


def test_a_second_process_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    state, _ = opened(tmp_path)
    remember(state, ALICE, KEPT)
    with pytest.raises(ConfigError, match=r"state_dir.*in use by another qtunnel; give each gateway a directory"):
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


def test_a_crash_after_a_damaged_file_was_found_does_not_make_it_a_first_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE).write_text("{")

    def crash(self: StateDirectory, document: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StateDirectory, "_write", crash)
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path)
    assert (tmp_path / DAMAGED).read_text() == "{"
    state, told = opened(tmp_path)
    assert [kind for kind, _ in told] == ["state.damaged"]
    assert state.of(ALICE).had_epochs


def test_a_disk_that_hangs_is_told_and_nothing_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, told = opened(tmp_path)
    free = threading.Event()
    real = StateDirectory._write

    def hang(self: StateDirectory, document: str) -> None:
        free.wait()
        real(self, document)

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
    while state._writing.locked():
        pass
    monkeypatch.setattr(memory, "WRITE_LIMIT", 5.0)
    remember(state, ALICE, Memory(3))
    again, _ = opened(tmp_path)
    assert again.of(ALICE).epoch == 3
