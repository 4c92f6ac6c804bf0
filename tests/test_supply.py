"""What is installed is what was looked at: locked versions with hashes, the same wheel everywhere, an honest audit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENTRY = re.compile(
    r"^(?P<name>[a-z0-9-]+)==(?P<version>[^ ;\\]+)(?: ; (?P<when>[^\\]+?))? \\\n(?P<hashes>(?: .*\n?)+)", re.MULTILINE
)


def locked(file: Path) -> dict[str, set[str]]:
    """Versions by name; of some there are several, for different Pythons."""
    found: dict[str, set[str]] = {}
    text = file.read_text()
    for entry in ENTRY.finditer(text):
        hashes = entry["hashes"].replace("\\", "").split()
        assert hashes, entry["name"]
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes), entry["name"]
        found.setdefault(entry["name"], set()).add(entry["version"])
    assert len(re.findall(r"^[^ #\n]", text, re.MULTILINE)) == sum(map(len, found.values())), "a line without version"
    return found


def test_the_lock_has_a_version_of_all_that_a_gateway_needs() -> None:
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["mqtt"]]
    found = locked(LOCK)
    for requirement in map(Requirement, wanted):
        versions = found.get(canonicalize_name(requirement.name), set())
        assert versions, f"{requirement.name} is not in requirements.lock: make lock"
        assert all(requirement.specifier.contains(version) for version in versions), f"{requirement}: make lock"


def test_what_builds_it_is_locked_too() -> None:
    (needed,) = map(Requirement, PROJECT["build-system"]["requires"])
    (version,) = locked(ROOT / "requirements-build.lock")[needed.name]
    assert needed.specifier.contains(version)


@pytest.mark.parametrize("script", ["install-service", "make-deb"])
def test_what_is_installed_is_what_is_locked(script: str) -> None:
    text = (ROOT / "scripts" / script).read_text()
    installs = [line for line in text.splitlines() if re.search(r"\$pip install", line)]
    assert len(installs) == 2
    assert "--require-hashes --requirement requirements.lock" in installs[0]
    assert "--no-deps --no-index" in installs[1]


def test_a_wheel_has_the_same_bytes_wherever_and_whenever_it_is_made(tmp_path: Path) -> None:
    """From two copies of the tree with other paths, dates, modes and leftovers, by two users with other umasks."""
    made = []
    for number, umask in enumerate((0o022, 0o077)):
        tree = tmp_path / str(number) / "tree"
        tree.mkdir(parents=True)
        for name in ("qtunnel", "configs", "systemd", "scripts"):
            shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, tree / name)
        if number:
            for path in tree.rglob("*.py"):
                os.utime(path, (1e9, 1e9))
                path.chmod(0o600)
            (tree / "build" / "lib" / "qtunnel").mkdir(parents=True)
            (tree / "build" / "lib" / "qtunnel" / "gone.py").write_text("raise SystemExit\n")
            (tree / "configs" / "pki").mkdir(exist_ok=True)
            (tree / "configs" / "pki" / "secret.yaml").write_text("secret\n")
            (tree / "qtunnel" / "__pycache__").mkdir()
            (tree / "qtunnel" / "__pycache__" / "old.pyc").write_bytes(b"old")
        done = subprocess.run(
            ["scripts/make-wheel", sys.executable, str(tmp_path / str(number))],
            cwd=tree, env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}, umask=umask,
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        made.append(Path(done.stdout.strip()).read_bytes())
        wheel = Path(done.stdout.strip())
    assert made[0] == made[1]
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if "/pki/" in name or "gone" in name or name.endswith(".pyc")]
    for name in ("py.typed", "page/static/page.js", "demo/configs/alice.yaml", "service/units/qtunnel@.service"):
        assert f"qtunnel/{name}" in names


VULNERABLE = (
    '{"dependencies": [{"name": "x", "version": "1", "vulns": [{"id": "A-1", "fix_versions": []}]}], "fixes": []}'
)
SOUND = '{"dependencies": [{"name": "x", "version": "1", "vulns": []}], "fixes": []}'
SKIPPED = '{"dependencies": [{"name": "x", "skip_reason": "not found"}], "fixes": []}'


@pytest.mark.parametrize(
    ("answers", "code", "words"),
    [
        ({"pypi": (SOUND, 0)}, 0, "1 packages, no known vulnerability (pypi)"),
        ({"pypi": (SKIPPED, 0), "osv": (SOUND, 0)}, 0, "no known vulnerability (osv)"),
        ({"pypi": (VULNERABLE, 1)}, 1, "has versions with known vulnerabilities"),
        ({"pypi": (SKIPPED, 0), "osv": ("", 1)}, 3, "was NOT audited"),
        ({"pypi": ("", 1), "osv": ("", 1)}, 3, "was NOT audited"),
    ],
    ids=["sound", "elsewhere", "vulnerable", "skipped", "nobody"],
)
def test_an_audit_says_so_where_nobody_could_be_asked(
    tmp_path: Path, answers: dict[str, tuple[str, int]], code: int, words: str
) -> None:
    tool = tmp_path / "pip-audit"
    cases = "".join(
        f"*\"--vulnerability-service {service} \"*) text='{text}' code={its} ;;\n"
        for service, (text, its) in answers.items()
    )
    tool.write_text(
        '#!/bin/sh\nout=\nfor word; do [ "$last" = --output ] && out=$word; last=$word; done\ntext= code=1\n'
        f'case "$* " in\n{cases}esac\n[ -n "$out" ] && printf "%s" "$text" > "$out"\nexit $code\n'
    )
    tool.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts" / "audit-deps", tool, "requirements.lock"],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == code
    assert words in done.stdout + done.stderr
