"""The package's documents and examples: what they point to is in it, and nothing that was only lying about."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
NAMED = re.compile(r"\b(?:docs|configs)/[\w./-]*\w")
"""Files that an example speaks of, from where README.md is."""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What scripts/make-documents makes of a tree in which somebody has been working."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("package") / "qtunnel"
    for name in ("docs", "configs", "scripts"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (*ROOT.glob("*.md"), ROOT / "LICENSE"):
        shutil.copy(file, tree)
    for name in (
        "configs/pki/ca.key", "configs/network-metro-pki/a.key", "configs/scenarios/geneva/pki/a.key",
        "configs/alice.identity", "docs/examples/qtunnel-driver-keybox/__pycache__/a.pyc", "docs/.x_cache/a",
        "docs/examples/qtunnel-driver-keybox/build/lib/a.py",
    ):  # fmt: skip
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("left behind")
    subprocess.run(["scripts/make-documents", str(out)], cwd=tree, timeout=60, check=True)
    return out


def test_links_of_documents_lead_to_what_is_there(packed: Path) -> None:
    documents = sorted(packed.rglob("*.md"))
    links = [(file, link) for file in documents for link in LINK.findall(file.read_text()) if "://" not in link]
    assert {"operations.md", "audit.md", "mqtt.md"} <= {file.name for file in documents}
    assert len(links) > 100
    assert [f"{file.relative_to(packed)}: {link}" for file, link in links if not (file.parent / link).exists()] == []


def test_what_examples_speak_of_is_there(packed: Path) -> None:
    examples = [file for kind in ("*.yaml", "*.yml") for file in (packed / "examples").rglob(kind)]
    named = {(file.name, name) for file in examples for name in NAMED.findall(file.read_text())}
    assert {("alice.yaml", "docs/audit.md"), ("alice.yaml", "configs/grafana")} <= named
    assert [pair for pair in sorted(named) if not (packed / pair[1]).exists() and pair[1] != "configs/pki"] == []


def test_what_was_only_lying_about_is_left_out(packed: Path) -> None:
    files = [path for path in packed.rglob("*") if path.is_file()]
    assert [path for path in files if b"left behind" in path.read_bytes()] == []
    assert {path.stat().st_mode & 0o777 for path in files} <= {0o644, 0o755}


def test_the_package_has_them() -> None:
    assert 'scripts/make-documents "$tree/usr/share/doc/qtunnel"' in (ROOT / "scripts/make-deb").read_text()
