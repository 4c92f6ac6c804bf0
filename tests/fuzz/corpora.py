"""The inputs that are kept: a text file for each target, a line for each input, its name and its bytes in base64.

Lines that begin with ``#`` are remarks, and say of the next line what was found with it. Names that begin with
``found-`` are regressions and stay; the others are what the campaigns found, as far as it reaches something of its own.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
FOUND = "found-"


def file_of(target: str) -> Path:
    return CORPUS / f"{target}.txt"


def read(target: str) -> dict[str, bytes]:
    """The inputs kept for a target, by name."""
    file = file_of(target)
    lines = file.read_text().splitlines() if file.exists() else []
    pairs = (line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    return {name: base64.b64decode(data) for name, data in pairs}


def unpack(target: str, directory: Path) -> None:
    """Each input as a file, as libFuzzer reads them."""
    directory.mkdir(parents=True, exist_ok=True)
    for data in (b"", *read(target).values()):
        (directory / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)


def write(target: str, inputs: list[bytes]) -> None:
    """Keep these besides the regressions, in the place of those before."""
    file = file_of(target)
    kept = file.read_text().splitlines() if file.exists() else []
    lines = [line for line in kept if line.startswith(("#", FOUND))]
    lines += [f"{_name(data)} {base64.b64encode(data).decode()}" for data in inputs]
    if lines:
        file.write_text("\n".join(lines) + "\n")


def add(target: str, data: bytes, words: str) -> None:
    """Keep an input with which something was found. words: what it was."""
    file = file_of(target)
    text = file.read_text() if file.exists() else ""
    line = f"{FOUND}{_name(data)} {base64.b64encode(data).decode()}\n"
    if line not in text:
        file.write_text(f"# {words}\n{line}{text}")


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:8]
