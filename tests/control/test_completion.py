"""Completion as a person at the Tab key meets it: real shells on a terminal, and a daemon's control socket."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from qtunnel import constants
from qtunnel.cli.completion import SHELLS
from qtunnel.cli.main import COMMANDS, SUMMARIES, cli
from tests.control.support import BLOCKED, SOURCES, Serving, peer, serving
from tests.support.terminal import terminal

PROGRAMS = Path(sys.executable).parent
"""Where ``qtunnel`` is, as installed."""

STARTS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(qtunnel completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'autoload -U compinit; compinit -u -D; eval "$(qtunnel completion zsh)"'),
    "fish": (["fish", "--no-config", "-i"], "qtunnel completion fish | source"),
}
LINES = [
    ("qtunnel stat\t", "qtunnel status"),
    ("qtunnel rekey --time\t", "qtunnel rekey --timeout"),
    ("qtunnel rekey {at} car\t", "{at} carol"),
    ("qtunnel sources clear {at} me\t", "{at} metro"),
    ("qtunnel check /etc/hostn\t", "qtunnel check /etc/hostname"),
]
"""What is typed, and what stands there then."""


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_commands_options_and_names(server: Serving, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell} (Debian: {shell})")
    server.canned.peers = [peer("berlin"), peer("bern"), BLOCKED]
    server.canned.key_sources = SOURCES
    command, load = STARTS[shell]
    environment = {
        "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "PS1": "> ", "HOME": str(server.path.parent), "LANG": "C.UTF-8",
        "XDG_DATA_HOME": str(server.path.parent / "data"), "XDG_CONFIG_HOME": str(server.path.parent / "config"),
    }  # fmt: skip
    at = f"--socket {server.path}"
    with terminal(*command, environment=environment, columns=150, lines=50) as screen:
        screen.type(f"{load}; echo it is lo''aded\n")
        screen.shows("it is loaded")
        for typed, completed in LINES if shell == "bash" else LINES[1:3]:  # the others get the same answers
            screen.type(typed.format(at=at))
            screen.shows(completed.format(at=at))
            screen.type("\x15clear\n")  # Ctrl-U
        screen.type(f"qtunnel status {at} be\t\t\t")
        screen.shows("berlin")
        screen.shows("bern")
        screen.type("\x15exit\n")
        screen.end()
        assert "Traceback" not in screen.raw


def complete(words: list[str], incomplete: str) -> list[str]:
    return [item.value for item in ShellComplete(cli, {}, "qtunnel", "").get_completions(words, incomplete)]


def test_no_daemon_and_no_permission_complete_nothing_and_say_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "DEFAULT_RUNTIME_DIRECTORY", str(directory))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_over:
        left_over.bind(str(directory / "old.sock"))
    for words in (["status"], ["rekey"], ["sources", "clear"], ["status", "--socket", "/nowhere"],
                  ["status", "--config", str(directory / "none.yaml")], ["audit", "show", "--peer"],
                  ["status", "--node", "../x"]):  # fmt: skip
        assert complete(words, "") == []
    assert capfd.readouterr() == ("", "")


def test_nodes_are_those_that_have_a_socket(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DEFAULT_RUNTIME_DIRECTORY", str(directory))
    with serving(directory / "alice.sock"), serving(directory / "anna.sock"):
        assert complete(["status", "--node"], "") == ["alice", "anna"]
        assert complete(["status", "--node"], "al") == ["alice"]
        assert complete(["status"], "") == [], "which of the two is not said"
        assert complete(["status", "--node", "alice"], "") == ["bob"]


def test_only_what_is_in_quarantine_can_be_cleared(server: Serving) -> None:
    words = ["sources", "clear", "--socket", str(server.path)]
    server.canned.key_sources = SOURCES
    assert complete(words, "") == ["metro", "backup", "spare"]
    server.canned.key_sources = [SOURCES[0], SOURCES[1].model_copy(update={"state": "in quarantine"})]
    assert complete(words, "") == ["backup"]


def test_the_list_of_commands_says_what_their_own_help_says() -> None:
    context = click.Context(cli)
    said = {}
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        said[name] = command.get_short_help_str(1000)
    assert said == SUMMARIES
    assert complete([], "s") == ["status", "sources", "steward"]
    assert "--version" in complete([], "--")
