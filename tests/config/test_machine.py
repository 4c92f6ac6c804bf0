"""What keeps a good configuration from running here, as ``qtunnel check`` tells it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from qtunnel.auditlog.files import LogFileWriter
from qtunnel.cli.check import check
from qtunnel.cli.machine import _is_the_kernels
from qtunnel.control.socket_file import take_socket
from qtunnel.daemon.memory import _open_directory
from qtunnel.drivers.file_make import make_pad
from qtunnel.errors import AuditError, ConfigError, ControlError, QtunnelError
from qtunnel.kme.pki import create_pki
from tests.config.conftest import MINIMAL

Check = Callable[[str], tuple[int, str]]


@pytest.fixture
def checked(site: Path, write: Callable[[str], Path]) -> Check:
    """Exit code and everything said, on a site with real certificates."""
    for file in (site / "pki").iterdir():
        file.unlink()
    create_pki(site / "pki", now=datetime.now(UTC))
    (site / "file").write_text("")

    def run(text: str) -> tuple[int, str]:
        result = CliRunner().invoke(check, [str(write(text))])
        return result.exit_code, result.output.replace(f"{site}/", "")

    return run


BASE = MINIMAL.replace("name: alice", "name: alice\n  state_dir: state\n  control_socket: alice.sock")


def test_a_file_that_a_daemon_could_run_on_is_good(site: Path, checked: Check) -> None:
    code, said = checked(BASE)
    assert (code, "warning" in said) == (0, False), said
    assert not (site / "state").exists(), "a check changes nothing"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("interface: qt0", "interface: lo", ":7:14: tunnel.interface: is a name that the kernel uses itself"),
        ("10.77.0.1/24", "10.77.0.0/24", ":8:15: tunnel.addresses[0]: is the network itself; write the address of"),
        ("10.77.0.1/24", "10.77.0.255/24", "tunnel.addresses[0]: is the broadcast address"),
        ("10.77.0.1/24", '"fd77::/64"', "such as fd77::1/64"),
        ("interface: qt0", "interface: qt0\n  engine: boringtun-cli", "tunnel.engine: engine boringtun-cli: program"),
        ("state_dir: state", "state_dir: file/state", ":3:14: node.state_dir: file is no directory"),
        ("state_dir: state", "state_dir: /proc/qtunnel", "node.state_dir: /proc belongs to the kernel"),
        ("control_socket: alice.sock", "control_socket: file/a.sock", ":4:19: node.control_socket: file is no dir"),
        ("control_socket: alice.sock", "control_socket: file", "node.control_socket: file is there and no socket"),
        (
            "private_key: pki/sae-alice.key", "private_key: pki/sae-bob.key",
            ":16:18: key_sources.metro.private_key: pki/sae-bob.key: not the private key of pki/sae-alice.pem",
        ),
        ("ca: pki/ca.pem", "ca: none.pem", ":14:9: key_sources.metro.ca: no such file: none.pem"),
    ],
)  # fmt: skip
def test_what_the_daemon_would_stumble_over_has_its_place(
    checked: Check, monkeypatch: pytest.MonkeyPatch, old: str, new: str, expected: str
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert old in BASE
    code, said = checked(BASE.replace(old, new))
    assert code == 2
    assert said.startswith("node.yaml:")
    assert expected in said
    assert len(said.splitlines()) == 1, said


@pytest.mark.parametrize(
    ("path", "kernels"),
    [("/sys", True), ("/sys/fs", True), ("/proc/self", True), ("/sysroot", False), ("/processes/a", False)],
)
def test_a_directory_is_the_kernels_by_its_place_and_not_by_how_it_is_spelt(path: str, kernels: bool) -> None:
    assert _is_the_kernels(Path(path)) == kernels


def test_a_host_in_a_network_of_two_may_have_either_address(checked: Check) -> None:
    assert checked(BASE.replace("10.77.0.1/24", "10.77.0.0/31"))[0] == 0


def test_an_sae_id_that_is_not_in_the_certificate_is_a_warning(checked: Check) -> None:
    code, said = checked(BASE.replace("sae_id: sae-alice", "sae_id: sae-carol"))
    assert code == 0
    assert "warning: key source metro: pki/sae-alice.pem names sae-alice" in said
    assert "not sae_id sae-carol" in said


@pytest.mark.parametrize("driver", ["etsi041", "something-else"])
def test_an_unknown_driver_does_not_hide_what_else_is_wrong(checked: Check, driver: str) -> None:
    text = (
        BASE.replace("driver: etsi014", f"driver: {driver}").replace("https:", "http:").replace("sae_id:", "saeid:", 1)
    )
    code, said = checked(text)
    assert code == 2
    for words in ("metro.driver: no driver of that name", "metro.url: is http", "unknown key 'saeid'"):
        assert words in said


PAD = """
key_sources:
  courier: {driver: file, ledger: ledger}
peers:
  - name: bob
    public: bob.public
    allowed_ips: [10.77.0.2/32]
    qkd: {sources: {courier: {pad: link.pad, side: a}}}
"""


def test_a_pad_that_cannot_be_drawn_from_has_its_place(site: Path, checked: Check) -> None:
    text = BASE.partition("key_sources:")[0] + PAD
    place = "node.yaml:16:36: peers[0].qkd.sources.courier.pad: link.pad: "
    assert checked(text)[1].startswith(f"{place}no such file; make one with: qtunnel pad new")
    (site / "link.pad").write_bytes(b"no pad")
    (site / "link.pad").chmod(0o600)
    assert checked(text)[1].startswith(f"{place}is not a pad")
    (site / "link.pad").unlink()
    make_pad(site / "link.pad", 8192, 4096, os.urandom)
    code, said = checked(text)
    assert (code, "key source courier: file" in said) == (0, True), said
    assert not (site / "ledger").exists(), "a check changes nothing"
    (site / "link.pad").chmod(0o640)
    assert checked(text)[1].startswith(f"{place}others may use this secret file")
    second = PAD.partition("peers:\n")[2].replace("bob\n", "hub\n").replace("0.2/32", "0.3/32")
    (site / "link.pad").chmod(0o600)
    code, said = checked(text + second.replace("bob.public", "hub.public"))
    assert code == 2
    assert said.count("this pad stands here twice") == 2


def test_a_program_that_others_could_replace_has_its_place(site: Path, checked: Check) -> None:
    path = site / "getkey"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o777)
    source = f"key_sources:\n  vendor: {{driver: exec, command: [{path}, '{{call}}', '{{key_id}}', --token=abc]}}\n"
    peers = PAD.partition("peers:\n")[2].replace("courier: {pad: link.pad, side: a}", "vendor: {peer: bob}")
    text = BASE.partition("key_sources:")[0] + source + "peers:\n" + peers
    code, said = checked(text)
    assert (code, said.partition(" key_sources")[0]) == (2, "node.yaml:10:3:")
    assert "getkey: can be written by others; chmod go-w" in said
    path.chmod(0o755)
    code, said = checked(text)
    assert code == 0, said
    assert "warning: key source vendor: argument 3 of getkey looks like a secret" in said
    assert "abc" not in said


def test_the_files_of_reports_are_opened(site: Path, checked: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(ca: str) -> tuple[int, str]:
        return checked(BASE + f'mqtt: {{broker: "mqtts://broker.example.org:8883", ca: {ca}}}\n')

    code, words = said("pki/ca.pem")
    assert code == 0, words
    code, words = said("bob.public")
    assert (code, len(words.splitlines())) == (2, 1), words
    assert words.startswith("node.yaml:24:55: mqtt.ca: bob.public: no certificate in PEM in it; ")
    assert said("none.pem")[1].count("mqtt.ca: no such file: none.pem") == 1
    for module in ("qtunnel.fleet.broker", "aiomqtt"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "aiomqtt", None)
    code, words = said("pki/ca.pem")
    assert (code, words) == (2, "node.yaml:24:1: mqtt: needs aiomqtt: pip install 'qtunnel[mqtt]'\n")


DIRECTORIES = (
    BASE.replace("control_socket: alice.sock", "control_socket: run/alice.sock")
    + "audit: {path: log/audit.jsonl, on_failure: stop}\n"
)


@pytest.mark.parametrize(
    ("mode", "refused"),
    [
        (0o755, []),
        (0o1777, ["node.state_dir"]),  # in the others, nobody can take away what is somebody else's
        (0o770, ["node.state_dir", "node.control_socket", "audit.path"]),
        (0o777, ["node.state_dir", "node.control_socket", "audit.path"]),
    ],
)
def test_directories_that_others_may_change_are_refused_as_the_daemon_does(
    site: Path, checked: Check, mode: int, refused: list[str]
) -> None:
    for name in ("state", "run", "log"):
        (site / name).mkdir()
        (site / name).chmod(mode)
    code, said = checked(DIRECTORIES)
    assert code == (2 if refused else 0), said
    assert re.findall(r"(?m)^node\.yaml:\d+:\d+: (\S+): others may write in \w+; .*chmod go-w", said) == refused
    theirs: list[tuple[type[QtunnelError], str, Callable[[], None]]] = [
        (ConfigError, "node.state_dir", lambda: os.close(_open_directory(site / "state"))),
        (ControlError, "node.control_socket", lambda: take_socket(site / "run" / "a.sock", "daemon").close()),
        (AuditError, "audit.path", lambda: LogFileWriter(site / "log" / "audit.jsonl").close()),
    ]
    for what, place, use in theirs:
        with pytest.raises(what) if place in refused else contextlib.nullcontext():
            use()


def test_a_log_that_others_may_write_or_that_is_none_is_refused(site: Path, checked: Check) -> None:
    path = site / "log" / "audit.jsonl"
    path.mkdir(parents=True)
    assert "audit.path: log/audit.jsonl is no regular file" in checked(DIRECTORIES)[1]
    path.rmdir()
    path.touch()
    path.chmod(0o666)
    assert "audit.path: others may write to log/audit.jsonl; " in checked(DIRECTORIES)[1]
    path.chmod(0o600)
    assert checked(DIRECTORIES)[0] == 0


@pytest.mark.root
def test_root_may_check_what_is_a_services(site: Path, checked: Check) -> None:
    """Its directories are its user's, and root reads the same files."""
    for name in ("state", "run", "log"):
        (site / name).mkdir(mode=0o750)
        os.chown(site / name, 65534, 65534)
    code, said = checked(DIRECTORIES)
    assert code == 0, said
