"""Whatever is removed, changed, moved or cut off is found, and named by file and line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qtunnel.audit.chain import HEAD_AFTER, TORN, Chain, examine
from qtunnel.audit.head import SignedHead, key_name
from qtunnel.audit.record import GENESIS, encode, parse
from qtunnel.audit.verify import Finding, LogFile, _missing, verify
from tests.audit.support import KEY, OTHER_KEY, make_log, new_chain, opening, time_of

SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=3)
EVERY = st.integers(1, 4)
CHEAP = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAME = key_name(KEY.public)


def split(files: Sequence[LogFile]) -> list[list[bytes]]:
    return [file.data.split(b"\n")[:-1] for file in files]


def joined(files: Sequence[LogFile], lines: list[list[bytes]]) -> list[LogFile]:
    return [
        LogFile(file.name, b"".join(line + b"\n" for line in part)) for file, part in zip(files, lines, strict=True)
    ]


def places(found: Sequence[Finding], what: str) -> list[tuple[str, int]]:
    return [(its.place.file, its.place.line) for its in found if its.what == what]


def found_in(files: Sequence[LogFile], head: SignedHead | None = None) -> list[Finding]:
    return verify(files, heads=[] if head is None else [("kept", head)], keys=[NAME]).findings


@CHEAP
@given(SIZES, EVERY, st.randoms(use_true_random=False))
def test_a_log_as_it_was_written_is_good_in_any_order_of_its_files(
    sizes: list[int], every: int, chance: Random
) -> None:
    files, head = make_log(sizes, every)
    shuffled = list(files)
    chance.shuffle(shuffled)
    report = verify(shuffled, heads=[("kept", head)], keys=[NAME])
    assert report.findings == []
    assert report.notes == []
    assert (report.first, report.last, report.records) == (1, head.seq, head.seq)
    assert report.heads == sum(size // every for size in sizes)


@CHEAP
@given(SIZES, EVERY, st.data())
def test_lines_that_were_removed_are_found(sizes: list[int], every: int, data: st.DataObject) -> None:
    files, head = make_log(sizes, every)
    lines = split(files)
    which = data.draw(st.integers(0, len(lines) - 1))
    first = data.draw(st.integers(0, len(lines[which]) - 1))
    count = data.draw(st.integers(1, len(lines[which]) - first))
    at_end = which == len(lines) - 1 and first + count == len(lines[which])
    del lines[which][first : first + count]
    after = next(((files[n].name, i + 1) for n, i in ((m, j) for m in range(which, len(lines))
                  for j in range(first if m == which else 0, len(lines[m])))), None)  # fmt: skip
    findings = found_in(joined(files, lines), head)
    if at_end:
        left = [(files[n].name, len(part)) for n, part in enumerate(lines) if part]
        assert places(findings, "cut off") == [left[-1] if left else ("the log", 0)]
    else:
        assert places(findings, "removed")[0] == after


@CHEAP
@given(SIZES, EVERY, st.data())
def test_a_changed_byte_is_found_in_its_line(sizes: list[int], every: int, data: st.DataObject) -> None:
    files, head = make_log(sizes, every)
    lines = split(files)
    which = data.draw(st.integers(0, len(lines) - 1))
    line = data.draw(st.integers(0, len(lines[which]) - 1))
    old = lines[which][line]
    at = data.draw(st.integers(0, len(old) - 1))
    new = data.draw(st.integers(0, 255).filter(lambda byte: byte not in (old[at], 10)))
    lines[which][line] = old[:at] + bytes([new]) + old[at + 1 :]
    assert places(found_in(joined(files, lines), head), "changed") == [(files[which].name, line + 1)]


@CHEAP
@given(SIZES, EVERY, st.data())
def test_lines_that_changed_places_are_found(sizes: list[int], every: int, data: st.DataObject) -> None:
    files, head = make_log(sizes, every)
    lines = split(files)
    everywhere = [(n, i) for n, part in enumerate(lines) for i in range(len(part))]
    one, other = sorted(data.draw(st.lists(st.sampled_from(everywhere), min_size=2, max_size=2, unique=True)))
    (a, i), (b, j) = one, other
    lines[a][i], lines[b][j] = lines[b][j], lines[a][i]
    moved = places(found_in(joined(files, lines), head), "moved")
    swapped = {(files[a].name, i + 1), (files[b].name, j + 1)}
    # Files stand in the order of their first records: a first line that went may have taken its file along.
    if i and j and a == b:  # of three lines turned round nobody can tell which two were moved
        assert set(moved) <= swapped | ({(files[a].name, i + 2)} if j == i + 2 else set())
    assert moved


@CHEAP
@given(SIZES, EVERY, st.data())
def test_a_line_that_stands_twice_is_found(sizes: list[int], every: int, data: st.DataObject) -> None:
    files, head = make_log(sizes, every)
    lines = split(files)
    which = data.draw(st.integers(0, len(lines) - 1))
    line = data.draw(st.integers(0, len(lines[which]) - 1))
    lines[which].insert(line, lines[which][line])
    (place,) = places(found_in(joined(files, lines), head), "moved")
    assert place in {(files[which].name, line + 1), (files[which].name, line + 2)}


def rewritten(lines: list[bytes], at: int, until: int) -> list[bytes]:
    """Lines of which one was changed, and the hashes of those up to another made to fit: what anybody can do."""
    lines, prev = list(lines), parse(lines[at]).prev
    for index in range(at, until):
        old = parse(lines[index])
        fields = {**old.fields, "epoch": 999} if index == at else old.fields
        lines[index], prev = encode(old.seq, old.time, old.kind, old.peer, fields, prev)
    return lines


@CHEAP
@given(st.integers(3, 12), st.data())
def test_hashes_that_were_made_to_fit_are_found_where_they_end(size: int, data: st.DataObject) -> None:
    files, _ = make_log([size], 100)
    (lines,) = split(files)
    at = data.draw(st.integers(1, len(lines) - 2))
    until = data.draw(st.integers(at + 1, len(lines) - 1))
    findings = found_in(joined(files, [rewritten(lines, at, until)]))
    assert places(findings, "changed") == [("audit-0", until + 1)]


@CHEAP
@given(st.integers(2, 8), st.data())
def test_hashes_that_were_made_to_fit_to_the_end_are_found_by_the_signatures(size: int, data: st.DataObject) -> None:
    files, head = make_log([size], 1)
    (lines,) = split(files)
    at = data.draw(st.integers(0, size - 1)) * 2 + 1  # records and signatures take turns, behind the first line
    findings = found_in(joined(files, [rewritten(lines, at, len(lines))]), head)
    changed = places(findings, "changed")
    assert changed[0] == ("audit-0", at + 2)
    assert changed[-1] == ("audit-0", len(lines))  # by the head that was kept


@given(st.sets(st.integers(1, 40)), st.integers(1, 40), st.integers(1, 41))
def test_what_is_missing_between_two_numbers(present: set[int], first: int, until: int) -> None:
    gone = [number for number in range(first, until) if number not in present]
    said = _missing(first, until, sorted(present))
    if not gone:
        assert said == ""
    elif len(gone) == 1:
        assert said == f"record {gone[0]}"
    else:
        whole = gone[-1] - gone[0] + 1 == len(gone)
        assert said == f"records {gone[0]} to {gone[-1]}" + ("" if whole else f" ({len(gone)} of them)")


def test_holes_as_large_as_a_forger_likes_take_no_time() -> None:
    """Each of them was counted through: a megabyte of such lines took minutes, a large log days."""
    text, counts = b"", 5000
    for number in range(counts):
        line, _ = encode(1 + (number << 48), time_of(0), "rekey.done", "bob", {}, GENESIS)
        text += line + b"\n"
    found = found_in([LogFile("audit", text)])
    assert len(places(found, "removed")) >= counts - 1
    assert "records 2 to 281474976710656 stood before" in str(found)


def test_a_log_without_the_daemons_signatures_is_found_however_well_its_hashes_fit() -> None:
    """Who has no key can make every hash, the first line with the true public key, and no signature."""
    chain = new_chain()
    text = opening(chain, 0)
    for number in range(1, HEAD_AFTER + 1):
        text += chain.append(time_of(number), "rekey.done", "bob", {"epoch": number})
    assert found_in([LogFile("audit", text)]) == [], "so many may wait for one"
    forged = text
    for number in range(HEAD_AFTER + 1, HEAD_AFTER + 4):
        forged += chain.append(time_of(number), "rekey.done", "bob", {"epoch": number})
    lines, _ = make_log([600], 1000)
    for files, line in (([LogFile("audit", forged)], HEAD_AFTER + 3), (lines, HEAD_AFTER + 3)):
        (finding,) = found_in(files)
        assert (finding.what, finding.place.line) == ("removed", line)


def test_a_log_that_somebody_else_wrote_is_found_by_its_key() -> None:
    files, _ = make_log([3], 2, OTHER_KEY)
    assert places(found_in(files), "key") == [("audit-0", 1)]
    assert places(found_in(files, make_log([3], 2)[1]), "key") == [("audit-0", 1)]
    trusting = verify(files)
    assert trusting.findings == []
    assert any(f"signed by {key_name(OTHER_KEY.public)}, which was compared with nothing" in n for n in trusting.notes)


def test_a_head_that_nobody_signed_says_nothing() -> None:
    files, head = make_log([3], 2)
    (finding,) = found_in(files, replace(head, seq=head.seq + 1))
    assert (finding.what, finding.place.file) == ("key", "kept")
    assert "nobody signed" in finding.words


def test_without_a_kept_head_it_says_what_cannot_be_found() -> None:
    files, _ = make_log([3], 2)
    cut = joined(files, [split(files)[0][:-2]])
    report = verify(cut, keys=[NAME])
    assert report.findings == []
    assert any("lines cut off at the end cannot be found" in note for note in report.notes)


def test_a_head_from_before_what_is_here_is_no_finding() -> None:
    files, _ = make_log([3, 3], 2)
    early = new_chain()
    opening(early, 0)
    old = early.signed_end(time_of(0), early.end)
    report = verify(files[1:], heads=[("kept", old)], keys=[NAME])
    assert report.findings == []
    assert any("is older than what is here" in note for note in report.notes)
    assert any("begins with record 6" in note for note in report.notes)


@CHEAP
@given(st.binary(max_size=300))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    report = verify([LogFile("x", data)])
    assert report.records == 0
    assert len(report.findings) == data.count(b"\n")


@CHEAP
@given(st.integers(1, 5), st.data())
def test_what_a_crash_cut_short_is_recognised_and_the_chain_goes_on(size: int, data: st.DataObject) -> None:
    files, _ = make_log([size], 2)
    text = files[0].data
    last = text.rstrip(b"\n").rpartition(b"\n")[2]
    keep = data.draw(st.integers(1, len(last) - 1))
    text = text[: len(text) - len(last) - 1 + keep]
    assert verify([LogFile("x", text)], keys=[NAME]).findings == []  # nobody can tell it from one just being written
    found = examine(text, text)
    assert found.torn == last[:keep]
    chain = Chain("alice", KEY.public, KEY.sign, found.end)
    text += chain.torn(time_of(99), found.torn)
    text += chain.append(time_of(99), "rekey.done", "bob", {})
    report = verify([LogFile("x", text)], heads=[("kept", chain.signed_end(time_of(99), chain.end))], keys=[NAME])
    assert report.findings == []
    assert any("a crash cut short" in note for note in report.notes)
    torn = text.replace(last[:keep] + b"\n", b"?" + last[1:keep] + b"\n") if keep > 1 else b""
    if torn and torn != text:
        assert places(verify([LogFile("x", torn)], keys=[NAME]).findings, "changed") == [("x", text.count(b"\n") - 2)]
    assert json.loads(text.split(b"\n")[-3])["kind"] == TORN


@CHEAP
@given(
    st.integers(1, 2**63 - 1),
    st.text(max_size=20),
    st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(max_size=30)),
)
def test_a_record_is_read_as_it_was_written(seq: int, peer: str, fields: dict[str, object]) -> None:
    line, digest = encode(seq, time_of(1), "rekey.done", peer, fields, bytes(32))
    found = parse(line)
    assert (found.seq, found.peer, dict(found.fields), found.hash) == (seq, peer, fields, digest)
    assert b"\n" not in line
