"""``qtunnel pad`` as people call it."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from qtunnel.drivers import file
from qtunnel.drivers.file_format import HEADER_SIZE


def qtunnel(*arguments: str, cwd: Path, most: int | None = None) -> subprocess.CompletedProcess[str]:
    """most: bytes that a file may have."""
    return subprocess.run(
        [sys.executable, "-m", "qtunnel", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=60, check=False,
        preexec_fn=None if most is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )  # fmt: skip


def drawn(cwd: Path, keys: int, skip: int = 0) -> list[bytes]:
    """What side a of the pad draws, all but the first ``skip`` of which side b of its copy is asked for."""

    async def draw() -> list[bytes]:
        ends = [file.Hub("pads", file.Options(ledger=cwd / name)) for name in ("ours", "theirs")]
        one = ends[0].for_peer(file.PeerOptions(pad=cwd / "link.pad", side="a"))
        other = ends[1].for_peer(file.PeerOptions(pad=cwd / "copy.pad", side="b"))
        made = [await one.get_key(32) for _ in range(keys)]
        for ref, key in made[skip:]:
            assert await other.get_key_by_id(ref) == key
        for end in ends:
            await end.close()
        return [bytes(key.reveal()) for _, key in made]

    return asyncio.run(draw())


def test_a_pad_is_made_and_shown(tmp_path: Path) -> None:
    made = qtunnel("pad", "new", "link.pad", "--size", "64kB", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    path = tmp_path / "link.pad"
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_size) == (0o600, HEADER_SIZE + 64_000)
    pad_id = made.stdout.strip()
    assert len(pad_id) == 32
    assert "wrote link.pad: 1000 keys of 32 bytes for side a, 1000 keys of 32 bytes for side b" in made.stderr
    assert "copy it to the other gateway by hand" in made.stderr
    shown = qtunnel("pad", "show", "link.pad", cwd=tmp_path)
    assert shown.returncode == 0
    assert shown.stdout.splitlines() == [
        f"pad {pad_id}, 64000 bytes",
        "not used yet: 1000 keys of 32 bytes for side a, 1000 keys of 32 bytes for side b",
    ]
    shutil.copy(path, tmp_path / "copy.pad")
    keys = drawn(tmp_path, 4, skip=1)
    ours = qtunnel("pad", "show", "link.pad", "--ledger", "ours", cwd=tmp_path)
    assert ours.returncode == 0
    assert ours.stdout.splitlines() == [
        f"pad {pad_id}, 64000 bytes",
        "used as side a",
        "left for this end, side a: 996 keys of 32 bytes",
        "left for the peer, side b: 1000 keys of 32 bytes of 1000 keys of 32 bytes",
        f"ledger: ours/{pad_id}-a.ledger, opened 1 times",
    ]
    theirs = qtunnel("pad", "show", "copy.pad", "--ledger", "theirs", cwd=tmp_path)
    assert "left for the peer, side a: 996 keys of 32 bytes of 1000 keys" in theirs.stdout
    assert "skipped by the peer: 32 bytes that it may still ask for, 0 bytes that are lost" in theirs.stdout
    for key in keys:
        assert key.hex() not in ours.stdout + theirs.stdout
    before = path.read_bytes()
    qtunnel("pad", "show", "link.pad", "--ledger", "ours", cwd=tmp_path)
    assert path.read_bytes() == before


def test_two_pads_differ_and_are_random(tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert qtunnel("pad", "new", name, "--size", "8kB", cwd=tmp_path).returncode == 0
    one, two = ((tmp_path / name).read_bytes() for name in ("one", "two"))
    assert one[12:28] != two[12:28]
    blocks = {data[at : at + 32] for data in (one, two) for at in range(HEADER_SIZE, HEADER_SIZE + 8000, 32)}
    assert len(blocks) == 500


def test_shares(tmp_path: Path) -> None:
    made = qtunnel("pad", "new", "link.pad", "--size", "100kB", "--share-a", "90%", cwd=tmp_path)
    assert "2812 keys of 32 bytes for side a, 313 keys of 32 bytes for side b" in made.stderr  # 89,984 and 10,016


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("new", "x.pad"), "Missing option '--size'"),
        (("new", "x.pad", "--size", "1000000"), "needs a unit"),
        (("new", "x.pad", "--size", "much"), "not an amount of bytes"),
        (("new", "x.pad", "--size", "100B"), "take from 4096 bytes"),
        (("new", "x.pad", "--size", "8kB", "--share-a", "50"), "needs its sign"),
        (("new", "x.pad", "--size", "8kB", "--share-a", "150%"), "from 0% to 100%"),
        (("new", "nowhere/x.pad", "--size", "8kB"), "nowhere/x.pad: cannot be written"),
        (("new", "made.pad", "--size", "8kB"), "made.pad: exists already"),
        (("show", "none.pad"), "none.pad: no such file"),
        (("show", "junk"), "junk: is not a pad; make one with: qtunnel pad new"),
        (("show", "open.pad"), "chmod 600 open.pad"),
        (("show", "cut.pad"), "was it copied as a whole?"),
        (("show", "."), "not a regular file"),
        (("burn",), "No such command"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    assert qtunnel("pad", "new", "made.pad", "--size", "8kB", cwd=tmp_path).returncode == 0
    for name, data in (
        ("junk", os.urandom(5000)),
        ("open.pad", (tmp_path / "made.pad").read_bytes()),
        ("cut.pad", (tmp_path / "made.pad").read_bytes()[:-1]),
    ):
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o644 if name == "open.pad" else 0o600)
    result = qtunnel("pad", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "x.pad").exists()


def test_a_disk_without_room_leaves_no_half_of_a_pad(tmp_path: Path) -> None:
    result = qtunnel("pad", "new", "x.pad", "--size", "1MB", cwd=tmp_path, most=100_000)
    assert result.returncode == 2
    assert "x.pad: cannot be written: File too large" in result.stderr
    assert not (tmp_path / "x.pad").exists()


def test_a_used_pad_without_its_ledger_and_with_an_older_one(tmp_path: Path) -> None:
    assert qtunnel("pad", "new", "link.pad", "--size", "8kB", cwd=tmp_path).returncode == 0
    shutil.copy(tmp_path / "link.pad", tmp_path / "copy.pad")
    drawn(tmp_path, 1)
    lost = qtunnel("pad", "show", "link.pad", "--ledger", "nowhere", cwd=tmp_path)
    assert (lost.returncode, "its ledger is not in nowhere; name the directory with --ledger" in lost.stderr) == (
        2,
        True,
    )
    shutil.copytree(tmp_path / "ours", tmp_path / "older")
    drawn(tmp_path, 1)
    older = qtunnel("pad", "show", "link.pad", "--ledger", "older", cwd=tmp_path)
    assert (older.returncode, "the ledger is older than the pad" in older.stderr) == (2, True)
