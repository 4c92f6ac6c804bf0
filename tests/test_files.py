"""Secret files are read only where nobody else can."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from qtunnel.errors import ConfigError, FilePermissionError
from qtunnel.files import MAX_SECRET_FILE, check_secret_file, others_may_change, read_secret_file, write_new_file


def test_a_private_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_new_file(path, b"hidden", mode=0o600)
    check_secret_file(path)
    assert bytes(read_secret_file(path).reveal()) == b"hidden"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o602, 0o644, 0o777])
def test_others_permissions_are_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    write_new_file(path, b"hidden", mode=mode)
    with pytest.raises(FilePermissionError, match=f"{path}.*chmod 600 {path}"):
        check_secret_file(path)
    with pytest.raises(FilePermissionError):
        read_secret_file(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_foreign_owner_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_new_file(path, b"hidden", mode=0o600)
    os.chown(path, 12345, 0)
    with pytest.raises(FilePermissionError, match="belongs to user 12345"):
        check_secret_file(path)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        check_secret_file(tmp_path / "missing")
    with pytest.raises(ConfigError, match="not a regular file"):
        check_secret_file(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        check_secret_file(tmp_path / "pipe")


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_new_file(path, bytes(MAX_SECRET_FILE + 1), mode=0o600)
    with pytest.raises(ConfigError, match="too large"):
        read_secret_file(path)


def test_a_new_file_has_its_mode_whatever_the_umask_and_never_replaces(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_new_file(tmp_path / "public", b"x", mode=0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o644
    with pytest.raises(FileExistsError):
        write_new_file(tmp_path / "public", b"y", mode=0o644)


@pytest.mark.parametrize(
    ("mode", "owner", "user", "sticky", "open_to_others"),
    [
        (0o755, 0, None, False, False),
        (0o700, 1000, 1000, False, False),
        (0o700, 1000, 1001, False, True),
        (0o700, 1000, 0, False, True),
        (0o720, 0, None, False, True),
        (0o702, 0, None, True, True),
        (0o1777, 0, None, False, True),
        (0o1777, 0, None, True, False),
        (0o1777, 1000, 1001, True, True),
    ],
)
def test_who_may_change_a_directory(
    mode: int, owner: int, user: int | None, sticky: bool, open_to_others: bool
) -> None:
    status = os.stat_result((mode, 1, 1, 1, owner, 0, 0, 0, 0, 0))
    assert others_may_change(status, sticky=sticky, user=user) is open_to_others


def test_a_directory_is_its_own_users(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert not others_may_change(tmp_path.stat())
