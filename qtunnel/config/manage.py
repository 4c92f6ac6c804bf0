"""``tunnel.manage: psk``: an interface that somebody else owns, and what of the configuration is then the owner's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BeforeValidator, ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from qtunnel.config.document import Location, Problem

OWNERS = ("addresses", "mtu", "engine", "routes", "record_mode", "processes")
"""Keys of ``tunnel`` that say what an interface is to be."""

_BELONGS = "belongs to whoever made the interface where tunnel.manage is psk; remove it here"


def _managed(info: ValidationInfo) -> bool:
    document = info.context.get("document") if isinstance(info.context, dict) else None
    tunnel = document.get("tunnel") if isinstance(document, dict) else None
    return isinstance(tunnel, dict) and tunnel.get("manage") == "psk"


def _ours(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    left_out = value == () and isinstance(value, tuple)  # the default; a file's is a list
    if _managed(info):
        if not left_out:
            raise ValueError(_BELONGS)
        return ()
    if left_out:
        raise PydanticCustomError("missing", "Field required")
    return handler(value)


def _never(value: Any, info: ValidationInfo) -> Any:
    if _managed(info):
        raise ValueError(_BELONGS)
    return value


OursToSay = WrapValidator(_ours)
"""For a tuple whose default is (), validated: has to be given, unless the interface is somebody else's."""
NeverTheOwners = BeforeValidator(_never)
"""For what may be given, unless the interface is somebody else's."""


def owners_keys(tunnel: Mapping[str, Any]) -> list[Problem]:
    """What of a ``tunnel`` mapping is the owner's to say."""
    return [Problem((name,), _BELONGS) for name in OWNERS if name in tunnel] if tunnel.get("manage") == "psk" else []


def check_wireguard_keys(given: Iterable[tuple[Location, bytes | None]]) -> Iterator[Problem]:
    """Keys that stand in the file twice; given: each with its place."""
    seen: dict[bytes, Location] = {}
    for where, key in given:
        if key is None:
            continue
        first = seen.setdefault(key, where)
        if first is not where:
            yield Problem(where, f"peers[{first[1]}] has the same key; every peer needs its own", (first,))
