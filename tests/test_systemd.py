"""The service unit, as systemd itself reads it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[1] / "systemd"
DAEMON, ENGINE, TARGET = (UNITS / name for name in ("qtunnel@.service", "qtunnel-engine@.service", "qtunnel.target"))
PROGRAM = "/usr/bin/qtunnel"
MOST_EXPOSED = 2.0
"""As ``systemd-analyze security`` counts, from 0 to 10; below 2 it says OK."""

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (Debian: systemd)"
)


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip


def verify(directory: Path, **changed: str) -> str:
    """What ``systemd-analyze verify`` says of the units, with a program that is there in the place of qtunnel.

    changed: another text of the unit ``daemon``.
    """
    for unit in (DAEMON, ENGINE, TARGET):
        text = changed.get("daemon", unit.read_text()) if unit is DAEMON else unit.read_text()
        (directory / unit.name).write_text(text.replace(PROGRAM, shutil.which("true") or "/bin/true"))
    names = [directory / name for name in ("qtunnel@alice.service", "qtunnel-engine@alice.service", TARGET.name)]
    done = analyze("verify", "--man=no", "--recursive-errors=no", *names)
    return f"{done.returncode}{done.stdout}{done.stderr}"


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    assert verify(tmp_path) == "0"


def test_the_verification_can_fail(tmp_path: Path) -> None:
    assert "LimitKERN" in verify(tmp_path, daemon=DAEMON.read_text().replace("LimitCORE=0", "LimitKERN=0"))


@pytest.mark.parametrize("unit", [DAEMON, ENGINE], ids=lambda unit: unit.name)
def test_how_exposed_a_unit_is(unit: Path, tmp_path: Path) -> None:
    done = analyze("security", "--offline=true", "--threshold=100", unit)
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSED
    worse = tmp_path / unit.name
    worse.write_text(unit.read_text().replace("NoNewPrivileges=yes", "").replace("CapabilityBoundingSet=", "#"))
    found = re.search(
        r"Overall exposure level for \S+: (\d+\.\d+)", analyze("security", "--offline=true", worse).stdout
    )
    assert found is None or float(found[1]) > MOST_EXPOSED


DROP_INS = {"net-admin.conf": 1.9, "userspace-interface.conf": 1.9}
"""Those of configs/systemd for the daemon's unit, and how exposed it may be with each: as its engine's, at most."""


@pytest.mark.parametrize("name", DROP_INS)
def test_drop_ins_give_the_daemon_what_they_have_to_and_no_more(name: str, tmp_path: Path) -> None:
    text = (UNITS.parent / "configs" / "systemd" / name).read_text()
    whole = f"{DAEMON.read_text().partition('[Install]')[0]}{text}"  # what comes later holds, as in a drop-in
    assert verify(tmp_path, daemon=whole) == "0"
    unit = tmp_path / DAEMON.name
    unit.write_text(whole)
    found = re.search(r"level for \S+: (\d+\.\d+)", analyze("security", "--offline=true", unit).stdout)
    assert found is not None
    assert float(found[1]) <= DROP_INS[name]
    given = settings(UNITS.parent / "configs" / "systemd" / name)
    assert given.pop("ExecStart") == f"{PROGRAM} run --config /etc/qtunnel/%i.yaml"
    capability = {"CapabilityBoundingSet": "CAP_NET_ADMIN", "AmbientCapabilities": "CAP_NET_ADMIN"}
    assert given == (capability if name == "net-admin.conf" else {"ProtectProc": "default"})


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments], cwd=UNITS.parent, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.mark.timeout(300)
def test_what_make_install_puts_in_place_is_what_the_unit_runs(tmp_path: Path) -> None:
    """All paths below a directory of the test's own; all of it can be taken away."""
    app, link, units, etc, share = (tmp_path / name for name in ("opt", "bin/qtunnel", "units", "etc", "share"))
    theirs = share / "fish" / "vendor_completions.d" / "qtunnel.fish"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("of somebody else")
    places = [f"PYTHON={sys.executable}", f"APP_DIR={app}", f"LINK={link}", f"UNITS={units}",
               f"ETC={etc}", f"SHARE={share}"]  # fmt: skip
    done = make("install", *places)
    assert done.returncode == 0, done.stderr
    assert (etc.stat().st_mode & 0o777, link.readlink()) == (0o700, app / "bin" / "qtunnel")
    said = subprocess.run([link, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.startswith("qtunnel, version ")
    installed = next(app.glob("lib/python*/site-packages/qtunnel"))
    assert (installed / "demo" / "configs" / "alice.yaml").is_file(), "a copy, which needs no checkout"
    assert (installed / "page" / "static" / "page.html").is_file()
    for file in ("man/man1/qtunnel-status.1.gz", "man/man5/qtunnel.yaml.5.gz", "bash-completion/completions/qtunnel",
                 "zsh/site-functions/_qtunnel"):  # fmt: skip
        assert (share / file).stat().st_size > 200
    assert f"install: leave {theirs}" in done.stderr
    verified = analyze("verify", "--man=no", "--recursive-errors=no", units / "qtunnel@alice.service")
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    assert "install:" not in make("install", *places, "PYTHON=false").stderr, "what is there is no hindrance"
    removed = make("uninstall", *places)
    assert removed.returncode == 0, removed.stderr
    assert (app.exists(), link.is_symlink(), list(units.iterdir()), etc.exists()) == (False, False, [], True)
    assert [path for path in share.rglob("*") if path.is_file()] == [theirs]
    assert theirs.read_text() == "of somebody else"


def settings(unit: Path) -> dict[str, str]:
    lines = [line for line in unit.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_what_the_daemons_unit_promises() -> None:
    unit = settings(DAEMON)
    assert unit["Type"] == "notify"
    start = f"{PROGRAM} run --config /etc/qtunnel/%i.yaml --steward /run/qtunnel-engine/%i.sock"
    assert unit["ExecStart"] == start
    assert unit["ExecReload"] == f"{PROGRAM} reload --config /etc/qtunnel/%i.yaml"
    assert (unit["WatchdogSec"], unit["Restart"]) == ("30s", "on-failure")  # which a watchdog's end counts as
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == ""
    assert unit["LoadCredential"] == "secrets:/etc/qtunnel/%i.secrets"
    # One instance that stops must not take the control sockets of the others.
    assert (unit["RuntimeDirectory"], unit["RuntimeDirectoryPreserve"]) == ("qtunnel", "yes")
    assert unit["StateDirectory"] == "qtunnel/%i"


def test_what_the_engines_unit_promises() -> None:
    unit = settings(ENGINE)
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == "CAP_NET_ADMIN"
    assert "LoadCredential" not in unit
    assert "/etc/qtunnel" in unit["InaccessiblePaths"]
    assert unit["DeviceAllow"] == "/dev/net/tun rw"
    assert unit["StopWhenUnneeded"] == "yes", "stopped with the daemon, not with its restart"


@pytest.mark.parametrize("unit", [DAEMON, ENGINE], ids=lambda unit: unit.name)
def test_no_key_reaches_a_disk(unit: Path) -> None:
    its = settings(unit)
    assert (its["LimitCORE"], its["MemorySwapMax"], its["LimitMEMLOCK"]) == ("0", "0", "infinity")


@pytest.mark.root
def test_the_services_user_takes_no_socket_of_anothers_away(tmp_path: Path) -> None:
    """In the directory that it shares with every WireGuard of the host: in its place it could put one of its own."""
    (mode,) = re.findall(r"^d /run/wireguard (\d+) root qtunnel -$", (UNITS / "qtunnel.tmpfiles").read_text(), re.M)
    user, place = 65534, tmp_path / "wireguard"
    place.mkdir()
    os.chown(place, 0, user)
    place.chmod(int(mode, 8))
    (place / "wg0.sock").touch()
    script = """
import os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534); os.fchdir(int(sys.argv[1]))
open("qt0.sock", "x").close()
os.unlink("qt0.sock")
open("qt0.sock", "x").close()
for take in (os.unlink, lambda taken: os.rename(taken, "x"), lambda taken: os.rename("qt0.sock", taken)):
    try:
        take("wg0.sock")
    except PermissionError:
        continue
    sys.exit("a socket of root's was taken away")
"""
    opened = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", script, str(opened)],
            capture_output=True, text=True, check=False, timeout=60, pass_fds=(opened,),
        )  # fmt: skip
    finally:
        os.close(opened)
    assert (done.returncode, done.stderr) == (0, "")
    assert (place / "wg0.sock").exists()
