"""The one type that holds key material.

A ``Secret`` owns its bytes in a ``bytearray``, so that they can be overwritten; it never prints them, compares in
constant time, and refuses to be pickled, copied or hashed. What a library copies inside itself while computing is
out of reach; docs/threat-model.md says so.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

from qtunnel.errors import SecretWipedError

RandomBytes = Callable[[int], bytes]
"""A source of random bytes, ``os.urandom`` outside tests; handed into the sans-IO rooms as an argument."""


class Secret:
    """Key material of a fixed length in bytes."""

    __slots__ = ("__weakref__", "_buffer", "_wiped")
    __hash__ = None  # type: ignore[assignment]  # a secret must not become a dict key

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._buffer = bytearray(data)
        self._wiped = False

    @classmethod
    def random(cls, random_bytes: RandomBytes, size: int) -> Secret:
        """A fresh secret of ``size`` bytes."""
        return cls(random_bytes(size))

    @property
    def wiped(self) -> bool:
        return self._wiped

    def reveal(self) -> memoryview:
        """A read-only view of the bytes, valid until ``wipe``; raises ``SecretWipedError`` after it.

        Hand it straight to the function that needs it and do not keep it.
        """
        if self._wiped:
            raise SecretWipedError("this secret was wiped; it must not be used again")
        return memoryview(self._buffer).toreadonly()

    def copy(self) -> Secret:
        """An independent copy, to be wiped on its own."""
        return Secret(self.reveal())

    def wipe(self) -> None:
        """Overwrite the bytes with zeros. Idempotent."""
        self._buffer[:] = bytes(len(self._buffer))
        self._wiped = True

    def __len__(self) -> int:
        return len(self._buffer)

    def __bool__(self) -> bool:
        return True  # never a hidden "is it empty?" on key material

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.reveal(), other.reveal())

    def __repr__(self) -> str:
        return f"<Secret {len(self._buffer)} bytes, {'wiped' if self._wiped else 'redacted'}>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied; use Secret.copy()")

    def __enter__(self) -> Secret:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()

    def __del__(self) -> None:
        # The last reference is gone, so nobody can need the bytes any more.
        if hasattr(self, "_buffer"):
            self.wipe()
