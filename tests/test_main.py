"""What every command does alike: one line for an error, and an exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from qtunnel.cli.main import COMMANDS, cli
from tests.config.conftest import MINIMAL

FULL = Path("/dev/full")


def qtunnel(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qtunnel", *map(str, arguments)]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run(command, text=True, timeout=60, check=False, **given)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("arguments", [("identity", "show"), ("identity", "fingerprint"), ("--help",)])
def test_output_that_cannot_be_written_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    file = tmp_path / "alice.identity"
    assert qtunnel("identity", "new", file).returncode == 0
    with FULL.open("w") as full:
        done = qtunnel(*arguments, *([file] if len(arguments) > 1 else []), stdout=full)
    assert (done.returncode, done.stderr) == (1, "qtunnel: output cannot be written: no space left on device\n")


def test_a_reader_that_is_gone_is_no_error_to_speak_of() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = qtunnel("--help", stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("command", [("run", "--config"), ("kme", "serve"), ("check",)])
def test_several_errors_have_their_places_and_their_number(tmp_path: Path, command: tuple[str, ...]) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(MINIMAL if command[0] != "kme" else "kme_id: a\nlisten: nowhere\nsaes: []\n")
    done = qtunnel(*command, path)
    *places, last = done.stderr.splitlines()
    assert done.returncode == 2
    assert len(places) > 2
    assert all(line.startswith(f"{path}:") for line in places)
    assert last == f"qtunnel: {len(places)} errors in {path}"


def leaves(group: click.Group, *above: str) -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found += (
            leaves(command, *above, name) if isinstance(command, click.Group) else [(" ".join((*above, name)), command)]
        )
    return found


def test_no_command_leaves_an_unreadable_file_to_click_which_takes_three_lines() -> None:
    commands = leaves(cli)
    assert len(commands) > len(COMMANDS)
    checked = [
        (name, parameter.name)
        for name, command in commands
        for parameter in command.params
        if isinstance(parameter.type, click.Path) and parameter.type.readable
    ]
    assert checked == []


@pytest.mark.root
def test_an_unreadable_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(MINIMAL)
    path.chmod(0)
    as_others = [
        "setpriv",
        "--bounding-set=-dac_override,-dac_read_search",
        "--inh-caps=-dac_override,-dac_read_search",
    ]
    done = subprocess.run(
        [*as_others, sys.executable, "-m", "qtunnel", "check", str(path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"{path}: cannot be read: permission denied; run as its owner or as root\n"
