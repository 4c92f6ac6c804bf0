"""Mutants that live, and why each may: results.json has them, explained.toml the reasons."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS, EXPLAINED = HERE / "results.json", HERE / "explained.toml"
TEXT = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*\'""")
"""A string, with its quotes."""
PLACEHOLDER = re.compile(r"\{[^}]*\}")

Mutant = tuple[str, str, str, str]
"""File, function, the lines before and after."""


def living(results: dict[str, Any]) -> Iterator[Mutant]:
    for file, its in results.items():
        for one in its["alive"]:
            yield file, one["function"], one["old"], one["new"]


def only_words(old: str, new: str) -> bool:
    """Whether nothing differs but a text of several words, which is for people: who reads it, reads it in capital
    letters as well. What is for machines has one word."""
    return old != new and _without_words(old) == _without_words(new)


def _without_words(code: str) -> str:
    def bare(text: re.Match[str]) -> str:
        return f'"{"".join(PLACEHOLDER.findall(text.group()))}"' if " " in text.group() else text.group()

    return TEXT.sub(bare, code)


def reasons() -> dict[Mutant, str]:
    """explained.toml: a table for each file and function, in it entries of old, new and why."""
    entries = tomllib.loads(EXPLAINED.read_text())["mutant"] if EXPLAINED.exists() else []
    return {(one["file"], one["function"], one["old"].strip(), one["new"].strip()): one["why"] for one in entries}


def unexplained(results: dict[str, Any]) -> list[str]:
    """A line for each mutant that lives and should not."""
    known = reasons()
    return [
        f"{file}: {function}\n  - {old}\n  + {new}"
        for file, function, old, new in living(results)
        if not only_words(old, new) and (file, function, old, new) not in known
    ]


def stale(results: dict[str, Any]) -> list[Mutant]:
    """Reasons for mutants that do not live any more."""
    alive = set(living(results))
    return [mutant for mutant in reasons() if mutant not in alive]


if __name__ == "__main__":
    print("\n".join(unexplained(json.loads(RESULTS.read_text()))))
