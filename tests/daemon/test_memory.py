"""What survives a restart, and what remembering it costs the disk."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from pathlib import Path

import pytest

from qtunnel.daemon import memory
from qtunnel.daemon.memory import FILE, StateDirectory
from qtunnel.daemon.records import Place
from qtunnel.rekey.model import Memory
from tests.daemon.memories import ALICE, BOB, KEPT, fails, opened, remember
from tests.daemon.memories import closed as closed  # a fixture


def test_what_is_remembered_is_there_after_a_restart_and_private(tmp_path: Path) -> None:
    state, _ = opened(tmp_path / "state")
    remember(state, ALICE, KEPT)
    again, told = opened(tmp_path / "state")
    assert again.of(ALICE) == KEPT
    assert again.of(BOB) == Memory()
    assert told == []
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / FILE).stat().st_mode) == 0o600


def test_a_change_costs_the_disk_a_line_however_many_peers_there_are(tmp_path: Path) -> None:
    state, _ = opened(tmp_path)
    for number in range(100):
        remember(state, bytes([number]) * 64, Memory(1))
    before = (tmp_path / FILE).stat().st_size
    remember(state, ALICE, KEPT)
    assert (tmp_path / FILE).stat().st_size - before < 1000
    again, told = opened(tmp_path)
    assert (again.of(ALICE), again.of(bytes([99]) * 64), told) == (KEPT, Memory(1), [])
    assert len((tmp_path / FILE).read_text().splitlines()) == 1 + 101, "a start writes it anew"


def test_changes_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LINES", 5)
    state, _ = opened(tmp_path)
    longest = 0
    for epoch in range(1, 50):
        remember(state, ALICE, Memory(epoch))
        longest = max(longest, len((tmp_path / FILE).read_text().splitlines()))
    assert 5 < longest <= 2 + 5 + memory.LINES_PER_PEER
    again, _ = opened(tmp_path)
    assert again.of(ALICE) == Memory(49)


def test_where_a_name_led_is_remembered_beside_the_epochs(tmp_path: Path) -> None:
    state, _ = opened(tmp_path)
    first, second = Place("gw.example", "192.0.2.1"), Place("gw.example", "2001:db8::1")
    asyncio.run(state.remember_place(ALICE, first))
    remember(state, BOB, KEPT)

    async def both() -> None:
        await asyncio.gather(state.remember_place(BOB, second), state.remember(ALICE, Memory(2)))

    asyncio.run(both())
    again, told = opened(tmp_path)
    assert told == []
    assert (again.place_of(ALICE), again.place_of(BOB)) == (first, second)
    assert (again.of(ALICE), again.of(BOB)) == (Memory(2), KEPT)
    assert again.place_of(b"\x03" * 64) is None


def test_many_places_at_once_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, _ = opened(tmp_path)
    written: list[memory.Job] = []
    real = StateDirectory._write

    def count(self: StateDirectory, job: memory.Job) -> None:
        written.append(job)
        real(self, job)

    monkeypatch.setattr(StateDirectory, "_write", count)
    place = Place("gw.example", "192.0.2.1")
    identities = [bytes([number]) * 64 for number in range(200)]

    async def all_of_them() -> None:
        await asyncio.gather(*(state.remember_place(identity, place) for identity in identities))

    asyncio.run(all_of_them())
    assert len(written) <= 2
    again, _ = opened(tmp_path)
    assert all(again.place_of(identity) == place for identity in identities)


def test_a_place_that_is_known_costs_no_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, told = opened(tmp_path)
    asyncio.run(state.remember_place(ALICE, Place("gw.example", "192.0.2.1")))
    monkeypatch.setattr(os, "fsync", fails(errno.EIO))
    asyncio.run(state.remember_place(ALICE, Place("gw.example", "192.0.2.1")))
    assert told == []
