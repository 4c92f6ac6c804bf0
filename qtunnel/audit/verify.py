"""Whether an audit log is what was written: every line that was removed, changed, moved or cut off, by file and line.

What nobody can find, and why, stands in docs/audit.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from qtunnel.audit.chain import HEAD_AFTER, OPENED, TORN, UNCOUNTED, explains
from qtunnel.audit.head import HEAD_KIND, SignedHead, field_bytes, key_name, signs
from qtunnel.audit.record import GENESIS, Record, RecordError, parse
from qtunnel.crypto.signature import PUBLIC_KEY_SIZE

What = Literal["removed", "changed", "moved", "cut off", "key"]


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, the first being 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was written. what: ``removed`` and ``cut off`` name the line next to the hole."""

    what: What
    place: Place
    words: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}: {self.words}"


@dataclass(frozen=True, slots=True)
class Line:
    """A line as it stands in its file. record: None for what is none, and is explained by the line after it."""

    place: Place
    record: Record | None


@dataclass(slots=True)
class Report:
    """What came of it. records: whole ones; first, last: their numbers, 0 where there are none; heads: signatures that
    hold; keys: names of the keys that signed; notes: what a reader has to know that is nobody's fault."""

    findings: list[Finding] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    records: int = 0
    first: int = 0
    last: int = 0
    heads: int = 0
    unsigned: int = 0
    keys: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.findings


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file's name, for words, and its whole content."""

    name: str
    data: bytes


@dataclass(slots=True)
class _Read:
    """A line. record: of its form and hash; problem: why it is none."""

    place: Place
    raw: bytes
    record: Record | None = None
    problem: str = ""
    explained: bool = False


def verify(
    files: Sequence[LogFile], *, heads: Iterable[tuple[str, SignedHead]] = (), keys: Collection[str] = ()
) -> Report:
    """All of a log that is there; its files may come in any order.

    heads: those that were kept elsewhere, each with its file's name. keys: names of the keys that may have signed;
    those that are in the log are believed where none is given, and a note says so.
    """
    report = Report()
    reads = [line for file in _ordered(files) for line in _lines(file, report)]
    _walk(reads, report)
    _beginnings(reads, report)
    _signatures(reads, report, set(keys))
    _kept(reads, report, list(heads), set(keys))
    report.lines = [Line(read.place, read.record) for read in reads]
    report.findings.sort(key=lambda found: _order(files, found.place))
    return report


def _order(files: Sequence[LogFile], place: Place) -> tuple[int, int]:
    return next((index for index, file in enumerate(files) if file.name == place.file), 0), place.line


def _ordered(files: Sequence[LogFile]) -> list[LogFile]:
    """By the first record that each has; what has none stands last."""

    def begin(file: LogFile) -> int:
        for raw in file.data.split(b"\n"):
            try:
                return parse(raw).seq
            except RecordError:
                continue
        return 2**63

    return sorted(files, key=begin)


def _lines(file: LogFile, report: Report) -> list[_Read]:
    parts = file.data.split(b"\n")
    rest = parts.pop()
    reads = [_read(Place(file.name, number), raw) for number, raw in enumerate(parts, 1)]
    for read, after in pairwise(reads):
        if read.record is None and after.record is not None and after.record.kind == TORN:
            read.explained = explains(read.raw, after.record.fields)
            if read.explained:
                report.notes.append(f"{read.place}: the part of a record that a crash cut short, as the next line says")
    if rest:
        last = _read(Place(file.name, len(parts) + 1), rest)
        if last.record is not None:
            reads.append(last)
        else:
            report.notes.append(
                f"{last.place}: the last line has no end: it is being written just now, or a crash or somebody cut it "
                "short; the daemon's next start says so in the log"
            )
    return reads


def _read(place: Place, raw: bytes) -> _Read:
    try:
        return _Read(place, raw, parse(raw))
    except RecordError as error:
        return _Read(place, raw, problem=str(error))


def _walk(reads: list[_Read], report: Report) -> None:
    """Numbers and hashes, from line to line."""
    records = [read.record for read in reads if read.record is not None]
    if not records:
        report.findings += [Finding("changed", read.place, read.problem) for read in reads if not read.explained]
        return
    hashes = {record.seq: record.hash for record in records}
    present = sorted(hashes)
    report.records, report.first, report.last = len(records), min(hashes), max(hashes)
    in_order = _longest_rise([record.seq for record in records])
    seen: set[int] = set()
    expected, before, index = 0, "at the beginning", -1
    for read in reads:
        record = read.record
        if record is None:
            if not read.explained:
                report.findings.append(Finding("changed", read.place, read.problem))
                # It is counted as the record that stood in its place, unless that one stands elsewhere.
                expected += bool(expected) and expected not in hashes
                before = f"behind {read.place}"
            continue
        index += 1
        if index not in in_order:
            once = "once more" if record.seq in seen else "out of its place"
            report.findings.append(Finding("moved", read.place, f"record {record.seq} stands here {once}"))
        else:
            # The first line tells nothing of what stood before it, unless one that was changed stands there.
            gone = _missing(expected, record.seq, present) if expected else ""
            if gone:
                report.findings.append(Finding("removed", read.place, f"{gone} stood before this line, {before}"))
            expected, before = record.seq + 1, f"behind {read.place}"
        follows = hashes.get(record.seq - 1, GENESIS if record.seq == 1 else record.prev)
        if record.prev != follows:
            words = f"record {record.seq} does not follow from record {record.seq - 1}: one of the two was changed"
            report.findings.append(Finding("changed", read.place, words))
        seen.add(record.seq)


def _missing(first: int, until: int, present: Sequence[int]) -> str:
    """In words, the numbers from ``first`` to ``until`` - 1 that are not among those present, which are sorted; empty
    where all are. A hole may be as large as a forger likes, and there may be many: it takes no time for each number."""
    low, high = bisect_left(present, first), bisect_left(present, max(first, until))
    number = max(0, until - first) - (high - low)
    if not number:
        return ""
    while low < high and present[low] == first:
        first, low = first + 1, low + 1
    while low < high and present[high - 1] == until - 1:
        until, high = until - 1, high - 1
    if number == 1:
        return f"record {first}"
    return f"records {first} to {until - 1}" + ("" if low == high else f" ({number} of them)")


def _longest_rise(numbers: list[int]) -> set[int]:
    """Indexes of the longest strictly rising selection: with the fewest lines that were moved."""
    ends: list[int] = []  # index of the smallest last number of a rise of each length
    tails: list[int] = []
    before: list[int] = []
    for index, number in enumerate(numbers):
        at = bisect_left(tails, number)
        before.append(ends[at - 1] if at else -1)
        if at == len(tails):
            tails.append(number)
            ends.append(index)
        else:
            tails[at], ends[at] = number, index
    chosen: set[int] = set()
    index = ends[-1] if ends else -1
    while index >= 0:
        chosen.add(index)
        index = before[index]
    return chosen


def _beginnings(reads: list[_Read], report: Report) -> None:
    """Each file begins with the record that names its key, but for what crashes left of that."""
    begun = {"": True}
    for read in reads:
        kind = None if read.record is None else read.record.kind
        if begun.setdefault(read.place.file, False) or read.explained or kind == TORN:
            continue
        begun[read.place.file] = True
        if kind != OPENED and not read.problem:
            report.findings.append(Finding("removed", read.place, "the beginning of the file stood before this line"))
    if report.first > 1:
        report.notes.append(f"begins with record {report.first}: what was before that is not here")


def _signatures(reads: list[_Read], report: Report, keys: set[str]) -> None:
    """Heads in the log, by the key that the file's first record names; and that there are as many as the daemon makes:
    who has no key can leave them out, but not make any."""
    public: bytes | None = None
    covered = bare = 0
    told: set[str] = set()
    for read in reads:
        record = read.record
        if record is None:
            continue
        bare += record.kind not in UNCOUNTED
        if bare == HEAD_AFTER + 2:  # the head itself is one, and may be the first that is one too many
            words = f"a signature stood before this line: there is one after {HEAD_AFTER} records at the latest"
            report.findings.append(Finding("removed", read.place, words))
        if record.kind == OPENED:
            public = field_bytes(record.fields, "key", PUBLIC_KEY_SIZE)
            name = "" if public is None else key_name(public)
            if public is None:
                report.findings.append(Finding("changed", read.place, "the beginning of a file names no public key"))
            elif name not in report.keys:
                report.keys.append(name)
                bare = 0
            if public is not None and keys and name not in keys and name not in told:
                told.add(name)
                report.findings.append(Finding("key", read.place, f"from here on signed by the key {name}, which is "
                                               "none of those that are to be trusted"))  # fmt: skip
        elif record.kind == HEAD_KIND and public is not None:
            if signs(record, public):
                covered, report.heads, bare = record.seq, report.heads + 1, 0
            else:
                since = f"since record {covered}" if covered else "in what stands before"
                report.findings.append(Finding("changed", read.place, f"the signature does not hold: something {since} "
                                               "was changed, or this line"))  # fmt: skip
        elif record.kind == HEAD_KIND:
            report.notes.append(f"{read.place}: a signature that cannot be checked: the file's first line is not here")
    report.unsigned = report.last - covered if report.records else 0
    if not keys and report.keys:
        report.notes.append(
            f"signed by {', '.join(report.keys)}, which was compared with nothing: give --key, --head or --config"
        )


def _kept(reads: list[_Read], report: Report, heads: list[tuple[str, SignedHead]], keys: set[str]) -> None:
    """Heads that were kept elsewhere."""
    end = next((read.place for read in reversed(reads) if read.record is not None), Place("the log", 0))
    places = {read.record.seq: read for read in reads if read.record is not None}
    known = keys or set(report.keys)
    for name, head in heads:
        whose = key_name(head.public)
        if not head.is_genuine or (whose not in known and known):
            words = f"{name} holds a head " + ("that nobody signed" if not head.is_genuine else f"by the key {whose}")
            report.findings.append(Finding("key", Place(name, 1), f"{words}: it says nothing of this log"))
        elif head.seq > report.last:
            words = f"record {head.seq} was there at {head.time}, as {name} says; here the last one is {report.last}"
            report.findings.append(Finding("cut off", end, words))
        elif head.seq in places:
            read = places[head.seq]
            if read.record is not None and read.record.hash != head.digest:
                words = f"record {head.seq} is not the one that {name} says was here at {head.time}"
                report.findings.append(Finding("changed", read.place, words))
        elif head.seq < report.first:
            report.notes.append(f"{name}: its record {head.seq} is older than what is here")
    if not heads and report.records:
        report.notes.append("no head that was kept elsewhere was given: lines cut off at the end cannot be found")
