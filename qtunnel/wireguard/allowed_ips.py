"""Cryptokey routing: the longest prefix that holds an address names the peer (white paper section 2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

P = TypeVar("P")

Prefix = tuple[int, int, int]
"""Bytes of an address (4 or 16), length in bits, and that many leading bits as a number.

A plain tuple of numbers: there may be hundreds of thousands, and the garbage collector does not walk these."""

_CACHE_SIZE = 4096
"""Addresses whose answer is kept: more than a gateway talks to at a time, under a megabyte."""

_SWEEP = 2000
"""Dropped prefixes cleared away at a time: under a millisecond."""


def prefix_of(address: bytes, length: int) -> Prefix:
    """The prefix of that length that holds ``address``; raises ``ValueError`` for an impossible length."""
    size = len(address)
    bits = size * 8
    if not 0 <= length <= bits:
        raise ValueError(f"prefix length {length} of an address of {bits} bits")
    return size, length, int.from_bytes(address, "big") >> (bits - length)


def network_of(prefix: Prefix) -> bytes:
    """The address with the host bits cleared, 4 or 16 bytes."""
    size, length, leading = prefix
    return (leading << (size * 8 - length)).to_bytes(size, "big")


class Prefixes(Generic[P]):
    """The prefixes that lead to ``owner``, oldest first; to nobody, once they are dropped."""

    __slots__ = ("_known", "owner")

    def __init__(self, owner: P) -> None:
        self.owner: P | None = owner
        self._known: dict[Prefix, None] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self._known)


class AllowedIps(Generic[P]):
    """All prefixes in one dictionary, asked once for each length in use; a gateway has few lengths, and many prefixes.

    Whoever drops many at once must not wait, nor traffic: they lead nowhere from then on, and ``sweep`` clears them
    away in pieces.
    """

    __slots__ = ("_cache", "_dropped", "_lengths", "_routes")

    def __init__(self) -> None:
        self._routes: dict[Prefix, Prefixes[P]] = {}
        self._lengths: dict[int, list[int]] = {4: [], 16: []}
        self._cache: dict[bytes, P | None] = {}
        self._dropped: list[Prefixes[P]] = []

    def insert(self, prefix: Prefix, to: Prefixes[P]) -> Prefixes[P] | None:
        """Let the prefix lead to the owner of ``to``, and to nobody else; those that it was one of, if not ``to``."""
        before = self._routes.get(prefix)
        self._routes[prefix] = to
        to._known[prefix] = None
        if before is None:
            size, length, _ = prefix
            if length not in self._lengths[size]:
                self._lengths[size].append(length)
                self._lengths[size].sort(reverse=True)
        elif before is not to:
            before._known.pop(prefix, None)
        self._cache.clear()
        return None if before is to else before

    def give_back(self, prefix: Prefix, to: Prefixes[P]) -> None:
        """Let a prefix that leads to nobody lead to the owner of ``to`` again, if that still is one."""
        present = self._routes.get(prefix)
        if to.owner is not None and (present is None or present.owner is None):
            self.insert(prefix, to)

    def remove(self, prefix: Prefix, of: Prefixes[P]) -> None:
        """Let the prefix lead nowhere, if it is one of ``of``."""
        if self._routes.get(prefix) is of:
            del self._routes[prefix], of._known[prefix]
            self._cache.clear()

    def drop(self, prefixes: Prefixes[P]) -> None:
        """Let all of them lead nowhere; the collection is not to be used again."""
        prefixes.owner = None
        self._dropped.append(prefixes)
        self._cache.clear()

    @property
    def unswept(self) -> bool:
        """Whether ``sweep`` has something to do."""
        return bool(self._dropped)

    def sweep(self) -> None:
        """Clear away some of what was dropped."""
        for _ in range(_SWEEP):
            if not self._dropped:
                break
            known = self._dropped[-1]._known
            if not known:
                self._dropped.pop()
                continue
            prefix, _ = known.popitem()
            del self._routes[prefix]
        if not self._routes:  # else a length that is out of use costs one look too many, no more
            self._lengths = {4: [], 16: []}

    def lookup(self, address: bytes) -> P | None:
        """The owner for an address of 4 or 16 bytes."""
        try:
            return self._cache[address]
        except KeyError:
            pass
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        answer = self._cache[address] = self._search(address)
        return answer

    def _search(self, address: bytes) -> P | None:
        number, size = int.from_bytes(address, "big"), len(address)
        bits = size * 8
        for length in self._lengths[size]:
            prefixes = self._routes.get((size, length, number >> (bits - length)))
            if prefixes is not None and prefixes.owner is not None:
                return prefixes.owner
        return None
