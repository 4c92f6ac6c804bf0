"""What a new configuration changes: a pure function of the old one and the new one, with what their files held.

Everything under ``peers``, ``plain_peers``, ``key_sources`` and ``log`` can change while the daemon runs, and of
``tunnel`` what ``LIVE`` lists. Any other key, also one that is younger than this list, takes a restart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from qtunnel.config.model import Config
from qtunnel.config.snapshot import Snapshot
from qtunnel.config.types import InPlace

LIVE = {"tunnel": {"addresses", "mtu", "record_mode"}, "log": {"format", "level"}}
"""Keys of each section that need no restart."""
FRESH = {"mqtt"}
"""Sections whose files are read whenever they are used: what is new in them is no change of the configuration."""


class Verb(Enum):
    """REPLACED: taken away and added anew, so that its session ends; CHANGED: goes on with other settings."""

    ADDED = "added"
    REMOVED = "removed"
    REPLACED = "replaced"
    CHANGED = "changed"
    REFUSED = "refused"


class Kind(Enum):
    """What is changed. The words are those that people read."""

    PEER = "peer"
    PLAIN_PEER = "plain peer"
    KEY_SOURCE = "key source"
    TUNNEL = "tunnel"
    LOG = "log"
    OTHER = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is to be done. name: of the peer or source; keys: dotted, those that differ."""

    verb: Verb
    kind: Kind
    name: str = ""
    keys: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """For people, e.g. ``peer bob changed: rekey.interval, qkd.max_age``."""
        if self.verb is Verb.REFUSED:
            return f"{self.keys[0]} cannot change while the daemon runs; restart it, or put the old value back"
        what = " ".join(part for part in (self.kind.value, self.name, self.verb.value) if part)
        return f"{what}: {', '.join(self.keys)}" if self.keys else what


def difference(old: Snapshot, new: Snapshot) -> tuple[Change, ...]:
    """All changes, in the order of the old file and then of the new one; empty where nothing differs that matters.

    A change with ``Verb.REFUSED`` stands for a key that takes a restart: then nothing may be applied.
    """
    return tuple(_all(old, new))


def _all(old: Snapshot, new: Snapshot) -> Iterator[Change]:
    compare = _Comparison(old.contents, new.contents)
    members = {"peers", "plain_peers", "key_sources"}
    for section in Config.model_fields:
        if section in members:
            continue
        how = compare if section not in FRESH else _Comparison({}, {})
        keys = list(how.keys(getattr(old.config, section), getattr(new.config, section)))
        live = [key for key in keys if key.split(".")[0] in LIVE.get(section, ())]
        yield from (
            Change(Verb.REFUSED, Kind.OTHER, keys=(f"{section}.{key}".rstrip("."),)) for key in keys if key not in live
        )
        if live:
            yield Change(Verb.CHANGED, Kind(section), keys=tuple(live))
    yield from _members(Kind.KEY_SOURCE, old.config.key_sources, new.config.key_sources, compare, set())
    yield from _members(
        Kind.PEER, _named(old.config.peers), _named(new.config.peers), compare, {"public", "wireguard_key"}
    )
    plain = _named(old.config.plain_peers), _named(new.config.plain_peers)
    yield from _members(Kind.PLAIN_PEER, *plain, compare, {"public_key", "preshared_key"})


def _named(peers: tuple[Any, ...]) -> dict[str, Any]:
    return {peer.name: peer for peer in peers}


def _members(
    kind: Kind, old: Mapping[str, Any], new: Mapping[str, Any], compare: _Comparison, identifying: set[str]
) -> Iterator[Change]:
    """identifying: keys whose change makes it another one."""
    for name, before in old.items():
        if name not in new:
            yield Change(Verb.REMOVED, kind, name)
            continue
        keys = tuple(compare.keys(before, new[name]))
        if keys:
            yield Change(Verb.REPLACED if identifying & set(keys) else Verb.CHANGED, kind, name, keys)
    yield from (Change(Verb.ADDED, kind, name) for name in new if name not in old)


class _Comparison:
    """Finds the dotted keys under which two values differ. Paths are the same where their files hold the same."""

    def __init__(self, before: Mapping[Path, bytes], after: Mapping[Path, bytes]) -> None:
        self._before, self._after = before, after

    def keys(self, old: Any, new: Any, prefix: str = "") -> Iterator[str]:
        if isinstance(old, BaseModel) and type(old) is type(new):
            for name, field in type(old).model_fields.items():
                below = f"{prefix}.{name}" if prefix else name
                if any(isinstance(item, InPlace) for item in field.metadata):
                    below = prefix
                yield from self.keys(getattr(old, name), getattr(new, name), below)
        elif isinstance(old, dict) and isinstance(new, dict):
            if list(old) != list(new):  # their order is that in which they are offered
                yield prefix
            for name in sorted(old.keys() & new.keys()):
                yield from self.keys(old[name], new[name], f"{prefix}.{name}" if prefix else name)
        elif not self._same(old, new):
            yield prefix

    def _same(self, old: Any, new: Any) -> bool:
        if isinstance(old, Path) and isinstance(new, Path):
            before, after = self._before.get(old), self._after.get(new)
            return old == new if before is None and after is None else before == after
        return type(old) is type(new) and bool(old == new)
