"""The file with the next index of an agreed stream: never the same index twice, whatever happens to it."""

from __future__ import annotations

import _thread
import asyncio
import fcntl
import stat
import threading
import uuid
from pathlib import Path

import pytest

from qtunnel.drivers import etsi004_index as module
from qtunnel.drivers.etsi004_index import SLOT, IndexesError, IndexFile, IndexMemory

KSID = uuid.UUID(int=1 << 100)


def take(path: Path, count: int = 1, chunk: int = 32, ksid: uuid.UUID = KSID) -> int:
    return asyncio.run(IndexFile(path, ksid).take(count, chunk))


def test_indexes_go_on(tmp_path: Path) -> None:
    path = tmp_path / "index"
    assert [take(path), take(path, 4), take(path), take(path)] == [0, 1, 5, 6]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == 2 * SLOT


@pytest.mark.parametrize("kept", range(0, SLOT, 7))
@pytest.mark.parametrize("taken", [2, 3])
def test_a_write_that_was_cut_short_leaves_the_one_before(tmp_path: Path, taken: int, kept: int) -> None:
    path = tmp_path / "index"
    for _ in range(taken):
        take(path)
    before = path.read_bytes()
    assert take(path) == taken
    after = path.read_bytes()
    slot = next(at for at in (0, SLOT) if before[at : at + SLOT] != after[at : at + SLOT])
    path.write_bytes(after[: slot + kept] + before[slot + kept :])
    # What the write would have confirmed was never used, so it may be taken now; nothing below it.
    assert take(path) in (taken, taken + 1)
    assert take(path) > taken


@pytest.mark.parametrize("content", [b"\n", b"17\n", bytes(SLOT), b"x" * 200])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "index"
    path.write_bytes(content)
    with pytest.raises(IndexesError, match="damaged; agree on new stream IDs"):
        take(path)
    assert path.read_bytes() == content


def test_the_file_of_another_stream_or_chunk_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index"
    take(path)
    with pytest.raises(IndexesError, match=r"give .* a file of its own"):
        take(path, ksid=uuid.UUID(int=2))
    with pytest.raises(IndexesError, match="had chunks of 32 bytes before, and now has 16"):
        take(path, chunk=16)
    assert take(path) == 1


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(IndexesError, match="no such file or directory"):
        take(tmp_path / "none" / "index")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IndexesError, match="symbolic link"):
        take(tmp_path / "link")
    with pytest.raises(IndexesError, match="is a directory"):
        take(tmp_path)


def test_who_comes_meanwhile_waits_for_the_lock(tmp_path: Path) -> None:
    path, other = tmp_path / "index", tmp_path / "other"
    take(path)
    take(other, 7)
    found: list[int] = []
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiting = threading.Thread(target=lambda: found.append(take(path)), daemon=True)
        waiting.start()
        waiting.join(0.3)  # so long it could go on, had it no lock
        file.write(other.read_bytes())
    waiting.join(60)
    assert found == [7]


def test_a_disk_that_hangs_takes_one_thread_and_none_of_those_that_look_up_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WRITE_LIMIT", 0.05)

    async def test() -> None:
        file = IndexFile(tmp_path / "index", KSID)
        with (tmp_path / "index").open("wb") as held:  # whose lock nobody gets: all that a disk can be made to do here
            fcntl.flock(held, fcntl.LOCK_EX)
            before = _thread._count()
            for number in range(40):
                with pytest.raises(IndexesError, match="hangs" if number else "did not answer"):
                    await file.take(1, 32)
            assert _thread._count() - before == 1
            async with asyncio.timeout(30):
                assert await asyncio.to_thread(lambda: 7) == 7
        assert file._running is not None
        await asyncio.wait({file._running}, timeout=30)
        assert await file.take(1, 32) == 1, "the index of the call that hung is lost"

    asyncio.run(test())


def test_in_memory() -> None:
    async def test() -> None:
        memory = IndexMemory(KSID)
        assert [await memory.take(2, 32), await memory.take(1, 32), memory.next] == [0, 2, 3]
        with pytest.raises(IndexesError):
            await memory.take(1, 16)

    asyncio.run(test())
