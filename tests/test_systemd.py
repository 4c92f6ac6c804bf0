"""The service unit, as systemd itself reads it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[1] / "systemd" / "qtunnel@.service"
PROGRAM = "/usr/bin/qtunnel"


def verify(directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    """What ``systemd-analyze verify`` says of the unit, with a program that is there in the place of qtunnel."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (Debian package systemd)")
    (directory / UNIT.name).write_text(text.replace(PROGRAM, shutil.which("true") or "/bin/true"))
    return subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(directory / "qtunnel@alice.service")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    result = verify(tmp_path, UNIT.read_text())
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_the_verification_can_fail(tmp_path: Path) -> None:
    result = verify(tmp_path, UNIT.read_text().replace("LimitCORE=0", "LimitKERN=0"))
    assert "LimitKERN" in result.stderr


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments], cwd=UNIT.parents[1], capture_output=True, text=True, timeout=280, check=False
    )


@pytest.mark.timeout(300)
def test_what_make_install_puts_in_place_is_what_the_unit_runs(tmp_path: Path) -> None:
    """All paths below a directory of the test's own; all of it can be taken away."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (Debian package systemd)")
    app, link, units, etc = (tmp_path / name for name in ("opt", "bin/qtunnel", "units", "etc"))
    places = [f"PYTHON={sys.executable}", f"APP_DIR={app}", f"LINK={link}", f"UNITS={units}",
               f"ETC={etc}"]  # fmt: skip
    done = make("install", *places)
    assert done.returncode == 0, done.stderr
    assert (etc.stat().st_mode & 0o777, link.readlink()) == (0o700, app / "bin" / "qtunnel")
    said = subprocess.run([link, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.startswith("qtunnel, version ")
    installed = next(app.glob("lib/python*/site-packages/qtunnel"))
    assert (installed / "demo" / "configs" / "alice.yaml").is_file(), "a copy, which needs no checkout"
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(units / "qtunnel@alice.service")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    assert "install:" not in make("install", *places, "PYTHON=false").stderr, "what is there is no hindrance"
    removed = make("uninstall", *places)
    assert removed.returncode == 0, removed.stderr
    assert (app.exists(), link.is_symlink(), list(units.iterdir()), etc.exists()) == (False, False, [], True)


def settings() -> dict[str, str]:
    lines = [line for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_what_the_unit_promises() -> None:
    unit = settings()
    assert unit["Type"] == "notify"
    assert unit["ExecStart"] == f"{PROGRAM} run --config /etc/qtunnel/%i.yaml"
    assert unit["ExecReload"] == f"{PROGRAM} reload --config /etc/qtunnel/%i.yaml"
    assert unit["LimitCORE"] == "0"
    assert (unit["WatchdogSec"], unit["Restart"]) == ("30s", "on-failure")  # which a watchdog's end counts as
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == "CAP_NET_ADMIN"
    # One instance that stops must not take the control sockets of the others.
    assert (unit["RuntimeDirectory"], unit["RuntimeDirectoryPreserve"]) == ("qtunnel", "yes")
    assert unit["StateDirectory"] == "qtunnel/%i"
