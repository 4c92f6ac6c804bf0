"""Cryptokey routing: the longest prefix that holds an address names the peer (white paper section 2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

P = TypeVar("P")

_CACHE_SIZE = 4096
"""Addresses whose answer is kept: more than a gateway talks to at a time, under a megabyte."""


class Prefix(NamedTuple):
    """``network``: 4 or 16 bytes with the host bits cleared; ``length`` in bits."""

    network: bytes
    length: int

    @classmethod
    def masked(cls, address: bytes, length: int) -> Prefix:
        """The prefix of that length that holds ``address``; raises ``ValueError`` for an impossible length."""
        bits = len(address) * 8
        if not 0 <= length <= bits:
            raise ValueError(f"prefix length {length} of an address of {bits} bits")
        host = bits - length
        return cls((int.from_bytes(address, "big") >> host << host).to_bytes(len(address), "big"), length)


class AllowedIps(Generic[P]):
    """One dictionary per prefix length in use; a gateway has few lengths and may have many prefixes."""

    __slots__ = ("_cache", "_lengths", "_tables")

    def __init__(self) -> None:
        self._tables: dict[int, dict[int, dict[int, P]]] = {4: {}, 16: {}}
        self._lengths: dict[int, list[int]] = {4: [], 16: []}
        self._cache: dict[bytes, P | None] = {}

    def insert(self, prefix: Prefix, peer: P) -> P | None:
        """Give the prefix to ``peer``; returns who had it before."""
        size = len(prefix.network)
        table = self._tables[size].get(prefix.length)
        if table is None:
            table = self._tables[size][prefix.length] = {}
            self._lengths[size] = sorted(self._tables[size], reverse=True)
        key = _key(prefix)
        before = table.get(key)
        table[key] = peer
        self._cache.clear()
        return before

    def remove(self, prefixes: Iterable[Prefix]) -> None:
        """Forget the prefixes; unknown ones are ignored."""
        for prefix in prefixes:
            size = len(prefix.network)
            table = self._tables[size].get(prefix.length)
            if table is None:
                continue
            table.pop(_key(prefix), None)
            if not table:
                del self._tables[size][prefix.length]
                self._lengths[size].remove(prefix.length)
        self._cache.clear()

    def lookup(self, address: bytes) -> P | None:
        """The peer for an address of 4 or 16 bytes."""
        try:
            return self._cache[address]
        except KeyError:
            pass
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        answer = self._cache[address] = self._search(address)
        return answer

    def _search(self, address: bytes) -> P | None:
        number, bits = int.from_bytes(address, "big"), len(address) * 8
        tables = self._tables[len(address)]
        for length in self._lengths[len(address)]:
            peer = tables[length].get(number >> (bits - length))
            if peer is not None:
                return peer
        return None


def _key(prefix: Prefix) -> int:
    return int.from_bytes(prefix.network, "big") >> (len(prefix.network) * 8 - prefix.length)
