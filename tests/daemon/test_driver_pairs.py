"""A hundred rekeys a second apart with each driver, and with two of them in one key; all pairs run at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from qtunnel.control.messages import Status
from qtunnel.drivers.file_open import read_ledger
from tests.daemon.driver_pairs import PLACE, DriverPair, Line, driver_pairs, lines
from tests.support.mosquitto import needs_mosquitto
from tests.support.netns import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(900), needs_mosquitto]

REKEYS = 100
HARMLESS = {
    "engine.says": "no-peer-for-destination",  # what IPv6 sends by itself
    "rekey.unanswered": "no answer yet",  # a machine with much else to do
}
"""Warnings that may come, and words of theirs."""
WRONG = {"rekey.failed", "source.failed", "source.down", "source.keys-lost", "key.expired", "message.rejected"}
MIXES = [
    ("etsi014",), ("etsi004",), ("skip",), ("mqtt",), ("file",), ("exec",),
    ("etsi014", "mqtt"), ("etsi004", "file"), ("skip", "exec"),
]  # fmt: skip
ENDS = list(PLACE)


@dataclass
class Run:
    """What a pair has shown. logs, last: by site; seen: source and key_ID of epochs, as the status had them."""

    pair: DriverPair
    logs: dict[str, list[Line]] = field(default_factory=dict)
    last: dict[str, Status] = field(default_factory=dict)
    seen: dict[str, dict[int, set[tuple[str, str]]]] = field(default_factory=lambda: {site: {} for site in ENDS})

    def look(self) -> int:
        """Note both ends' status; how many rekeys the slower one has done."""
        for site in ENDS:
            status = self.last[site] = self.pair.status(site)
            peer = status.peers[0]
            if peer.epoch_in_force is not None:
                self.seen[site][peer.epoch_in_force] = {(key.source, key.key_id) for key in peer.key_ids}
        return min(status.peers[0].rekeys_ok for status in self.last.values())

    def epochs(self, site: str) -> Mapping[int, Line]:
        """By number, each told once."""
        peer = self.pair.ends[site][1]
        done = [line for line in self.logs[site] if line.event == "rekey.done" and line.fields["peer"] == peer]
        found = {int(line.fields["epoch"]): line for line in done}
        assert len(found) == len(done)
        return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Run]:
    with driver_pairs(tmp_path_factory.mktemp("pairs"), MIXES) as pairs:
        made = {pair.drivers: Run(pair) for pair in pairs}

        def through() -> bool:
            time.sleep(0.5)
            return min([run.look() for run in made.values()]) > REKEYS

        wait_until(through, f"{REKEYS} rekeys of each pair", 400)
        for run in made.values():
            assert run.pair.echoes is not None
            run.pair.echoes.stop()
        for run in made.values():
            assert run.pair.echoes is not None
            run.pair.echoes.end()
            run.look()
        hub = lines(pairs[0].hub)
        for run in made.values():
            run.logs = {"alice": hub, "bob": lines(run.pair.own)}
    return made


@pytest.fixture(params=MIXES, ids="+".join)
def run(request: pytest.FixtureRequest, runs: dict[tuple[str, ...], Run]) -> Run:
    return runs[request.param]


def test_both_ends_have_the_same_keys_in_a_hundred_epochs_and_none_twice(run: Run) -> None:
    alice, bob = (run.epochs(site) for site in ENDS)
    newest = min(max(alice), max(bob))
    common = [number for number in sorted({*alice, *bob}) if number <= newest]
    assert len(common) >= REKEYS
    for epochs in (alice, bob):
        used = [key for line in epochs.values() for key in line.keys]
        assert len(set(used)) == len(used), "a key_ID twice"
        assert len({key_id for _, key_id in used}) == len(used)
    for number in common:
        keys = alice[number].keys
        assert set(keys) == set(bob[number].keys), f"epoch {number}"
        assert sorted(source for source, _ in keys) == sorted(run.pair.drivers)


def test_no_key_went_to_two_pairs(runs: dict[tuple[str, ...], Run]) -> None:
    used = [key for run in runs.values() for line in run.epochs("alice").values() for key in line.keys]
    assert len(used) >= REKEYS * sum(map(len, MIXES))
    assert len(set(used)) == len(used), "a key_ID twice"


def test_what_the_status_shows_is_what_was_agreed(run: Run) -> None:
    for site in ENDS:
        epochs = run.epochs(site)
        shown = run.seen[site]
        assert shown
        for number, keys in shown.items():
            assert keys == set(epochs[number].keys)
        status = run.last[site]
        peer = status.peers[0]
        assert (peer.protected, peer.protection, peer.chained) == (True, "qkd+pqc", True)
        assert peer.sources == ["x25519", "ml-kem-1024", *(f"{driver}:{driver}" for driver in run.pair.drivers)]
        known = {source.name: (source.healthy, source.keys_lost) for source in status.key_sources}
        assert {driver: known[driver] for driver in run.pair.drivers} == dict.fromkeys(run.pair.drivers, (True, 0))


def test_nothing_went_wrong_and_no_packet_was_lost(run: Run) -> None:
    echoes = run.pair.echoes
    assert echoes is not None
    assert echoes.sent > 5 * REKEYS
    assert (echoes.lost, echoes.gaps) == (0, [])
    for site in ENDS:
        during = [line for line in run.logs[site] if line.at >= run.pair.began[site] and run.pair.concerns(line)]
        assert not [line for line in during if line.event in WRONG]
        for line in during:
            if line.level != "info":
                assert HARMLESS.get(line.event, "nothing") in " ".join(line.fields.values()), line


@pytest.mark.parametrize("run", [mix for mix in MIXES if "file" in mix], ids="+".join, indirect=True)
def test_the_ledgers_of_a_pad_have_each_key_once(run: Run) -> None:
    """Each end's lane was drawn from upwards without a gap, and the other end has given out the same."""
    pair = run.pair
    assert pair.pad is not None
    books = {}
    for site, side in (("alice", "a"), ("bob", "b")):
        sae = "sae-alice" if site == "alice" else pair.sae
        books[site] = read_ledger(pair.hub.directory / f"ledger-{sae}", pair.pad, "a" if side == "a" else "b")
    alice, bob = books["alice"], books["bob"]
    assert alice is not None
    assert bob is not None
    offsets = sorted(
        int(key_id.partition(":")[2])
        for line in run.epochs("alice").values() for source, key_id in line.keys if source == "file"
    )  # fmt: skip
    lanes = {own.info.lane(own.side)[0]: own for own in (alice, bob)}
    for begin, own in lanes.items():
        mine = [offset for offset in offsets if begin <= offset < own.info.lane(own.side)[1]]
        assert mine == list(range(begin, begin + 32 * len(mine), 32))
        assert own.taken >= begin + 32 * len(mine)
        theirs = bob if own is alice else alice
        assert (theirs.gaps, theirs.lost) == ((), 0)
        assert theirs.reached in (own.taken, own.taken - 32)  # what was offered last may not have come over
