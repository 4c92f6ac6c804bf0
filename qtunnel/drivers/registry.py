"""Finds a driver by the name that the configuration's ``driver:`` gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

from pydantic import BaseModel

from qtunnel.errors import ConfigError
from qtunnel.keys.source import KeySource

ENTRY_POINT_GROUP = "qtunnel.drivers"


class SourceHub(Protocol):
    """One configured source (one KME, one device), shared by all peers that use it."""

    def for_peer(self, options: Any) -> KeySource:
        """The source towards one peer; ``options`` is an instance of the driver's ``peer_options``."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


def _no_doubts(options: Any) -> Iterable[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Driver:
    """A kind of key source.

    options: the pydantic model of what stands under ``key_sources.<name>`` besides ``driver``.
    peer_options: the model of what stands under ``peers[].qkd.sources.<name>``.
    doubts: what may be wrong with the options, in words, though they can be used.
    warns: whether a status may tell a QBER or an alarm: then no key with a peer is used before a first look at it.
    open: makes the hub from the source's name and its options; may read files, but asks nobody. Raises ``ConfigError``
    or ``FilePermissionError``.

    Fields of type ``pathlib.Path`` in either model are resolved against the configuration file's directory.
    """

    name: str
    options: type[BaseModel]
    peer_options: type[BaseModel]
    open: Callable[[str, Any], SourceHub]
    doubts: Callable[[Any], Iterable[str]] = _no_doubts
    warns: bool = True


@cache
def _points() -> dict[str, EntryPoint]:
    """By name. Found once, for it takes 3 ms: a configuration asks twice for each peer."""
    return {point.name: point for point in reversed(tuple(entry_points(group=ENTRY_POINT_GROUP)))}


def names() -> list[str]:
    """All installed drivers, sorted."""
    return sorted(_points())


def find(name: str) -> Driver:
    """The driver of that name; raises ``ConfigError`` where there is none or it does not load."""
    point = _points().get(name)
    if point is None:
        raise ConfigError(f"no key source driver {name!r}; installed: {', '.join(names()) or 'none'}")
    try:
        driver = point.load()
    except Exception as error:
        raise ConfigError(f"key source driver {name!r} ({point.value}) does not load: {error}") from error
    if not isinstance(driver, Driver):
        raise ConfigError(f"key source driver {name!r} ({point.value}) is not a qtunnel Driver")
    return driver
