"""Files for targets that read by a path: in memory, without a name that would be left behind."""

from __future__ import annotations

import os
from pathlib import Path


class SecretFile:
    """One file of mode 0600, whose content is another one each time."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("fuzz", os.MFD_CLOEXEC)
        os.fchmod(self._descriptor, 0o600)
        self.path = Path(f"/proc/self/fd/{self._descriptor}")

    def of(self, content: bytes) -> Path:
        """The path, with this in it."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, content, 0)
        return self.path
