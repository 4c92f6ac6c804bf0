"""What the documents and docstrings have people run is there to be run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAID = re.compile(r"(?:`|^)make ([a-z][a-z-]*)", re.MULTILINE)
"""``make TARGET`` in code, or at the beginning of a line of a block of commands."""


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_target_that_is_spoken_of_exists() -> None:
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("qtunnel/**/*.py"), *ROOT.glob("tests/**/*.py")]
    said = {(file.name, target) for file in files for target in SAID.findall(file.read_text())}
    assert {target for _, target in said} >= {"demo", "test", "dev", "lint", "sim"}
    assert [(name, target) for name, target in sorted(said) if target not in targets()] == []


def test_what_the_tests_install_is_listed() -> None:
    done = subprocess.run(
        ["make", "-n", "test-tools"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    installed = re.search(r'need-tools "([^"]*)"', done.stdout)
    said = re.search(
        r"installs what it needs from Debian: (.*?) and fetches", (ROOT / "CONTRIBUTING.md").read_text(), re.S
    )
    assert installed is not None
    assert said is not None
    by_the_program = {"iputils-ping": "ping", "groff-base": "groff"}
    listed = re.findall(r"[a-z0-9-]+", said[1])
    assert [name for name in installed[1].split() if by_the_program.get(name, name) not in listed] == []


def test_the_whole_simulation_has_its_thousand_rekeys_a_seed_and_a_bound() -> None:
    done = subprocess.run(["make", "-n", "sim"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    for word in ("QTUNNEL_SIM_REKEYS=1000", "QTUNNEL_SIM_SEEDS=100", "timeout ", "tests/rekey/test_convergence.py"):
        assert word in done.stdout


def make(target: str, root: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """``make install`` or ``uninstall`` with all paths below ``root``; false(1) stands for a Python that fails."""
    return subprocess.run(
        ["make", target, f"DESTDIR={root}", "PYTHON=false", *settings],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def content(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize("target", ["install", "uninstall"])
def test_a_directory_of_somebody_elses_is_neither_used_nor_removed(tmp_path: Path, target: str) -> None:
    (tmp_path / "usr/local/bin").mkdir(parents=True)
    (tmp_path / "usr/local/bin/tool").write_text("of somebody else")
    before = content(tmp_path)
    done = make(target, tmp_path, "APP_DIR=/usr/local")
    assert done.returncode != 0
    assert "/usr/local" in done.stderr
    assert "APP_DIR=" in done.stderr
    assert content(tmp_path) == before


@pytest.mark.parametrize("app", ["", "/", "opt"])
def test_without_a_directory_of_its_own_nothing_is_done(tmp_path: Path, app: str) -> None:
    (tmp_path / "etc").mkdir()
    for target in ("install", "uninstall"):
        assert make(target, tmp_path, f"APP_DIR={app}").returncode != 0
    assert content(tmp_path) == ["etc"]


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_a_link_of_somebody_elses_is_seen_before_anything_is_made(tmp_path: Path, kind: str) -> None:
    link = tmp_path / "usr/bin/qtunnel"
    link.parent.mkdir(parents=True)
    if kind == "file":
        link.write_text("of somebody else")
    else:
        link.symlink_to("/bin/sh" if kind == "link" else "/nowhere/qtunnel")
    before = content(tmp_path)
    done = make("install", tmp_path)
    assert done.returncode != 0
    assert "usr/bin/qtunnel is there and no link to /opt/qtunnel/bin/qtunnel" in done.stderr
    assert content(tmp_path) == before


def test_an_installation_that_failed_may_be_begun_again_and_removed(tmp_path: Path) -> None:
    for _ in range(2):
        assert "install:" not in make("install", tmp_path).stderr
    assert (tmp_path / "opt/qtunnel/.qtunnel-service").is_file()
    link = tmp_path / "usr/bin/qtunnel"
    link.symlink_to("/bin/sh")
    assert make("uninstall", tmp_path).returncode == 0
    assert not (tmp_path / "opt/qtunnel").exists()
    assert link.is_symlink(), "it is not ours"
