"""What survives a restart, and what a damaged file means."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha512
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qtunnel.daemon import memory
from qtunnel.daemon.memory import DAMAGED, FILE, NEW, StateDirectory
from qtunnel.daemon.records import EPOCH_BOUND, Header, Place, header_line, peer_line, read
from qtunnel.errors import EXIT_FAILURE, AlreadyRunningError, ConfigError, QtunnelError
from qtunnel.rekey.model import Memory
from qtunnel.rekey.timing import tai64n

ALICE, BOB, CAROL, DAVE = (sha512(name).digest() for name in (b"alice", b"bob", b"carol", b"dave"))
ENTRY = {"epoch": 1, "sent": "00" * 12, "seen": "00" * 12}
NEWER = Memory(8, b"\x42" * 12, b"\x43" * 12, 10)
KEPT = Memory(
    7, b"\x40" * 12, b"\x41" * 12, 9, held=(("backup", 3), ("metro", 60)), stored=1_700_000_000_000,
)  # fmt: skip


_open: list[StateDirectory] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    shut()


def shut() -> None:
    """As the end of the process does."""
    while _open:
        _open.pop().close()


def opened(path: Path) -> tuple[StateDirectory, list[tuple[str, str]]]:
    """The directory as the next process finds it."""
    shut()
    told: list[tuple[str, str]] = []
    state = StateDirectory(path, lambda kind, detail: told.append((kind, detail)), {ALICE: "alice"})
    _open.append(state)
    return state, told


def settle(state: StateDirectory) -> None:
    """Until no write is under way."""
    while state._writing:
        time.sleep(0.001)


def remember(state: StateDirectory, identity: bytes, kept: Memory) -> None:
    asyncio.run(state.remember(identity, kept))


def test_what_is_remembered_is_there_after_a_restart_and_private(tmp_path: Path) -> None:
    state, _ = opened(tmp_path / "state")
    remember(state, ALICE, KEPT)
    again, told = opened(tmp_path / "state")
    assert again.of(ALICE) == KEPT
    assert again.of(BOB) == Memory()
    assert told == []
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / FILE).stat().st_mode) == 0o600


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


def test_a_directory_that_cannot_be_made_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"state_dir.*give qtunnel a directory"):
        opened(tmp_path / "file" / "state")


def test_a_disk_that_fails_later_is_told_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, told = opened(tmp_path / "state")
    (tmp_path / "state" / NEW).mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fails(errno.EIO))
        for epoch in (1, 2):
            remember(state, ALICE, Memory(epoch))
    assert [kind for kind, _ in told] == ["state.unwritable"]
    assert state.of(ALICE).epoch == 2
    remember(state, BOB, Memory(1))
    (tmp_path / "state" / NEW).rmdir()
    remember(state, BOB, Memory(2))
    again, told = opened(tmp_path / "state")
    assert (again.of(ALICE).epoch, again.of(BOB).epoch) == (2, 2), "what could not be written is, once anything can"
    assert told == []


LINES_OF_CHANGES = [{ALICE.hex(): ENTRY | {"epoch": epoch}} for epoch in (2, 3)]


def test_a_change_costs_the_disk_a_line_however_many_peers_there_are(tmp_path: Path) -> None:
    state, _ = opened(tmp_path)
    for number in range(100):
        remember(state, bytes([number]) * 64, Memory(1))
    before = (tmp_path / FILE).stat().st_size
    remember(state, ALICE, KEPT)
    assert (tmp_path / FILE).stat().st_size - before < 1000
    again, told = opened(tmp_path)
    assert (again.of(ALICE), again.of(bytes([99]) * 64), told) == (KEPT, Memory(1), [])
    assert len((tmp_path / FILE).read_text().splitlines()) == 1 + 101, "a start writes it anew"


def test_changes_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LINES", 5)
    state, _ = opened(tmp_path)
    longest = 0
    for epoch in range(1, 50):
        remember(state, ALICE, Memory(epoch))
        longest = max(longest, len((tmp_path / FILE).read_text().splitlines()))
    assert 5 < longest <= 2 + 5 + memory.LINES_PER_PEER
    again, _ = opened(tmp_path)
    assert again.of(ALICE) == Memory(49)


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


def test_a_second_process_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    state, _ = opened(tmp_path)
    remember(state, ALICE, KEPT)
    with pytest.raises(
        AlreadyRunningError, match=r"state_dir.*in use by another qtunnel; give each gateway a directory"
    ):
        StateDirectory(tmp_path, lambda *_: None)
    remember(state, BOB, Memory(3))
    again, _ = opened(tmp_path)
    assert (again.of(ALICE), again.of(BOB)) == (KEPT, Memory(3))


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o702])
def test_a_directory_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(ConfigError, match=r"others may write there.*chmod 700"):
        opened(tmp_path)
    assert os.listdir(tmp_path) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    target, state = tmp_path / "target", tmp_path / "state"
    target.write_text("of somebody else")
    state.mkdir(0o700)
    (state / NEW).symlink_to(target)
    opened(state)
    assert target.read_text() == "of somebody else"
    shut()
    (state / FILE).unlink()
    (state / FILE).symlink_to(target)
    with pytest.raises(ConfigError, match="symbolic link"):
        opened(state)
    assert target.read_text() == "of somebody else"


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


def test_a_disk_that_hangs_is_told_and_nothing_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, told = opened(tmp_path)
    free = threading.Event()
    real = StateDirectory._write

    def hang(self: StateDirectory, job: memory.Job) -> None:
        free.wait()
        real(self, job)

    monkeypatch.setattr(StateDirectory, "_write", hang)
    monkeypatch.setattr(memory, "WRITE_LIMIT", 0.05)

    async def use() -> None:
        ticks = 0

        async def others() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.005)
                ticks += 1

        running = asyncio.create_task(others())
        await state.remember(ALICE, Memory(1))
        assert ticks > 0, "the event loop stood still"
        await state.remember(ALICE, Memory(2))
        running.cancel()

    asyncio.run(use())
    assert [kind for kind, _ in told] == ["state.unwritable"]
    free.set()
    settle(state)
    shut()
    state, told_again = opened(tmp_path)
    assert (state.of(ALICE).epoch, told_again) == (2, []), "refused, and written late"
    monkeypatch.setattr(memory, "WRITE_LIMIT", 5.0)
    remember(state, ALICE, Memory(3))
    again, _ = opened(tmp_path)
    assert again.of(ALICE).epoch == 3


def fails(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "make room"), (errno.EDQUOT, "make room"), (errno.EIO, "see to that disk")]
)
def test_a_disk_that_fails_at_the_start_is_no_fault_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    monkeypatch.setattr(os, "fsync", fails(number))
    with pytest.raises(QtunnelError, match=rf"state_dir.*{remedy}") as caught:
        opened(tmp_path)
    assert caught.value.exit_code == EXIT_FAILURE, "after which systemd starts the service again"


@pytest.mark.root
def test_a_full_file_system_is_told_with_the_remedy_and_not_as_a_fault_of_the_configuration(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=700", "none", tmp_path], check=True)
    try:
        with pytest.raises(OSError, match="No space"):
            (tmp_path / "fill").write_bytes(bytes(1 << 16))
        with pytest.raises(QtunnelError, match=r"state_dir.*No space left on device; make room there") as caught:
            opened(tmp_path)
        assert caught.value.exit_code == EXIT_FAILURE
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_a_place_that_no_time_makes_usable_is_a_fault_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", fails(number))
    with pytest.raises(ConfigError, match=r"state_dir.*a directory that it may write"):
        opened(tmp_path)


def test_a_disk_that_hangs_at_the_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    monkeypatch.setattr(StateDirectory, "_write", lambda *_: free.wait(30))
    monkeypatch.setattr(memory, "START_LIMIT", 0.05)
    with pytest.raises(QtunnelError, match=r"state_dir.*the disk takes longer") as caught:
        opened(tmp_path)
    free.set()
    assert caught.value.exit_code == EXIT_FAILURE


def test_without_hard_links_a_damaged_file_is_copied_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / FILE).write_text("{")
    (tmp_path / DAMAGED).write_text("of the time before")
    monkeypatch.setattr(os, "link", fails(errno.EPERM))
    state, told = opened(tmp_path)
    assert [kind for kind, _ in told] == ["state.damaged"]
    assert (tmp_path / DAMAGED).read_text() == "{"
    assert state.of(ALICE).had_epochs


def test_where_a_name_led_is_remembered_beside_the_epochs(tmp_path: Path) -> None:
    state, _ = opened(tmp_path)
    first, second = Place("gw.example", "192.0.2.1"), Place("gw.example", "2001:db8::1")
    asyncio.run(state.remember_place(ALICE, first))
    remember(state, BOB, KEPT)

    async def both() -> None:
        await asyncio.gather(state.remember_place(BOB, second), state.remember(ALICE, Memory(2)))

    asyncio.run(both())
    again, told = opened(tmp_path)
    assert told == []
    assert (again.place_of(ALICE), again.place_of(BOB)) == (first, second)
    assert (again.of(ALICE), again.of(BOB)) == (Memory(2), KEPT)
    assert again.place_of(b"\x03" * 64) is None


def test_many_places_at_once_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, _ = opened(tmp_path)
    written: list[memory.Job] = []
    real = StateDirectory._write

    def count(self: StateDirectory, job: memory.Job) -> None:
        written.append(job)
        real(self, job)

    monkeypatch.setattr(StateDirectory, "_write", count)
    place = Place("gw.example", "192.0.2.1")
    identities = [bytes([number]) * 64 for number in range(200)]

    async def all_of_them() -> None:
        await asyncio.gather(*(state.remember_place(identity, place) for identity in identities))

    asyncio.run(all_of_them())
    assert len(written) <= 2
    again, _ = opened(tmp_path)
    assert all(again.place_of(identity) == place for identity in identities)


def test_a_place_that_is_known_costs_no_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, told = opened(tmp_path)
    asyncio.run(state.remember_place(ALICE, Place("gw.example", "192.0.2.1")))
    monkeypatch.setattr(os, "fsync", fails(errno.EIO))
    asyncio.run(state.remember_place(ALICE, Place("gw.example", "192.0.2.1")))
    assert told == []
