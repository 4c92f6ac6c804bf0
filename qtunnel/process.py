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


def forbid_core_dumps() -> None:
    """No core file, and no other process of this user may read our memory: keys must not reach a disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def drop_privileges() -> None:
    """No capabilities any more, and none by executing something. Raises ``OSError``."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = _CAPABILITY_HEADER.pack(_CAPABILITY_VERSION, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.capset(header, _NO_CAPABILITIES):
        number = ctypes.get_errno()
        raise OSError(number, f"capset: {os.strerror(number)}")
