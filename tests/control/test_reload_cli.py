"""``qtunnel reload`` against a real control server, and what the status says of plain peers and of a refused file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qtunnel import constants
from qtunnel.control.messages import PlainPeerStatus, ReloadOutcome
from qtunnel.errors import ConfigError, QtunnelError
from tests.control.support import BLOCKED, NODE, Canned, Serving, peer, serving
from tests.control.test_cli import call, inside, words
from tests.control.test_cli import runtime as runtime

PHONE = PlainPeerStatus(name="phone", preshared_key=True, endpoint="203.0.113.9:51820", last_handshake_age_s=65.0)


def test_what_changed_is_told_a_line_each(server: Serving) -> None:
    server.canned.reloads = ReloadOutcome(
        file="/x",
        changes=["peer carol added", "peer bob changed: rekey.interval"],
        warnings=["peer bob: policy is off"],
    )
    code, output, errors = call("reload", "--socket", server.path)
    assert (code, errors) == (0, "")
    assert output.splitlines() == [
        "peer carol added", "peer bob changed: rekey.interval", "warning: peer bob: policy is off"
    ]  # fmt: skip
    code, output, _ = call("reload", "--json", "--socket", server.path)
    assert json.loads(output)["changes"][0] == "peer carol added"


def test_nothing_changed_is_good_too(server: Serving) -> None:
    code, output, _ = call("reload", "--socket", server.path)
    assert (code, output) == (0, "nothing has changed in /etc/qtunnel/alice.yaml\n")


def test_what_is_not_done_yet_makes_it_1(server: Serving) -> None:
    server.canned.reloads = ReloadOutcome(file="/x", changes=["peer carol added"], trouble=["engine x of qt0 refuses"])
    code, output, _ = call("reload", "--socket", server.path)
    assert code == 1
    assert "not done yet, it is tried again: engine x of qt0 refuses" in output


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x.yaml:3:1: peers: is missing\nx.yaml:9:1: log: unknown key"), 2),
        (QtunnelError("no reload now: the daemon is starting"), 1),
    ],
)
def test_a_refusal_has_its_reasons_and_its_code(server: Serving, error: QtunnelError, code: int) -> None:
    server.canned.reloads = error
    found, output, errors = call("reload", "--socket", server.path)
    assert (found, output) == (code, "")
    for line in str(error).splitlines():
        assert line in errors


def test_no_daemon_is_3(tmp_path: Path) -> None:
    assert call("reload", "--socket", tmp_path / "none")[0] == 3


def test_the_daemon_of_a_file_is_found_by_its_own_word(tmp_path: Path, runtime: Path) -> None:
    """The file may have errors by now, or name another socket: that is what the reload is to find out."""
    file = tmp_path / "broken.yaml"
    file.write_text("{")
    that = Canned()
    that.config = file
    that.reloads = ReloadOutcome(file=str(file), changes=["it was that one"])
    with serving(runtime / "other.sock"), serving(runtime / "that.sock", that):
        code, output = inside("reload", "--config", str(file))[:2]
        assert (code, output) == (0, "it was that one\n")
    assert str(runtime) == constants.DEFAULT_RUNTIME_DIRECTORY


def test_a_plain_peer_is_marked_and_counts_for_nothing(server: Serving) -> None:
    server.canned.plain_peers = [PHONE]
    code, output, _ = call("status", "--socket", server.path)
    assert code == 0, "bob is protected, and the phone has no policy"
    said = words(output)
    assert "plain peer phone: WireGuard only, without qtunnel's protection" in said
    assert "not post-quantum, no QKD" in said
    assert json.loads(call("status", "--json", "--socket", server.path)[1])["plain_peers"] == [PHONE.model_dump()]
    server.canned.peers = [peer(), BLOCKED]
    assert call("status", "--socket", server.path)[0] == 1, "nor does it make up for another"
    server.canned.peers = []
    code, output, _ = call("status", "--socket", server.path)
    assert code == 1
    assert "no peers are configured" not in output


def test_a_refused_file_is_told_until_a_good_one_is_loaded(server: Serving) -> None:
    refused = {"config_error": "a.yaml:3:1: is wrong\na.yaml:4:1: too", "config_error_age_s": 65.0}
    server.canned.node = NODE.model_copy(update=refused)
    code, output, _ = call("status", "--socket", server.path)
    assert code == 0, "what is in use protects as before"
    said = words(output)
    assert "a newer configuration was refused, the one before is in use (1 min 5 s ago):" in said
    assert "a.yaml:3:1: is wrong" in said
    assert "a.yaml:4:1: too" in said
