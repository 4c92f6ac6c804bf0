"""What every long-running process of ours does to itself first."""

from __future__ import annotations

import ctypes
import os
import resource
import struct

_PR_SET_DUMPABLE = 4  # prctl(2)
_PR_SET_NO_NEW_PRIVS = 38
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4  # mlockall(2)
CAP_IPC_LOCK = 14  # capabilities(7)
_CAPABILITY_VERSION = 0x20080522  # capset(2), with two sets of 32 bits
_CAPABILITY_HEADER = struct.Struct("=Ii")
_NO_CAPABILITIES = bytes(2 * 3 * 4)

_libc = ctypes.CDLL(None, use_errno=True)


def forbid_core_dumps() -> None:
    """No core file, and no other process of this user may read our memory: keys must not reach a disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")


def guard_memory() -> bool:
    """``forbid_core_dumps``, and, where this process may (CAP_IPC_LOCK, or no limit of RLIMIT_MEMLOCK), lock all of its
    memory, so that no key is written to a swap device (mlockall(2)). Whether it is locked.

    Pages are locked as they are used, for the stacks of threads are large and nearly empty. Below a limit nothing is
    locked at all: with MCL_FUTURE the first allocation above it would fail.
    """
    forbid_core_dumps()
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY and not has_capability(CAP_IPC_LOCK):
        return False
    return int(_libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)) == 0


def has_capability(number: int) -> bool:
    """Whether this process has it in effect; its number as in capabilities(7)."""
    with open("/proc/self/status") as file:
        (effective,) = [int(line.split()[1], 16) for line in file if line.startswith("CapEff:")]
    return bool(effective >> number & 1)


def drop_privileges() -> None:
    """No capabilities any more, and none by executing something. Raises ``OSError``."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    _check(_libc.capset(_CAPABILITY_HEADER.pack(_CAPABILITY_VERSION, 0), _NO_CAPABILITIES), "capset")


def _check(result: int, call: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
