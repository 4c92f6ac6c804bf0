"""A pad in use: the order in which ledger and pad are written, so that no crash lets a byte be used twice.

For each key: the ledger that has it as used is on disk; the bytes are read; zeros in their place are on disk; then
the key is handed out. A crash before that loses the key at most. At the next opening, what the ledger has as used and
perhaps not overwritten is overwritten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from qtunnel.drivers.file_format import HEADER_SIZE, IMPRINT_AT, IMPRINT_SIZE, Imprint, PadInfo, Range, Side, other
from qtunnel.drivers.file_ledger import (
    SLOT_SIZE,
    Ledger,
    PadDiskError,
    PadMismatchError,
    newest,
    without,
)
from qtunnel.errors import PadError
from qtunnel.secret import Secret

SLOTS = 2
SAMPLE = 16
"""Bytes that are looked at to tell random ones from overwritten ones: by chance once in 2^128."""
OVERWRITE_AT_ONCE = 8 << 20
"""Bytes that one call overwrites at most: a second of the slowest stick. Only what the peer skipped can be as much."""
_ZEROS = bytes(1 << 20)

Step = Callable[[str], None]
"""Told after each thing that was done; a test stops there."""


class Medium(Protocol):
    """A file of fixed size. Raises ``OSError``."""

    def read(self, offset: int, size: int) -> bytearray:
        """May be shorter where the file is."""
        ...

    def write(self, offset: int, data: bytes | memoryview) -> None: ...

    def sync(self) -> None:
        """Returns once all that was written is on disk."""
        ...


def silent(step: str) -> None:
    pass


class Pad:
    """One copy of a pad, opened by one process. Every method blocks.

    pad: the file; book: its ledger, two slots that are written in turn. mark: 16 random bytes of this opening. Raises
    ``PadError`` where the two do not belong together, and ``OSError``; after any error but a ``PadUsedUpError`` or a
    ``PadRefusalError`` it is ``broken``, and has to be opened anew.
    """

    def __init__(self, info: PadInfo, side: Side, pad: Medium, book: Medium, mark: bytes, step: Step = silent) -> None:
        self.info = info
        self.broken = True
        self._pad, self._book, self._step = pad, book, step
        self._ledger = self._examined(side)
        self._open(mark)
        self.broken = False

    @property
    def ledger(self) -> Ledger:
        """As it is on disk, besides what was overwritten since."""
        return self._ledger

    def take(self, size: int) -> tuple[int, Secret]:
        """The next key of this side, and its offset."""
        self._overwrite()
        ledger, offset = self._ledger.take(size)
        return offset, self._use(ledger, offset, size)

    def give(self, offset: int, size: int) -> Secret:
        """The key that the peer drew at that offset."""
        self._overwrite()
        return self._use(self._ledger.give(offset, size), offset, size)

    def tidy(self) -> None:
        """Overwrite some of what was lost."""
        self._overwrite()

    # Opening

    def _examined(self, side: Side) -> Ledger:
        """The ledger on disk, or a fresh one, after a look whether it is that of this pad."""
        slots = [Ledger.decode(self._book.read(at * SLOT_SIZE, SLOT_SIZE)) for at in range(SLOTS)]
        ledger = newest(slots[0], slots[1])
        imprint, torn = self._imprint()
        if ledger is None:
            # Without an imprint nothing was ever drawn, so what else the ledger may hold was cut short.
            if imprint is not None and imprint.side != side:
                raise PadMismatchError(f"this copy was used as side {imprint.side} before, and cannot be side {side}")
            if imprint is not None or torn:
                raise PadMismatchError(
                    "this copy was used before, and its ledger is missing or damaged; put the ledger back, or take a "
                    "new pad"
                )
            ledger = Ledger.fresh(self.info, side)
        elif (ledger.info, ledger.side) != (self.info, side):
            raise PadMismatchError("its ledger is that of another pad; take a new pad")
        else:
            ledger = ledger.matched(imprint, torn)
        return self._compared(ledger)

    def _imprint(self) -> tuple[Imprint | None, bool]:
        """The imprint, and whether it is torn."""
        try:
            return Imprint.decode(self._pad.read(IMPRINT_AT, IMPRINT_SIZE), self.info), False
        except PadError:
            return None, True

    def _compared(self, ledger: Ledger) -> Ledger:
        """The ledger, after a look at the places in the pad where used bytes end and unused ones begin."""
        for lane, reached in ((ledger.side, ledger.taken), (other(ledger.side), ledger.reached)):
            ahead = self._read(reached, min(SAMPLE, self.info.lane(lane)[1] - reached))
            if len(ahead) == SAMPLE and not any(ahead):
                what = "its ledger is older than the pad" if ledger.generation else "it was used before"
                raise PadMismatchError(
                    f"{what}: bytes that should be unused are overwritten (offset {reached}); put the newer ledger "
                    "back, or take a new pad"
                )
        for used in ledger.used:
            for low, high in without(used, ledger.dirty):
                if any(self._read(max(low, high - SAMPLE), min(SAMPLE, high - low))):
                    return ledger.all_again()
        return ledger

    def _open(self, mark: bytes) -> None:
        """A new generation. The ledger goes first, so that a crash in between shows in it."""
        # What was read may be the last words of a process that was killed before its sync, and stand in memory alone: a
        # power cut while the other slot is written would then take both.
        self._book.sync()
        self._store(self._ledger.begun(mark))
        self._step("generation in the ledger")
        imprint = Imprint(self._ledger.side, self._ledger.generation, mark).encode(self.info)
        self._pad.write(IMPRINT_AT, imprint)
        self._step("imprint written")
        self._pad.sync()
        self._step("imprint on disk")
        self._store(self._ledger.settled())
        self._step("opened")
        self._overwrite()

    # Using

    def _use(self, ledger: Ledger, offset: int, size: int) -> Secret:
        """The key, once ``ledger``, which has it as used, is on disk and the key is not any more."""
        self.broken = True
        data = bytearray()
        try:
            self._store(ledger)
            self._step("ledger on disk")
            data = self._read(offset, size)
            self._step("key read")
            if len(data) != size:
                raise PadError("the file is shorter than its header says; take a new pad")
            if bytes(SAMPLE) in data:
                raise PadMismatchError(
                    f"the bytes at offset {offset} are overwritten, and the ledger has them as unused: one of the two "
                    "is an older copy; put the newer one back, or take a new pad"
                )
            self._overwrite((offset, offset + size))
            key = Secret(data)
        except PadError as error:
            error.lost = 1
            raise
        except OSError as error:
            raise PadDiskError(_words(error), lost=1) from None
        finally:
            data[:] = bytes(len(data))
        self.broken = False
        return key

    def _store(self, ledger: Ledger) -> None:
        """Into the slot of the older one, on disk before this returns."""
        ledger = replace(ledger, sequence=self._ledger.sequence + 1)
        self._book.write(ledger.sequence % SLOTS * SLOT_SIZE, ledger.encode())
        self._step("ledger written")
        self._book.sync()
        self._ledger = ledger

    def _overwrite(self, first: Range = (0, 0)) -> None:
        """Zeros in the place of what was used, on disk before this returns. The ledger hears of it with the next key:
        until then it has more to overwrite than there is."""
        done = self._ledger.to_overwrite(first, OVERWRITE_AT_ONCE)
        if not done:
            return
        broken, self.broken = self.broken, True
        for start, stop in done:
            for at in range(start, stop, len(_ZEROS)):
                self._pad.write(HEADER_SIZE + at, memoryview(_ZEROS)[: min(stop - at, len(_ZEROS))])
                self._step("zeros written")
        self._pad.sync()
        self._step("zeros on disk")
        self._ledger = self._ledger.overwritten(done)
        self.broken = broken

    def _read(self, offset: int, size: int) -> bytearray:
        return self._pad.read(HEADER_SIZE + offset, size)


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
