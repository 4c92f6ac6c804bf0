"""What a damaged state file means: for the peer whose line it is, and for all others."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qtunnel.daemon import memory
from qtunnel.daemon.memory import DAMAGED, FILE, StateDirectory
from qtunnel.daemon.records import EPOCH_BOUND, Header, header_line, peer_line, read
from qtunnel.rekey.model import Memory
from qtunnel.tai64n import tai64n
from tests.daemon.memories import ALICE, BOB, CAROL, DAVE, ENTRY, KEPT, fails, opened, remember, shut
from tests.daemon.memories import closed as closed  # a fixture

NEWER = Memory(8, b"\x42" * 12, b"\x43" * 12, 10)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"version": 2, "peers": {}}',
        '{"version": 1, "peers": {"aa": {"epoch": -1, "sent": "00", "seen": "00"}}}',
        json.dumps({"version": 1, "peers": {"aa": {"epoch": EPOCH_BOUND, "sent": "00" * 12, "seen": "00" * 12}}}),
        json.dumps({"version": 1, "peers": {"aa": {"epoch": True, "sent": "00" * 12, "seen": "00" * 12}}}),
        json.dumps({"version": 1, "peers": {"aa": {"epoch": 1, "sent": "00" * 11, "seen": "00" * 12}}}),
        json.dumps({"version": 1, "peers": {"aa": ENTRY | {"place": {"endpoint": "gw", "host": "not an address"}}}}),
    ],
)
def test_a_damaged_file_is_kept_aside_told_and_counts_as_a_loss(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    state, told = opened(tmp_path)
    assert [kind for kind, _ in told] == ["state.damaged"]
    assert (tmp_path / "peers.damaged").read_text() == content
    assert state.of(ALICE).had_epochs
    remember(state, ALICE, Memory(1, lost=True))
    again, told = opened(tmp_path)
    assert told == []
    assert again.of(ALICE).had_epochs
    assert again.of(BOB).had_epochs  # it may have been in the file that is lost


LINES_OF_CHANGES = [{ALICE.hex(): ENTRY | {"epoch": epoch}} for epoch in (2, 3)]


@pytest.mark.parametrize("cut", range(1, 60, 7))
@pytest.mark.parametrize("end", ["", "\n"])
def test_a_line_that_was_cut_short_was_never_confirmed(tmp_path: Path, cut: int, end: str) -> None:
    """As where the power goes while the last line is written; what stands before it counts."""
    lines = [json.dumps({"version": 1, "peers": {ALICE.hex(): ENTRY}}), *map(json.dumps, LINES_OF_CHANGES)]
    (tmp_path / FILE).write_text("\n".join(lines)[:-cut] + end)
    state, told = opened(tmp_path)
    assert (state.of(ALICE).epoch, told) == (2, [])


@pytest.mark.parametrize("bad", ["", "{", "[]", "7", json.dumps({"aa": {"epoch": -1, "sent": "00", "seen": "00"}})])
def test_a_line_that_was_damaged_later_counts_as_a_loss(tmp_path: Path, bad: str) -> None:
    lines = [json.dumps({"version": 1, "peers": {ALICE.hex(): ENTRY}}), bad, json.dumps(LINES_OF_CHANGES[0]), ""]
    (tmp_path / FILE).write_text("\n".join(lines))
    state, told = opened(tmp_path)
    assert [kind for kind, _ in told] == ["state.damaged"]
    assert state.of(ALICE).had_epochs


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A file with the header, then lines of bob, carol, alice (twice) and dave."""
    state, _ = opened(tmp_path)
    for identity, kept in ((BOB, KEPT), (CAROL, KEPT), (ALICE, KEPT), (ALICE, NEWER), (DAVE, KEPT)):
        remember(state, identity, kept)
    shut()
    return tmp_path


def damage(path: Path, line: int, change: Callable[[bytes], bytes]) -> None:
    lines = (path / FILE).read_bytes().split(b"\n")
    lines[line] = change(lines[line])
    (path / FILE).write_bytes(b"\n".join(lines))


def flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda line: line[:at] + bytes([line[at] ^ 1]) + line[at + 1 :]


def lost(memory: Memory, since: bytes, before: Memory) -> bool:
    """Whether it counts as lost: nothing old is news, no file of keys is known, and what is known of before stays."""
    later = replace(memory, seen=before.seen, lost=False, stored=before.stored)
    return memory.lost and memory.stored == 0 and memory.seen >= since and later == before


@pytest.mark.parametrize("at", [0, 8, 9, 11, 100, 140, 150, 200, -2])
def test_one_damaged_line_costs_its_own_peer_and_is_told_by_name(filled: Path, at: int) -> None:
    since = tai64n(time.time_ns())
    damage(filled, 4, flipped(at))  # alice's newest
    before = (filled / FILE).read_bytes()
    state, told = opened(filled)
    ((kind, detail),) = told
    assert kind == "state.damaged"
    assert "line 5 damaged" in detail
    assert detail.endswith("begins a new chain: alice")
    assert (filled / DAMAGED).read_bytes() == before
    assert lost(state.of(ALICE), since, KEPT), "the line before it is there"
    assert [state.of(peer) for peer in (BOB, CAROL, DAVE)] == [KEPT] * 3
    assert state.of(b"\x09" * 64) == Memory()
    again, told = opened(filled)
    assert (told, lost(again.of(ALICE), since, KEPT)) == ([], True), "still, though the file is whole again"


def test_a_damaged_line_that_another_one_follows_costs_nothing(filled: Path) -> None:
    damage(filled, 3, flipped(150))
    state, told = opened(filled)
    assert [kind for kind, _ in told] == ["state.damaged"]
    assert [state.of(peer) for peer in (BOB, CAROL, ALICE, DAVE)] == [KEPT, KEPT, NEWER, KEPT]


@pytest.mark.parametrize("change", [lambda line: b"", lambda line: bytes(len(line)), lambda line: line[:5]])
def test_a_line_of_which_nobody_knows_whose_it_was_costs_all_that_have_none_after_it(
    filled: Path, change: Callable[[bytes], bytes]
) -> None:
    since = tai64n(time.time_ns())
    damage(filled, 3, change)  # alice's first, for all that we know
    state, told = opened(filled)
    assert "and whoever has no line in it" in told[0][1]
    assert all(lost(state.of(peer), since, KEPT) for peer in (BOB, CAROL))
    assert (state.of(ALICE), state.of(DAVE)) == (NEWER, KEPT)
    assert lost(state.of(b"\x09" * 64), since, Memory())


def test_a_damaged_beginning_costs_no_peer_that_is_in_the_file(filled: Path) -> None:
    since = tai64n(time.time_ns())
    damage(filled, 0, flipped(20))
    state, told = opened(filled)
    assert "its beginning cannot be read" in told[0][1]
    assert [state.of(peer) for peer in (BOB, CAROL, ALICE, DAVE)] == [KEPT, KEPT, NEWER, KEPT]
    assert lost(state.of(b"\x09" * 64), since, Memory())


def test_the_only_line_of_a_peer_costs_that_peer_alone(filled: Path) -> None:
    since = tai64n(time.time_ns())
    opened(filled)  # which writes it anew: one line for each
    shut()
    (line,) = [at for at, its in enumerate((filled / FILE).read_text().split("\n")) if ALICE.hex() in its]
    damage(filled, line, flipped(60))
    state, told = opened(filled)
    assert told[0][1].endswith(": alice")
    assert lost(state.of(ALICE), since, Memory())
    assert [state.of(peer) for peer in (BOB, CAROL, DAVE)] == [KEPT] * 3


@given(st.data())
def test_no_damage_ever_makes_an_old_offer_news(data: st.DataObject) -> None:
    """Whatever happens to whichever bytes: a peer has its newest replay time, or a later one; a last line that was cut
    short was never confirmed."""
    clock = tai64n(2_000_000_000 * 10**9)
    peers = [ALICE, BOB, CAROL]
    newest: dict[str, bytes] = {}
    content = header_line(Header()).encode()
    for number in range(data.draw(st.integers(1, 8))):
        identity = data.draw(st.sampled_from(peers)).hex()
        newest[identity] = tai64n((1_700_000_000 + number) * 10**9)
        content += peer_line(identity, Memory(number, seen=newest[identity]), None).encode()
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 2))
        changed[at] ^= data.draw(st.integers(1, 255))
    assume(changed[-2:] == b"}\n")
    found = read(bytes(changed), clock, [peer.hex() for peer in peers])
    for identity, seen in newest.items():
        its = found.peers.get(identity, Memory(seen=found.header.seen))
        torn = b"\0" in bytes(changed).split(b"\n")[-2]
        assert its.seen >= seen or torn


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_of_the_version_before_is_read(tmp_path: Path, whole: bool) -> None:
    lines = [json.dumps({"version": 1, "lost": True, "peers": {ALICE.hex(): ENTRY, BOB.hex(): ENTRY}})]
    lines += [*map(json.dumps, LINES_OF_CHANGES), ""]
    if not whole:
        lines[1] = "?"
    (tmp_path / FILE).write_text("\n".join(lines))
    since = tai64n(time.time_ns())
    state, told = opened(tmp_path)
    assert state.of(ALICE).epoch == 3
    assert len(told) == (not whole)
    assert state.of(BOB) == Memory(1) if whole else lost(state.of(BOB), since, Memory(1))
    assert state.of(CAROL).had_epochs


def test_a_crash_after_a_damaged_file_was_found_does_not_make_it_a_first_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE).write_text("{")

    def crash(self: StateDirectory, job: memory.Job) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StateDirectory, "_write", crash)
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path)
    assert (tmp_path / DAMAGED).read_text() == "{"
    state, told = opened(tmp_path)
    assert [kind for kind, _ in told] == ["state.damaged"]
    assert state.of(ALICE).had_epochs


def test_without_hard_links_a_damaged_file_is_copied_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / FILE).write_text("{")
    (tmp_path / DAMAGED).write_text("of the time before")
    monkeypatch.setattr(os, "link", fails(errno.EPERM))
    state, told = opened(tmp_path)
    assert [kind for kind, _ in told] == ["state.damaged"]
    assert (tmp_path / DAMAGED).read_text() == "{"
    assert state.of(ALICE).had_epochs
