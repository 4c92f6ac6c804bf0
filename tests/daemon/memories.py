"""State directories as one process after the other finds them, and what tests put there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from hashlib import sha512
from pathlib import Path

import pytest

from qtunnel.daemon.memory import StateDirectory
from qtunnel.rekey.model import Memory

ALICE, BOB, CAROL, DAVE = (sha512(name).digest() for name in (b"alice", b"bob", b"carol", b"dave"))
ENTRY = {"epoch": 1, "sent": "00" * 12, "seen": "00" * 12}
KEPT = Memory(
    7, b"\x40" * 12, b"\x41" * 12, 9, held=(("backup", 3), ("metro", 60)), stored=1_700_000_000_000,
)  # fmt: skip


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
    state = StateDirectory(path, lambda kind, detail: told.append((kind, detail)), {ALICE: "alice"})
    _open.append(state)
    return state, told


def remember(state: StateDirectory, identity: bytes, kept: Memory) -> None:
    asyncio.run(state.remember(identity, kept))


def fails(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail
