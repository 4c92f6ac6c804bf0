"""What every long-running process of ours does to itself first."""

from __future__ import annotations

import ctypes
import os
import resource
import struct

_PR_SET_DUMPABLE = 4  # prctl(2)
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION = 0x20080522  # capset(2), with two sets of 32 bits
_CAPABILITY_HEADER = struct.Struct("=Ii")
_NO_CAPABILITIES = bytes(2 * 3 * 4)

_libc = ctypes.CDLL(None, use_errno=True)


def forbid_core_dumps() -> None:
    """No core file, and no other process of this user may read our memory: keys must not reach a disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")


def drop_privileges() -> None:
    """No capabilities any more, and none by executing something. Raises ``OSError``."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    _check(_libc.capset(_CAPABILITY_HEADER.pack(_CAPABILITY_VERSION, 0), _NO_CAPABILITIES), "capset")


def _check(result: int, call: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
