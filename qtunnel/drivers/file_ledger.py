"""The ledger of a pad: which of its bytes were used, and what is still to be overwritten. Pure.

A pad has two lanes, one for each side. The own lane is drawn from upwards; of the peer's lane is given what the peer
asks for by its offset. Every change comes out as a new ledger, which has to be on disk before a byte is used.

What the peer skipped it may still ask for while that is within ``WINDOW`` of the highest offset it asked for; after
that it is lost, and overwritten like what was used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from qtunnel.drivers.file_format import MAX_PAD, Imprint, PadInfo, Range, Side, other
from qtunnel.errors import PadError

WINDOW = 64 * 1024
"""Bytes, 2048 keys of 32. Keys come out of order where several are asked for at once, or where one was kept for a later
attempt; a hub that agrees on a thousand of them ahead has as many under way."""
MAX_GAPS = 64
"""Skipped places that are kept; of more the oldest are lost. A ledger has to fit into its slot."""
SLOT_SIZE = 8192
"""Bytes of one ledger: 64 gaps and as many places to overwrite have 4 kB, with the largest offsets."""
MIN_KEY = 16
MAX_KEY = 16 * 1024
"""Bytes. Below 128 bits nothing is a key; a rekey asks for 32."""

_DIGEST = 64
_MAX_RANGES = 200


class PadUsedUpError(PadError):
    """The lane has no bytes left."""


class PadRefusalError(PadError):
    """What the peer asked for is not there, or was used already."""


class PadDiskError(PadError):
    """Pad or ledger cannot be read or written now."""


class PadMismatchError(PadError):
    """Pad and ledger do not belong together any more: one of them is older, or a copy."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """What is known of one copy of a pad.

    generation, mark: of the last opening; opening: it was begun, and the pad may not have its imprint yet. sequence:
    of ledgers written. taken: first offset of the own lane that is not used. reached: first offset of the peer's lane
    behind everything it asked for; gaps: below that, what it skipped and may still ask for; lost: bytes that it skipped
    and may not ask for any more. dirty: used or lost, and perhaps not overwritten. came_back: how often used bytes were
    found where they had been overwritten.
    """

    info: PadInfo
    side: Side
    taken: int
    reached: int
    generation: int = 0
    mark: bytes = b""
    opening: bool = False
    sequence: int = 0
    gaps: tuple[Range, ...] = ()
    dirty: tuple[Range, ...] = ()
    lost: int = 0
    came_back: int = 0

    @classmethod
    def fresh(cls, info: PadInfo, side: Side) -> Ledger:
        """Of a pad that nobody used yet."""
        return cls(info, side, info.lane(side)[0], info.lane(other(side))[0])

    @property
    def left(self) -> int:
        """Bytes of the own lane that are not used."""
        return self.info.lane(self.side)[1] - self.taken

    @property
    def peer_left(self) -> int:
        """Bytes of the peer's lane behind the highest that it asked for."""
        return self.info.lane(other(self.side))[1] - self.reached

    @property
    def used(self) -> tuple[Range, ...]:
        """All that must never be used again."""
        own = (self.info.lane(self.side)[0], self.taken)
        peers = (self.info.lane(other(self.side))[0], self.reached)
        return joined([own, *without(peers, self.gaps)])

    def begun(self, mark: bytes) -> Ledger:
        """A new generation; to be written before the pad gets its imprint."""
        generation = self.generation if self.opening else self.generation + 1
        return replace(self, generation=generation, mark=mark, opening=True)

    def settled(self) -> Ledger:
        """The pad has its imprint."""
        return replace(self, opening=False)

    def matched(self, imprint: Imprint | None, torn: bool) -> Ledger:
        """This ledger, once the pad's imprint is seen to be that of the last opening; ``opening`` is left where that
        did not get as far as the pad. Raises ``PadMismatchError``.

        torn: the imprint cannot be read, as after a power cut while it was written.
        """
        if torn:
            if not self.opening:
                raise PadMismatchError("the record of its last use is damaged; take a new pad")
            return self
        generation = 0 if imprint is None else imprint.generation
        if self.opening and generation == self.generation - 1:
            return self
        if generation < self.generation:
            raise PadMismatchError(
                f"it is an older copy: it was opened {generation} times, and the ledger says {self.generation}; put "
                "the newer one back, or take a new pad"
            )
        if generation > self.generation:
            raise PadMismatchError(
                f"the ledger is older than the pad: it says {self.generation} openings, and the pad {generation}; "
                "bytes that were used would be used again: put the newer ledger back, or take a new pad"
            )
        if imprint is not None and imprint.mark != self.mark:
            raise PadMismatchError("another copy of it was used in the meantime; take a new pad")
        return self.settled()

    def take(self, size: int) -> tuple[Ledger, int]:
        """The next ``size`` bytes of the own lane; raises ``PadUsedUpError``."""
        _demand_size(size)
        if self.left < size:
            raise PadUsedUpError(f"used up: {self.left} bytes are left; take a new pad")
        start = self.taken
        return replace(self, taken=start + size, dirty=joined([*self.dirty, (start, start + size)])), start

    def give(self, offset: int, size: int) -> Ledger:
        """The ``size`` bytes at an offset that the peer drew; raises ``PadRefusalError``."""
        _demand_size(size)
        wanted = (offset, offset + size)
        start, stop = self.info.lane(other(self.side))
        own = self.info.lane(self.side)
        if own[0] <= offset < own[1]:
            raise PadRefusalError(f"offset {offset} is of this end's own half; one end must be side a and one side b")
        if offset < start or wanted[1] > stop:
            raise PadRefusalError(f"offset {offset} lies outside of the pad")
        gaps = list(self.gaps)
        reached = max(self.reached, wanted[1])
        if offset >= self.reached:
            gaps += [(self.reached, offset)] if offset > self.reached else []
        else:
            around = next((gap for gap in gaps if gap[0] <= offset and wanted[1] <= gap[1]), None)
            if around is None:
                raise PadRefusalError(
                    f"offset {offset} was used already, or skipped long ago; where that goes on, the peer's pad or "
                    "ledger is an older copy"
                )
            gaps = [part for gap in gaps for part in ([gap] if gap != around else without(gap, [wanted]))]
        kept, closed = _within_window(gaps, reached)
        return replace(
            self,
            reached=reached,
            gaps=kept,
            lost=self.lost + sum(stop - start for start, stop in closed),
            dirty=joined([*self.dirty, *closed, wanted]),
        )

    def to_overwrite(self, first: Range, most: int) -> tuple[Range, ...]:
        """What is to be overwritten next: the range ``first`` (may be empty), and ``most`` bytes besides."""
        found = [first] if first[0] < first[1] else []
        for dirty in self.dirty:
            for start, stop in without(dirty, found[:1]):
                if most > 0:
                    found.append((start, min(stop, start + most)))
                    most -= stop - start
        return tuple(found)

    def overwritten(self, done: Iterable[Range]) -> Ledger:
        return replace(self, dirty=tuple(part for dirty in self.dirty for part in without(dirty, done)))

    def all_again(self) -> Ledger:
        """Used bytes were found where they had been overwritten: overwrite all of them once more."""
        return replace(self, dirty=self.used, came_back=self.came_back + 1)

    # On disk: a line of text in a slot of its own

    def encode(self) -> bytes:
        """A slot: digest, JSON, blanks."""
        fields = {
            "pad": self.info.pad_id,
            "size": self.info.size,
            "share_a": self.info.share_a,
            "side": self.side,
            "sequence": self.sequence,
            "generation": self.generation,
            "mark": self.mark.hex(),
            "opening": self.opening,
            "taken": self.taken,
            "reached": self.reached,
            "gaps": self.gaps,
            "dirty": self.dirty,
            "lost": self.lost,
            "came_back": self.came_back,
        }
        body = json.dumps(fields, separators=(",", ":")).encode()
        line = hashlib.sha256(body).hexdigest().encode() + b" " + body
        if len(line) >= SLOT_SIZE:
            raise PadError("too much is to be overwritten; see why the pad cannot be written")
        return line.ljust(SLOT_SIZE - 1) + b"\n"

    @classmethod
    def decode(cls, slot: bytes | bytearray) -> Ledger | None:
        """``None`` for a slot that was never written, or cut short by a power cut."""
        digest, _, rest = bytes(slot).partition(b" ")
        body = rest.rstrip(b" \n")
        if len(slot) != SLOT_SIZE or len(digest) != _DIGEST or hashlib.sha256(body).hexdigest().encode() != digest:
            return None
        try:
            found = cls._of(json.loads(body))
            return found if found._is_sound() else None
        except (ValueError, KeyError, TypeError, RecursionError):
            return None

    def _is_sound(self) -> bool:
        """Whether this is a ledger that the steps here can make: by any other bytes could be given twice."""
        own, peers = self.info.lane(self.side), self.info.lane(other(self.side))
        gaps = all(peers[0] <= start and stop <= self.reached for start, stop in self.gaps)
        return (
            own[0] <= self.taken <= own[1]
            and peers[0] <= self.reached <= peers[1]
            and gaps
            and joined(self.gaps) == self.gaps
            and not any(without(dirty, self.used) for dirty in self.dirty)
        )

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> Ledger:
        info = PadInfo(str(fields["pad"]), _count(fields["size"]), _count(fields["share_a"]))
        side: Side = "a" if fields["side"] == "a" else "b"
        if fields["side"] != side:
            raise ValueError("no side")
        return cls(
            info,
            side,
            taken=_count(fields["taken"]),
            reached=_count(fields["reached"]),
            generation=_count(fields["generation"]),
            mark=bytes.fromhex(fields["mark"]),
            opening=bool(fields["opening"]),
            sequence=_count(fields["sequence"]),
            gaps=_ranges(fields["gaps"]),
            dirty=_ranges(fields["dirty"]),
            lost=_count(fields["lost"]),
            came_back=_count(fields["came_back"]),
        )


def newest(first: Ledger | None, second: Ledger | None) -> Ledger | None:
    """Of the two slots. The older one stands for a write that was cut short: nothing was used on its account."""
    found = [ledger for ledger in (first, second) if ledger is not None]
    return max(found, key=lambda ledger: ledger.sequence, default=None)


def joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Sorted, with what overlaps or touches made one."""
    result: list[Range] = []
    for start, stop in sorted(ranges):
        if start >= stop:
            continue
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(stop, result[-1][1]))
        else:
            result.append((start, stop))
    return tuple(result)


def without(whole: Range, taken: Iterable[Range]) -> list[Range]:
    """What is left of a range."""
    left = [whole]
    for start, stop in taken:
        left = [
            part
            for low, high in left
            for part in ((low, min(high, start)), (max(low, stop), high))
            if part[0] < part[1]
        ]
    return left


def _within_window(gaps: list[Range], reached: int) -> tuple[tuple[Range, ...], list[Range]]:
    """The gaps that are kept, and what is lost."""
    floor = reached - WINDOW
    kept = sorted((max(start, floor), stop) for start, stop in gaps if stop > floor)
    closed = [(start, min(stop, floor)) for start, stop in gaps if start < floor]
    excess = max(0, len(kept) - MAX_GAPS)
    return tuple(kept[excess:]), [*closed, *kept[:excess]]


def _demand_size(size: int) -> None:
    if not MIN_KEY <= size <= MAX_KEY:
        raise PadRefusalError(f"a key of {size} bytes; a pad gives {MIN_KEY} to {MAX_KEY}")


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_PAD:
        raise ValueError("out of range")
    return value


def _ranges(value: list[list[int]]) -> tuple[Range, ...]:
    if len(value) > _MAX_RANGES:
        raise ValueError("too many ranges")
    return tuple((_count(start), _count(stop)) for start, stop in value)
