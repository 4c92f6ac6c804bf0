"""What survives a restart, and what a damaged file means."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from qtunnel.daemon.memory import EPOCH_BOUND, FILE, StateDirectory
from qtunnel.errors import ConfigError
from qtunnel.rekey.model import Memory

ALICE, BOB = b"\x01" * 64, b"\x02" * 64
KEPT = Memory(7, b"\x40" * 12, b"\x41" * 12, 9)


def opened(path: Path) -> tuple[StateDirectory, list[tuple[str, str]]]:
    told: list[tuple[str, str]] = []
    return StateDirectory(path, lambda kind, detail: told.append((kind, detail))), told


def test_what_is_remembered_is_there_after_a_restart_and_private(tmp_path: Path) -> None:
    state, _ = opened(tmp_path / "state")
    state.remember(ALICE, KEPT)
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
    state.remember(ALICE, Memory(1, lost=True))
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
        state.remember(ALICE, Memory(epoch))
    assert [kind for kind, _ in told] == ["state.unwritable"]
    assert state.of(ALICE).epoch == 2
