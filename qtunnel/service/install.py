"""Puts the service's files in place, or takes them away; says what it does, and what it would do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from qtunnel.errors import ServiceError
from qtunnel.service.places import HEADER, File

MODE = 0o644
RUNNING = Path("/run/systemd/system")
"""Is there where systemd is the init of this host (sd_booted(3))."""

HIDDEN = ("/home", "/root", "/run/user")
"""What ``ProtectHome=`` hides from the service."""

COMMAND_BOUND = 60.0
"""Seconds for one of systemd's own commands, which take one at most; they must not hang an installation."""

Say = Callable[[str], None]


def install(files: Iterable[File], *, dry_run: bool, say: Say) -> bool:
    """Whether anything was, or would be, changed. Raises ``ServiceError`` before anything is, where a file of somebody
    else's is in the way."""
    wanted = list(files)
    for file in wanted:
        if file.path.is_symlink() or (file.path.exists() and not _ours(file.path)):
            raise ServiceError(
                f"{file.path} is there and was not put there by qtunnel: remove it, or choose another place"
            )
    changed = [file for file in wanted if not file.path.exists() or file.path.read_text() != file.text]
    for file in changed:
        say(f"{'would write' if dry_run else 'write'} {file.path}")
        if not dry_run:
            _write(file)
    return bool(changed)


def uninstall(files: Iterable[File], *, dry_run: bool, say: Say) -> bool:
    """Whether anything was, or would be, removed: what has our header, and nothing else."""
    there = [file.path for file in files if file.path.is_file() and not file.path.is_symlink()]
    ours = [path for path in there if _ours(path)]
    for path in there:
        if path not in ours:
            say(f"leave {path}, which was not put there by qtunnel")
    for path in ours:
        say(f"{'would remove' if dry_run else 'remove'} {path}")
        if not dry_run:
            try:
                path.unlink()
            except OSError as error:
                raise ServiceError(f"{path}: {(error.strerror or str(error)).lower()}; run as root") from None
    return bool(ours)


def _ours(path: Path) -> bool:
    try:
        with path.open() as file:
            return file.readline() == HEADER
    except (OSError, UnicodeDecodeError):
        return False


def _write(file: File) -> None:
    new = file.path.with_name(f".{file.path.name}.new")
    try:
        file.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        new.write_text(file.text)
        new.chmod(MODE)
        new.replace(file.path)  # in one step: systemd may read it at any time
    except OSError as error:
        raise ServiceError(f"{file.path}: {(error.strerror or str(error)).lower()}; run as root") from None


def tell_systemd(files: Iterable[File], *, gone: bool, say: Say) -> None:
    """Have systemd make users and directories and read its units again; nothing where it is not this host's init."""
    if not RUNNING.is_dir():
        say("systemd does not run here: nothing is started")
        return
    for command in _commands(list(files), gone=gone):
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_BOUND, check=False)
        if done.returncode:
            raise ServiceError(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")


def _commands(files: list[File], *, gone: bool) -> Iterator[list[str]]:
    if not gone:
        for file in files:
            if file.path.parent.name == "sysusers.d":
                yield ["systemd-sysusers", str(file.path)]
        for file in files:
            if file.path.parent.name == "tmpfiles.d":
                yield ["systemd-tmpfiles", "--create", str(file.path)]
    yield ["systemctl", "daemon-reload"]


def running() -> list[str]:
    """The gateways that run now; none where systemd does not. Engines without one, as of a stop that was none of it."""
    if not RUNNING.is_dir():
        return []
    for pattern in ("qtunnel@*", "qtunnel-engine@*"):
        command = ["systemctl", "list-units", "--plain", "--no-legend", "--state=active,activating", pattern]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_BOUND, check=False)
        found = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
        if found:
            return found
    return []


def program_problem(program: Path) -> str | None:
    """Why the service could not run it, in words."""
    if not os.access(program, os.X_OK):
        return f"{program} is no program; name it with --program"
    for place in (program, program.resolve()):
        for hidden in HIDDEN:
            if place.is_relative_to(hidden):
                return f"{place} is below {hidden}, which the service does not see; install it elsewhere (make install)"
    return None
