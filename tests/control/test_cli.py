"""``qtunnel status`` and ``qtunnel rekey`` against a real control server with answers from a can."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from qtunnel import constants
from qtunnel.cli.main import cli
from qtunnel.control.messages import RekeyOutcome
from qtunnel.control.words import PROTECTION_WORDS, amount, due, duration, next_rekey
from qtunnel.errors import QtunnelError
from tests.config.conftest import MINIMAL
from tests.control.support import BLOCKED, SOURCES, Canned, Serving, peer, serving

COMMAND = [sys.executable, "-m", "qtunnel"]


def call(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the program as users run it; its errors are one line."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def inside(*arguments: str) -> tuple[int, str]:
    """The same without a process of its own: exit code and everything said."""
    result = CliRunner().invoke(cli, list(arguments), env={"COLUMNS": "200"})
    if isinstance(result.exception, QtunnelError):
        return result.exception.exit_code, str(result.exception)
    return result.exit_code, result.output


def words(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.fixture
def runtime(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "DEFAULT_RUNTIME_DIRECTORY", str(directory))
    return directory


def test_protected_exits_0_and_says_what_protects(server: Serving) -> None:
    code, output, errors = call("status", "--socket", server.path)
    assert (code, errors) == (0, "")
    said = words(output)
    for expected in (
        "alice is up: interface qt0, engine qtunnel (pid 42), for 1 h 2 min",
        "fingerprint abcd-efgh",
        "peer bob: protected",
        "QKD and post-quantum (qkd policy: required)",
        "epoch 7 installed and in force",
        "x25519, ml-kem-1024, etsi014:metro, chained to the epoch before",
        "key_ID metro 8e3f-11",
        "age 1 min 5 s of at most 10 min, expires in 8 min 55 s",
        "next rekey in 55 s",
        "rekeys 7 done, 0 failed",
        "endpoint 10.99.0.2:51820, WireGuard handshake 1 min 5 s ago",
        "rekeys at 10.99.0.2:51821",
        "transfer 1.4 MB received, 900 B sent",
    ):
        assert expected in said


def test_one_peer_that_is_not_protected_makes_it_1(server: Serving) -> None:
    server.canned.peers = [peer(), BLOCKED]
    server.canned.key_sources = SOURCES
    code, output, _ = call("status", "--socket", server.path)
    assert code == 1
    said = words(output)
    for expected in (
        "peer carol: NOT protected as policy asks",
        "blocked, no traffic passes",
        "7 installed, none in force",
        "overdue by 4 s",
        "last error metro: enc_keys: 503, no key available (3 s ago)",
        "metro healthy etsi014:metro: 1000 keys stored",
        "backup FAILING etsi014:backup: connection refused",
        "spare not asked yet file:spare",
    ):
        assert expected in said
    assert call("status", "bob", "--socket", server.path)[0] == 0
    assert call("status", "carol", "--socket", server.path)[0] == 1


def test_no_peers_protect_nothing(server: Serving) -> None:
    server.canned.peers = []
    code, output, _ = call("status", "--socket", server.path)
    assert code == 1
    assert "no peers are configured, so nothing is protected" in output


def test_markup_in_names_is_shown_as_it_is(server: Serving) -> None:
    server.canned.peers = [peer("[red]bob[/]", last_error="[bold]no[/] [/]")]
    _, output, _ = call("status", "--socket", server.path)
    assert "peer [red]bob[/]: protected" in output
    assert "[bold]no[/] [/]" in output


def test_json_is_the_whole_status(server: Serving) -> None:
    code, output, _ = call("status", "--json", "--socket", server.path)
    assert code == 0
    document = json.loads(output)
    assert document["version"] == 1
    assert document["node"]["name"] == "alice"
    assert document["peers"][0]["key_ids"] == [{"source": "metro", "key_id": "8e3f-11"}]
    assert document["peers"][0]["last_error"] is None


def test_an_unknown_peer_is_wrong_usage(server: Serving) -> None:
    for command in ("status", "rekey"):
        code, output, errors = call(command, "eve", "--socket", server.path)
        assert (code, output) == (2, "")
        assert errors == "qtunnel: no peer 'eve'; there are: bob\n"


def test_no_daemon_is_3(directory: Path) -> None:
    for arguments in (("status",), ("rekey", "bob")):
        code, output, errors = call(*arguments, "--socket", directory / "none")
        assert (code, output) == (3, "")
        assert str(directory / "none") in errors
        assert "qtunnel run --config FILE" in errors
        assert errors.count("\n") == 1


@pytest.mark.parametrize("arguments", [("status", "--bogus"), ("rekey",), ("status", "--socket", "a", "--node", "b")])
def test_wrong_usage_is_2(arguments: tuple[str, ...]) -> None:
    assert inside(*arguments)[0] == 2


def test_the_only_daemon_is_found(runtime: Path) -> None:
    with serving(runtime / "alice.sock"):
        assert inside("status")[0] == 0
        assert inside("status", "--node", "alice")[0] == 0
        assert inside("rekey", "bob")[0] == 0


def test_a_configuration_finds_its_daemon_without_the_files_that_it_names(tmp_path: Path) -> None:
    """An operator who may use the socket need not be able to read the identity."""
    file = tmp_path / "alice.yaml"
    file.write_text(MINIMAL.replace("  name: alice\n", "  name: alice\n  control_socket: a.sock\n"))
    with serving(tmp_path / "a.sock"):
        code, output = inside("status", "--config", str(file))
    assert code == 0, output


def test_a_stale_socket_beside_it_does_not_confuse(runtime: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_over:
        left_over.bind(str(runtime / "old.sock"))
    with serving(runtime / "alice.sock"):
        assert inside("status")[0] == 0


def test_several_daemons_are_named(runtime: Path) -> None:
    with serving(runtime / "alice.sock"), serving(runtime / "bob.sock"):
        code, said = inside("status")
        assert code == 2
        assert "several daemons run here (alice, bob); select one with --node NAME" in said
        assert inside("status", "--node", "bob")[0] == 0


def test_no_daemon_at_all_is_3(runtime: Path) -> None:
    code, said = inside("status")
    assert code == 3
    assert f"no control socket in {runtime}" in said
    for name in ("a", "b"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_over:
            left_over.bind(str(runtime / f"{name}.sock"))
    code, said = inside("status")
    assert code == 3
    assert "a.sock" in said
    assert "b.sock" in said


def test_a_path_is_no_node_name(runtime: Path) -> None:
    code, said = inside("status", "--node", "../x")
    assert code == 2
    assert "--socket" in said


def test_rekey_reports_the_outcome(server: Serving) -> None:
    code, output, _ = call("rekey", "bob", "--socket", server.path)
    assert code == 0
    assert output == "bob: epoch 8 agreed in 41 ms from x25519, ml-kem-1024, etsi014:metro; metro key_ID 8e3f-12\n"
    code, output, _ = call("rekey", "bob", "--json", "--socket", server.path)
    assert code == 0
    assert RekeyOutcome.model_validate_json(output) == server.canned.outcome


def test_a_failed_rekey_is_1(server: Serving) -> None:
    server.canned.outcome = RekeyOutcome(
        peer="bob",
        ok=False,
        protected=True,
        protection="qkd+pqc",
        duration_ms=5000.2,
        error="metro: enc_keys: 503",
    )
    code, output, _ = call("rekey", "bob", "--socket", server.path)
    assert code == 1
    assert output == "bob: rekey failed after 5000 ms: metro: enc_keys: 503; now QKD and post-quantum\n"
    assert call("rekey", "bob", "--json", "--socket", server.path)[0] == 1


def test_a_rekey_below_the_policy_is_1(server: Serving) -> None:
    server.canned.outcome = server.canned.outcome.model_copy(update={"protected": False, "protection": "pqc-only"})
    code, output, _ = call("rekey", "bob", "--socket", server.path)
    assert code == 1
    assert output.endswith("; NOT protected as policy asks\n")


def test_watch_in_json_gives_a_line_per_look_and_ends_on_ctrl_c(server: Serving) -> None:
    with subprocess.Popen(
        [*COMMAND, "status", "--watch", "--json", "--socket", str(server.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["peers"][0]["protected"] is True
        server.canned.peers = [BLOCKED]
        for line in process.stdout:
            if not json.loads(line)["peers"][0]["protected"]:
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (1, "")


def test_watch_into_a_pipe_is_one_status_after_the_other_and_ends_with_a_whole_line(server: Serving) -> None:
    command = [*COMMAND, "status", "--watch", "--socket", str(server.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = ""
        while said.count("transfer") < 2:
            said += process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert (said + rest).endswith("\n")


def test_watch_ends_with_3_when_the_daemon_goes(directory: Path) -> None:
    with serving(directory / "s", Canned()) as started:
        process = subprocess.Popen(
            [*COMMAND, "status", "--watch", "--json", "--socket", str(started.path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 3
    assert errors.startswith("qtunnel: no daemon: ")
    assert errors.count("\n") == 1


def test_durations_and_amounts_in_words() -> None:
    assert [duration(value) for value in (None, 0, 0.4, 59, 60, 3601, 90061, -5, -0.1)] == [
        "-",
        "0 s",
        "0 s",
        "59 s",
        "1 min",
        "1 h",
        "1 d 1 h",
        "-5 s",
        "0 s",
    ]
    assert [due(value) for value in (None, 5, -61)] == ["-", "in 5 s", "overdue by 1 min 1 s"]
    assert [amount(value) for value in (0, 999, 1000, 1_500_000, 2 * 10**15)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.5 MB",
        "2000.0 TB",
    ]


def test_the_next_rekey_says_whose_turn_it_is() -> None:
    def shown(**changes: Any) -> str:
        return next_rekey(peer(**changes))

    assert shown() == "in 55 s"
    assert shown(next_rekey_s=None) == "under way"
    assert shown(next_rekey_s=-4.0) == "overdue by 4 s"
    assert shown(role="responder", next_rekey_s=202.0) == "the peer's turn; this end takes over in 3 min 22 s"
    assert shown(role="responder", next_rekey_s=-1.0) == "the peer's turn; this end takes over now"
    assert shown(role="responder", next_rekey_s=None) == "the peer's turn"


def test_every_protection_has_words() -> None:
    field = RekeyOutcome.model_fields["protection"].annotation
    assert set(PROTECTION_WORDS) == set(field.__args__)  # type: ignore[union-attr]  # a Literal
