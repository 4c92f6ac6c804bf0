"""The files of keys agreed ahead: what a kill between any two steps leaves, and what of a file is used at a start."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from qtunnel.daemon import stores as module
from qtunnel.daemon.memory import StateDirectory
from qtunnel.daemon.stores import PREFIX, Stores, file_name, take_leave
from qtunnel.files import write_all
from qtunnel.keys.stored import Image, StoredKey
from qtunnel.rekey.ahead import Kept
from qtunnel.rekey.model import Keep, Memory, Notice, PeerSettings
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef
from tests.rekey.gateways import IDENTITIES, node, now, settings

KEY = Secret(bytes(range(32)))
OWN, BOB = IDENTITIES["hub"].public.id, IDENTITIES["b"].public.id
T = TypeVar("T")


class KilledError(Exception):
    """The process ends at this step."""


def image(*names: str) -> Image:
    own = tuple(StoredKey(KeyRef("metro", name, 32), Secret(name.encode().ljust(32, b"!")), 1, 2) for name in names)
    return Image(b"12345678", None, own, ())


def keep(generation: int, *names: str, used: bool = True, remove: bool = False) -> Keep:
    return Keep("b", generation, None if remove else image(*names), used, KEY, (OWN, BOB))


def of(key: Secret | None = KEY) -> PeerSettings:
    return settings("b", store_key=key)


class Disk:
    """Files of one peer; the events that were told, and the steps that were done."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / file_name(BOB)
        self.told: list[tuple[str, str]] = []
        self.steps: list[str] = []
        self.kill_at: int | None = None
        self.stores = Stores(directory, self._publish, self._step)

    def _publish(self, kind: str, peer: str | None = None, **fields: object) -> None:
        self.told.append((kind, str(fields["detail"])))

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if self.kill_at is not None and len(self.steps) > self.kill_at:
            raise KilledError

    def keep(self, effect: Keep) -> bool:
        return run(self.stores.keep(effect))

    def load(self, stored: int, key: Secret | None = KEY, held: int = 0) -> Kept:
        """As the next process does."""
        memory = Memory(1, stored=stored, held=(("metro", held),) if held else ())
        return run(Stores(self.directory, self._publish).load(of(key), memory, OWN))

    def names(self, stored: int) -> list[str] | None:
        kept = self.load(stored).image
        return None if kept is None else [entry.ref.key_id for entry in kept.own]


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 60))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_what_is_kept_is_there_and_private(disk: Disk) -> None:
    effect = keep(5, "one", "two")
    assert disk.keep(effect)
    assert disk.names(5) == ["one", "two"]
    assert effect.image is not None
    assert all(entry.key.wiped for entry in effect.image.own)
    assert stat.S_IMODE(disk.path.stat().st_mode) == 0o600
    assert [path.name for path in disk.directory.iterdir()] == [file_name(BOB)]
    assert disk.told == []


def test_killed_between_any_two_steps_it_has_the_file_of_before_or_the_new_one(tmp_path: Path) -> None:
    """And never a key that was used: what is kept without it counts only once it is there as a whole."""
    seen = set()
    for at in range(20):
        (tmp_path / str(at)).mkdir()
        disk = Disk(tmp_path / str(at))
        disk.keep(keep(5, "used", "other"))
        disk.steps.clear()
        disk.kill_at = at
        try:
            disk.keep(keep(6, "other"))
        except KilledError:
            found = disk.names(5)  # the state file was not told yet
            assert found in (["used", "other"], ["other"])
            seen.add((disk.steps[-1], tuple(found)))
        else:
            assert disk.names(6) == ["other"]
            break
    assert seen == {
        ("cleared", ("used", "other")),
        ("written in part", ("used", "other")),
        ("synced", ("used", "other")),
        ("renamed", ("other",)),
        ("directory synced", ("other",)),
    }


def test_the_disk_has_it_before_its_name_leads_to_it_and_before_it_counts(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a power cut leaves what a kill leaves."""
    done: list[str] = []
    sync, replace_file = os.fsync, os.replace

    def synced(file: int) -> None:
        done.append("directory" if stat.S_ISDIR(os.fstat(file).st_mode) else f"{os.fstat(file).st_size} bytes")
        sync(file)

    def replaced(old: Path, new: Path) -> None:
        done.append("replaced")
        replace_file(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    disk.keep(keep(5, "one"))
    assert done == [f"{disk.path.stat().st_size} bytes", "replaced", "directory"]
    done.clear()
    disk.keep(keep(6, remove=True))
    assert done == ["directory"]


def test_what_a_killed_process_left_half_written_is_in_nobodys_way(disk: Disk) -> None:
    disk.keep(keep(5, "one"))
    disk.path.with_name(f"{disk.path.name}.new").write_bytes(b"half")
    disk.keep(keep(6, "two"))
    assert disk.names(6) == ["two"]


def test_an_old_copy_is_refused(disk: Disk) -> None:
    disk.keep(keep(5, "one"))
    copy = disk.path.read_bytes()
    disk.keep(keep(6, "two"))
    disk.path.write_bytes(copy)
    assert disk.names(6) is None
    assert disk.told[0][0] == "reservoir.refused"
    assert "old copy, whose keys were used since: the state file knows of a newer one" in disk.told[0][1]
    assert str(disk.path) in disk.told[0][1]


def test_a_file_that_is_ahead_of_the_state_file_is_used(disk: Disk) -> None:
    disk.keep(keep(7, "one"))
    assert disk.names(5) == ["one"]


@pytest.mark.parametrize(
    "spoil", ["cut", "empty", "changed", "foreign key", "gone", "directory", "fifo", "huge", "unknown"]
)
def test_a_file_that_cannot_be_used_is_named_and_its_keys_are_lost(disk: Disk, spoil: str) -> None:
    disk.keep(keep(5, "one"))
    content, key, stored = disk.path.read_bytes(), KEY, 5
    said = "does not open"
    if spoil == "cut":
        disk.path.write_bytes(content[:-5])
    elif spoil == "empty":
        disk.path.write_bytes(b"")
        said = "it is empty"
    elif spoil == "changed":
        disk.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif spoil == "foreign key":
        key = Secret(bytes(32))
    elif spoil == "huge":
        os.truncate(disk.path, 1 << 30)
        said = "more than 16 MiB"
    elif spoil == "unknown":
        stored, said = 0, "the state file knows of none"
    else:
        disk.path.unlink()
        said = "it is gone" if spoil == "gone" else "it cannot be read" if spoil == "directory" else "it is empty"
        if spoil == "directory":
            disk.path.mkdir()
        elif spoil == "fifo":
            os.mkfifo(disk.path)
    kept = disk.load(stored, key, held=1)
    assert kept.image is None
    assert said in kept.why
    assert [kind for kind, _ in disk.told] == ["reservoir.refused"]
    assert said in disk.told[0][1]
    assert disk.told[0][1].isprintable()


def test_where_nothing_was_kept_nothing_is_told(disk: Disk) -> None:
    for stored, key in ((0, KEY), (5, KEY), (0, None), (5, None)):
        assert disk.load(stored, key).image is None
    assert disk.told == []


def test_a_full_disk_lets_go_of_the_file_and_the_tunnel_goes_on(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.keep(keep(5, "used"))

    def full(file: int, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_all", full)
        assert disk.keep(keep(6, "other")), "no key of it can come back"
        assert disk.keep(keep(7, "other"))
    assert list(disk.directory.iterdir()) == []
    assert disk.told == [("state.unwritable", f"{disk.path}: no space left on device")]
    assert not disk.stores.withheld("b")
    disk.keep(keep(8, "other"))
    assert disk.names(8) == ["other"]


def test_a_disk_that_keeps_the_file_withholds_what_rests_on_a_used_key(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.keep(keep(5, "used"))

    def refuses(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_all", refuses)
        patch.setattr(Path, "unlink", refuses)
        assert disk.keep(keep(6, "used", "more", used=False)), "nothing was used"
        assert not disk.stores.withheld("b")
        assert not disk.keep(keep(7, "more"))
        assert disk.stores.withheld("b")
        assert not disk.stores.withheld("c")
        assert disk.keep(keep(8, used=False)), "nothing is left that could be used"
        assert not disk.stores.withheld("b")
    assert len(disk.told) == 1
    disk.keep(keep(9, "new"))
    assert disk.names(9) == ["new"]


def test_a_disk_that_hangs_is_not_waited_for_and_writes_nothing_old_later(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def hangs(file: int, content: bytes) -> None:
        release.wait(50)
        write_all(file, content)

    async def test() -> None:
        monkeypatch.setattr(module, "WRITE_LIMIT", 0.1)
        monkeypatch.setattr(module, "write_all", hangs)
        assert not await disk.stores.keep(keep(6, "one"))
        again = keep(7, "two")
        assert not await disk.stores.keep(again)
        assert again.image is not None
        assert again.image.own[0].key.wiped
        monkeypatch.setattr(module, "WRITE_LIMIT", 50.0)
        release.set()
        while disk.stores._busy:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert await disk.stores.keep(keep(8, "three"))

    run(test())
    assert disk.names(8) == ["three"]
    assert disk.told == [("state.unwritable", f"{disk.path}: the disk takes longer than 0.1 s")]


def test_what_is_of_no_peer_any_more_is_removed(disk: Disk) -> None:
    disk.keep(keep(5, "one"))
    other = disk.directory / f"{PREFIX}{'0' * 32}"
    for path in (other, other.with_name(f"{other.name}.new"), disk.directory / "peers.json"):
        path.write_bytes(b"x")
    run(disk.stores.sweep([of()]))
    assert {path.name for path in disk.directory.iterdir()} == {file_name(BOB), "peers.json"}
    run(disk.stores.sweep([of(None)]))
    assert {path.name for path in disk.directory.iterdir()} == {"peers.json"}


def test_a_clean_end_tells_once_what_is_lost_with_it(disk: Disk) -> None:
    """What is kept is not lost, and what was told is not told at the next start again."""
    held = (("metro", 7),)

    async def test() -> None:
        told: list[Notice] = []
        for key, lost in ((None, [7]), (KEY, [])):
            state = StateDirectory(disk.directory, lambda kind, detail: None)
            await state.remember(BOB, Memory(3, held=held))
            core = node("hub")
            core.add_peer(of(key), Memory(3), now(0.0))
            core.peers["b"].context.memory = Memory(3, held=held)
            told.clear()
            await take_leave(core, state, told.append)
            assert [notice.fields["number"] for notice in told] == lost
            assert core.peers == {}
            assert state.of(BOB).held == (() if lost else held)
            state.close()

    run(test())


def test_it_is_removed_where_it_is_not_wanted(disk: Disk) -> None:
    disk.keep(keep(5, "one"))
    assert disk.keep(keep(6, remove=True))
    assert list(disk.directory.iterdir()) == []
    assert replace(keep(6), image=None) == keep(6, remove=True)
