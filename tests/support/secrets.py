"""Every secret that programs of a test ever hold, and a search for them where they must not be.

``recording`` makes a directory for PYTHONPATH, by which every process of qtunnel that is started with it, engines
included, writes what becomes a ``Secret`` to one file. The programs are the real ones; nothing else of them is changed.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

HOOK = """\
import os

_output = os.open({path!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
try:
    from qtunnel.secret import Secret
except ImportError:
    pass  # another program of Python's
else:
    _first = Secret.__init__

    def _init(self, data):
        _first(self, data)
        os.write(_output, bytes(self._buffer).hex().encode() + b"\\n")

    Secret.__init__ = _init
"""
LEAST, MOST = 16, 64
"""Bytes of what counts as a key: shorter ones would be found by chance, and longer ones are files, whose keys are here
as well."""


def recording(directory: Path) -> Path:
    """Prepare ``directory`` as an entry of PYTHONPATH; the file that the secrets go to."""
    directory.mkdir()
    file = directory / "secrets"
    hook = HOOK.format(path=str(file))
    for entry in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        before = Path(entry) / "sitecustomize.py"  # of `make coverage`: a process has one such module only
        hook += before.read_text() if before.is_file() else ""
    (directory / "sitecustomize.py").write_text(hook)
    return file


def recorded(file: Path) -> set[bytes]:
    """The keys of that file."""
    found = {bytes.fromhex(line) for line in file.read_text().splitlines()}
    return {key for key in found if LEAST <= len(key) <= MOST and len(set(key)) > 4}


def shapes(key: bytes) -> Iterator[bytes]:
    """The key as it may stand in a text or a file."""
    yield key
    yield key.hex().encode()
    yield key.hex().upper().encode()
    for encoded in (base64.b64encode(key), base64.urlsafe_b64encode(key)):
        yield encoded.rstrip(b"=")


def leaked(keys: Iterable[bytes], places: Iterable[tuple[str, bytes]]) -> list[str]:
    """The names of places where one of the keys stands."""
    wanted = [shape for key in keys for shape in shapes(key)]
    return [name for name, content in places if any(shape in content for shape in wanted)]


def of_process(pid: int, since: float) -> Iterator[tuple[str, bytes]]:
    """What others may read of a process: arguments, environment, and the files in its memory that were changed since
    that time (Unix seconds); no others can hold what is younger."""
    for name in ("cmdline", "environ", "comm"):
        yield f"/proc/{pid}/{name}", Path(f"/proc/{pid}/{name}").read_bytes()
    for link in Path(f"/proc/{pid}/map_files").iterdir():
        try:
            if link.is_file() and link.stat().st_mtime >= since:
                yield f"{link} -> {os.readlink(link)}", link.read_bytes()
        except FileNotFoundError:
            continue  # unmapped meanwhile


def of_directory(directory: Path, without: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    """Every file below a directory but those that are there to hold a secret."""
    left_out = {path.resolve() for path in without}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.resolve() not in left_out:
            yield str(path), path.read_bytes()
