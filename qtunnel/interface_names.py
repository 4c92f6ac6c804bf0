"""Which names a gateway's interface can have: what the kernel takes, and what is safe in a file's name."""

from __future__ import annotations

import re

MAX_NAME = 15
"""Characters, IFNAMSIZ less the final zero (linux/if.h)."""

RESERVED = ("lo", "all", "default")
"""The loopback device, and what stands beside the names of interfaces below /proc/sys/net/ipv4/conf."""

_CHARACTERS = re.compile(r"[!-~]+", re.ASCII)
_EXCLUDED = frozenset("/:%")
"""Of a path; of an alias, ``eth0:1``; of a pattern that the kernel expands."""


def name_problem(name: str) -> str | None:
    """Why no gateway's interface can have that name, in words behind it; ``None`` where one can."""
    if name in (".", "..") or not _CHARACTERS.fullmatch(name) or _EXCLUDED & set(name):
        return "not an interface name; take letters, digits, '_' and '-', no '/', no blanks"
    if name in RESERVED:
        return "is a name that the kernel uses itself; take a name of its own, such as qt0"
    if len(name) > MAX_NAME:
        return f"has {len(name)} characters; the kernel allows {MAX_NAME} in an interface name"
    return None
