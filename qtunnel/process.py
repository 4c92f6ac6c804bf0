"""What every long-running process of ours does to itself first."""

from __future__ import annotations

import ctypes
import resource

_PR_SET_DUMPABLE = 4  # prctl(2)


def forbid_core_dumps() -> None:
    """No core file, and no other process of this user may read our memory: keys must not reach a disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
