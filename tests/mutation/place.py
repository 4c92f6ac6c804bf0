"""Where mutants of a room live: a copy of the tree, with mutmut's configuration for that room."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACES = ROOT / ".mutation"
TESTS = {
    "handshake": [
        "tests/handshake",
        "tests/test_protocol_vectors.py",
        "tests/test_protocol_tables.py",
        "tests/decoder",
    ],
    "keys": ["tests/keys"],
    "wireguard": ["tests/wireguard", "tests/test_protocol_uapi.py", "tests/workers", "tests/decoder"],
    "offload": ["tests/offload"],
    "rekey": ["tests/rekey"],
}
"""The tests that a room's mutants are put under: its own, and a few of others that it is held by."""
SLOW = {"rekey": ["tests/rekey/model", "tests/rekey/test_convergence.py", "tests/rekey/test_many_rekeys.py"]}
"""Left out: minutes for each mutant. ``make mutants`` and ``make soak`` are about what these find."""
COPIED = ("qtunnel", "tests", "docs", "configs", "scripts", "systemd", "Makefile", "README.md", "CONTRIBUTING.md")


def make_place(room: str, files: list[str]) -> Path:
    """A fresh copy; files: of the room, which alone are mutated; all where there are none."""
    place = PLACES / room
    place.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        source, target = ROOT / name, place / name
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    kept = (ROOT / "pyproject.toml").read_text().partition("[tool.mutmut]")[0]
    (place / "pyproject.toml").write_text(kept + _settings(room, files))
    return place


def _settings(room: str, files: list[str]) -> str:
    ignored = [f"--ignore={path}" for path in SLOW.get(room, [])]
    settings = {
        "source_paths": ["qtunnel"],
        "only_mutate": [f"qtunnel/{room}/{file}" for file in files] or [f"qtunnel/{room}/*"],
        "also_copy": [name for name in COPIED if name not in ("qtunnel", "tests")],
        # what mypy --strict finds is found by `make test` as well, in one run for all mutants
        "type_check_command": ["mypy", "--no-warn-unused-ignores", "--output", "json", f"qtunnel/{room}"],
        "pytest_add_cli_args_test_selection": TESTS[room],
        "pytest_add_cli_args": ["-m", "not root", "-p", "no:cacheprovider", "--timeout=0", *ignored],
        "timeout_multiplier": 10.0,
        "timeout_constant": 10.0,
        "use_git_change_detection": False,
    }
    return "\n[tool.mutmut]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
