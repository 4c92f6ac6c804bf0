"""Keys that wait at a KME for the SAEs that may fetch them, and the simulated link's supply.

Pure: seconds on a monotonic clock are an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from qtunnel.kme.api import NOT_FOUND, ApiError, DeliveredKey
from qtunnel.secret import Secret


@dataclass(slots=True)
class _Waiting:
    key: Secret = field(repr=False)
    master: str
    slaves: frozenset[str]
    pending: set[str]
    expires: float


class KeyStore:
    """The keys that local slave SAEs have not fetched yet, at most ``max_count``, each for ``ttl`` seconds."""

    def __init__(self, *, max_count: int, ttl: float) -> None:
        self._max_count = max_count
        self._ttl = ttl
        self.expired = 0
        """Keys that were wiped because not all their slaves fetched them in time."""
        self._keys: dict[str, _Waiting] = {}  # in the order of their ends, since all live equally long

    def __len__(self) -> int:
        return len(self._keys)

    def check_room(self, number: int, now: float) -> None:
        """Whether so many more keys have room, for who makes keys only where they have; raises ``ApiError`` 503."""
        self.sweep(now)
        if len(self._keys) + number > self._max_count:
            raise ApiError(
                503,
                "the key store is full: fetch waiting keys or wait until they expire",
                waiting_keys=len(self._keys),
                max_key_count=self._max_count,
            )

    def put(self, keys: Sequence[DeliveredKey], *, master: str, slaves: Sequence[str], now: float) -> None:
        """Keep copies of all ``keys``, or none, until each of ``slaves`` has fetched them.

        What is there already is passed over, so that the partner may repeat itself. Raises ``ApiError`` 503 where the
        store is full, 400 where a key_ID is taken by another key.
        """
        self.sweep(now)
        fresh = []
        for item in keys:
            known = self._keys.get(item.key_id)
            if known is None:
                fresh.append(item)
            elif known.master != master or known.key != item.key:
                raise ApiError(400, "a key_ID is taken by another key", key_ID=item.key_id)
        self.check_room(len(fresh), now)
        for item in fresh:
            self._keys[item.key_id] = _Waiting(item.key.copy(), master, frozenset(slaves), set(slaves), now + self._ttl)

    def take(self, key_ids: Sequence[str], *, master: str, slave: str, now: float) -> list[DeliveredKey]:
        """Hand all keys of ``key_ids`` to ``slave``, once; raises ``ApiError`` and hands out none otherwise.

        401 where a key was made for another SAE, 400 where one is unknown, expired, fetched before or of another
        master SAE.
        """
        self.sweep(now)
        missing = []
        for key_id in key_ids:
            waiting = self._keys.get(key_id)
            if waiting is None or waiting.master != master:
                missing.append(key_id)
            elif slave not in waiting.slaves:
                raise ApiError(401, "a key was requested for another SAE", key_ID=key_id)
            elif slave not in waiting.pending:
                missing.append(key_id)
        if missing:
            raise ApiError(400, NOT_FOUND, key_IDs=missing)
        taken = []
        for key_id in key_ids:
            waiting = self._keys[key_id]
            waiting.pending.discard(slave)
            if waiting.pending:
                taken.append(DeliveredKey(key_id, waiting.key.copy()))
            else:
                del self._keys[key_id]
                taken.append(DeliveredKey(key_id, waiting.key))
        return taken

    def discard(self, key_ids: Sequence[str]) -> None:
        """Forget and wipe these keys, where they are there."""
        for key_id in key_ids:
            waiting = self._keys.pop(key_id, None)
            if waiting is not None:
                waiting.key.wipe()

    def sweep(self, now: float) -> list[str]:
        """Wipe what has expired; returns the key_IDs."""
        expired = []
        for key_id, waiting in self._keys.items():
            if waiting.expires > now:
                break
            expired.append(key_id)
        self.discard(expired)
        self.expired += len(expired)
        return expired

    def clear(self) -> None:
        """Wipe everything."""
        self.discard(list(self._keys))


class Supply:
    """The secret bits that the simulated link has ready: full at first, refilled at ``rate`` bits per second.

    capacity in bits; a rate of ``None`` is an inexhaustible link.
    """

    def __init__(self, *, rate: float | None, capacity: int, now: float) -> None:
        self._rate = rate
        self._capacity = capacity
        self._level = float(capacity)
        self._at = now

    def available(self, now: float) -> int:
        """Bits ready at ``now``."""
        if self._rate is None:
            return self._capacity
        self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
        self._at = now
        return int(self._level)

    def draw(self, bits: int, now: float) -> bool:
        """Take ``bits``; false, and nothing taken, where there are not as many."""
        if self._rate is None:
            return True
        if self.available(now) < bits:
            return False
        self._level -= bits
        return True

    def give_back(self, bits: int) -> None:
        """Return bits whose keys reached nobody."""
        self._level = min(self._capacity, self._level + bits)
