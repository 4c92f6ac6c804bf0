"""``qtunnel audit``: what people see of a log, and what they are told where there is none."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from qtunnel.audit.chain import Chain
from qtunnel.audit.head import key_name
from qtunnel.auditlog.files import files_of
from qtunnel.auditlog.log import AuditLog, Entry, LogOptions
from qtunnel.auditlog.times import seconds_of
from qtunnel.cli.audit import audit
from qtunnel.errors import AuditError
from qtunnel.identity import Identity
from tests.audit.support import OTHER_KEY

BEGIN = seconds_of("2026-11-24T14:00:00.000Z")
EPOCH = {"protection": "qkd+pqc", "sources": ["x25519", "ml-kem-1024", "etsi014:metro"], "chained": True}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A gateway's files, with a log in two parts."""
    identity, peer = Identity.create(os.urandom), Identity.create(os.urandom)
    identity.save(tmp_path / "alice.identity")
    (tmp_path / "bob.public").write_text(peer.public.to_text())
    config = {
        "node": {"name": "alice", "identity": "alice.identity", "state_dir": "state"},
        "tunnel": {"interface": "qt0", "addresses": ["10.77.0.1/24"]},
        "peers": [{"name": "bob", "public": "bob.public", "allowed_ips": ["10.77.0.2/32"], "qkd": "off"}],
        "audit": {"path": "log/audit.jsonl", "rotate": "100kB", "on_failure": "stop"},
    }
    (tmp_path / "alice.yaml").write_text(json.dumps(config))
    (tmp_path / "state").mkdir()
    clock = iter(range(10**6))
    options = LogOptions(tmp_path / "log" / "audit.jsonl", 9_000, tmp_path / "state", "alice", "0.1")
    log = AuditLog(options, identity.audit_key(), lambda: BEGIN + next(clock) / 1000)
    log.open()
    log.add([Entry(BEGIN, "daemon.starting", None, {})])
    for number in range(60):
        fields = {**EPOCH, "epoch": number, "key_ids": [f"metro k{number}"]}
        log.add([Entry(BEGIN + 60 * number, "epoch.in-force", "bob", fields)])
        log.sync()
    log.close()
    assert len(files_of(options.path)) > 1
    return tmp_path


def ask(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(audit, [str(part) for part in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def files(site: Path) -> list[Path]:
    return files_of(site / "log" / "audit.jsonl")


def test_a_whole_log_is_said_to_be_so(site: Path) -> None:
    result = ask("verify", "--config", site / "alice.yaml")
    assert result.exit_code == 0
    assert result.output.startswith("as it was written: records 1 to ")
    assert "note" not in result.output
    document = json.loads(ask("verify", "--config", site / "alice.yaml", "--json").output)
    assert document["good"]
    assert document["keys"] == [ask("key", site / "alice.identity").output.strip()]


def test_each_tampering_is_named_with_file_and_line(site: Path, tmp_path: Path) -> None:
    path = files(site)[0]
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4].replace(b"qkd+pqc", b"pqc-qkd")
    del lines[7]
    lines[10], lines[14] = lines[14], lines[10]
    path.write_bytes(b"".join(lines))
    newest = files(site)[-1]
    newest.write_bytes(b"".join(newest.read_bytes().splitlines(keepends=True)[:-1]))
    result = ask("verify", "--config", site / "alice.yaml")
    assert result.exit_code == 1
    said = result.output.splitlines()
    assert f"{path}:5: changed: record 5 was changed" in said[0]
    assert f"{path}:8: removed: record 8 stood before this line, behind {path}:7" in said[1]
    assert f"{path}:11: moved: record 16 stands here out of its place" in said[2]
    assert f"{path}:15: moved: record 12 stands here out of its place" in said[3]
    assert f"{newest}:{newest.read_bytes().count(bytes([10]))}: cut off" in said[4]
    assert said[-1].startswith("NOT as it was written: 5 findings")


def test_a_head_that_was_kept_elsewhere_finds_what_the_state_directory_was_made_to_forget(site: Path) -> None:
    config, kept = site / "alice.yaml", site / "kept.head"
    early = (site / "state" / "audit.head").read_bytes()
    kept.write_text(ask("head", "--config", config).output)
    newest = files(site)[-1]
    newest.write_bytes(newest.read_bytes().splitlines(keepends=True)[0])
    (site / "state" / "audit.head").unlink()
    assert ask("verify", "--config", config).exit_code == 0
    result = ask("verify", "--config", config, "--head", kept)
    assert result.exit_code == 1
    assert f"{newest}:1: cut off: record" in result.output
    assert kept.read_bytes() == early


def test_without_a_key_it_says_that_it_believes_the_log(site: Path) -> None:
    result = ask("verify", *files(site))
    assert result.exit_code == 0
    assert "compared with nothing" in result.output
    assert "cut off at the end cannot be found" in result.output
    name = key_name(Identity.load(site / "alice.identity").audit_key().public)
    assert "compared" not in ask("verify", *files(site), "--key", name).output
    other = ask("verify", *files(site), "--key", "abcd-efgh")
    assert other.exit_code == 1
    assert "none of those that are to be trusted" in other.output


def test_show_says_what_protected_a_tunnel(site: Path) -> None:
    arguments = ("show", "--config", site / "alice.yaml", "--peer", "bob", "--at")
    said = ask(*arguments, "2026-11-24T14:05:30").output.splitlines()
    assert said[0] == "2026-11-24T14:05:30.000Z, tunnel with bob: QKD and post-quantum"
    assert said[1] == "  epoch 5 of x25519, ml-kem-1024, etsi014:metro, built on the epochs before"
    assert said[2] == "  QKD key metro k5"
    assert said[3] == "  since 2026-11-24T14:05:00.000Z, until 2026-11-24T14:06:00.000Z"
    found = json.loads(ask(*arguments, "2026-11-24T15:05:30+01:00", "--json").output)
    assert (found["epoch"], found["key_ids"], found["verified"]) == (5, ["metro k5"], True)
    assert "not known" in ask(*arguments, "2026-11-24T13:00").output


def test_show_warns_of_a_log_that_was_changed(site: Path) -> None:
    path = files(site)[0]
    path.write_bytes(path.read_bytes().replace(b"metro k5", b"metro k6", 1))
    result = ask("show", "--config", site / "alice.yaml", "--peer", "bob", "--at", "2026-11-24T14:05:30")
    assert result.exit_code == 1
    assert "not as it was written" in result.output


def test_what_a_forger_wrote_does_not_rule_the_terminal(site: Path) -> None:
    """A line that clears the screen would take the warning with it."""
    path, clears = site / "forged.jsonl", "\x1b[2J\x1b[8m\u202e"
    chain = Chain("alice", OTHER_KEY.public, OTHER_KEY.sign)
    lines = chain.open("2026-11-24T14:00:00.000Z", "0.1", clears, base64.b64encode(OTHER_KEY.public).decode())
    for number, kind in enumerate(("epoch.in-force", "peer.blocked")):
        fields = {**EPOCH, "epoch": 1, "sources": [clears], "key_ids": [clears], "detail": clears}
        lines += chain.append(f"2026-11-24T14:0{number + 1}:00.000Z", kind, "bob" + clears, fields)
    path.write_bytes(lines)
    for arguments in (
        ("verify", path), ("show", path, "--peer", "bob" + clears, "--at", "2026-11-24T14:01:30"),
        ("show", path, "--peer", "bob" + clears, "--at", "2026-11-24T14:02:00"),
    ):  # fmt: skip
        output = ask(*arguments, "--config", site / "alice.yaml").output
        assert "key" in output
        assert all(c.isprintable() or c == "\n" for c in output), output
    with pytest.raises(AuditError) as failure:
        ask("show", path, "--peer", "eve", "--at", "2026-11-24T14:02", "--config", site / "alice.yaml")
    assert str(failure.value).isprintable()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["show", "--peer", "eve", "--at", "2026-11-24T14:00"], "nothing of a peer 'eve'; it has: bob"),
        (["show", "--peer", "bob", "--at", "noon"], "write 2026-01-31T14:05"),
        (["verify", "--head", "alice.yaml"], "alice.yaml: not the head of an audit log"),
        (["verify", "--head", "missing"], "missing: cannot be read: no such file or directory"),
        (["verify", "missing"], "missing: cannot be read: no such file or directory"),
        (["verify", "."], "cannot be read: is a directory|not a regular file"),
    ],
)
def test_bad_input_is_an_error_with_its_remedy(
    site: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(site)
    with pytest.raises(AuditError, match=words) as failure:
        ask(*arguments, "--config", "alice.yaml")
    assert failure.value.exit_code == 2


def test_no_log_at_all_is_said(site: Path) -> None:
    assert "which log? give its files, or --config" in ask("verify").output
    for path in files(site):
        path.unlink()
    with pytest.raises(AuditError, match="no audit log there yet"):
        ask("verify", "--config", site / "alice.yaml")
