"""What must survive a restart: per peer the newest epoch and the replay times. Never a key."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from qtunnel.errors import ConfigError
from qtunnel.rekey.model import Memory

FILE = "peers.json"
VERSION = 1
TIME_SIZE = 12
EPOCH_BOUND = 1 << 62
"""Epochs from here on can only come from a damaged file; half of what the wire format can hold is left for jumps."""


class StateDirectory:
    """The file in ``node.state_dir``. Peers are kept by identity, so that a new name changes nothing.

    tell: hears of a file that cannot be used, as (kind, detail).
    """

    def __init__(self, directory: Path, tell: Callable[[str, str], None]) -> None:
        self._path = directory / FILE
        self._tell = tell
        self._peers: dict[str, Memory] = {}
        self._lost = False
        self._failed = False
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._peers = self._read()
            self._write()
        except OSError as error:
            raise ConfigError(
                f"node.state_dir: {directory}: {error.strerror}; give qtunnel a directory that it may write"
            ) from None

    def of(self, identity: bytes) -> Memory:
        """What is remembered of the peer with that id."""
        return self._peers.get(identity.hex(), Memory(lost=self._lost))

    def remember(self, identity: bytes, memory: Memory) -> None:
        """Keep it, in place before this returns. A disk that fails is told once and does not stop the tunnel:
        epochs and times in memory stay right, only a later restart may cost a QKD key."""
        self._peers[identity.hex()] = memory
        try:
            self._write()
            self._failed = False
        except OSError as error:
            if not self._failed:
                self._tell("state.unwritable", f"{self._path}: {error.strerror}")
            self._failed = True

    def _read(self) -> dict[str, Memory]:
        try:
            document = json.loads(self._path.read_text("utf-8"))
            if document["version"] != VERSION:
                raise ValueError(f"version {document['version']}")
            self._lost = bool(document.get("lost", False))
            return {identity: _memory(entry) for identity, entry in document["peers"].items()}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            aside = self._path.with_suffix(".damaged")
            self._path.replace(aside)
            self._tell("state.damaged", f"{self._path} cannot be read ({error}); kept as {aside.name}, starting anew")
            self._lost = True
            return {}

    def _write(self) -> None:
        peers = {
            identity: {
                "epoch": memory.epoch,
                "proposed": memory.proposed,
                "sent": memory.sent.hex(),
                "seen": memory.seen.hex(),
                "lost": memory.lost,
            }
            for identity, memory in self._peers.items()
        }
        new = self._path.with_suffix(".new")
        with open(new, "w", encoding="utf-8", opener=_private) as file:
            json.dump({"version": VERSION, "lost": self._lost, "peers": peers}, file)
            file.flush()
            os.fsync(file.fileno())  # an empty file after a power cut would count as a lost chain
        os.replace(new, self._path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _memory(entry: dict[str, object]) -> Memory:
    epoch, proposed = entry["epoch"], entry.get("proposed", 0)
    sent, seen = bytes.fromhex(str(entry["sent"])), bytes.fromhex(str(entry["seen"]))
    for number in (epoch, proposed):
        if type(number) is not int or not 0 <= number < EPOCH_BOUND:
            raise ValueError("an epoch out of range")
    if len(sent) != TIME_SIZE or len(seen) != TIME_SIZE:
        raise ValueError("a replay time of the wrong size")
    assert isinstance(epoch, int)
    assert isinstance(proposed, int)
    return Memory(epoch, sent, seen, proposed, bool(entry.get("lost", False)))
