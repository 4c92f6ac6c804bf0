"""The emulated link does what it is told to frames, and no more."""

from __future__ import annotations

import json
import random
from dataclasses import asdict

import pytest

from tests.support import emulator
from tests.support.emulator import ETHERNET, Emulator, Fate, corrupted
from tests.support.link import emulated
from tests.support.netns import namespaces
from tests.support.ping import answered, ping

IP = bytes([0x45, 0, 0, 48, 0, 0, 0, 0, 64, 17, 0, 0, 10, 99, 0, 1, 10, 99, 0, 2])
FRAME = bytes(12) + b"\x08\x00" + IP + b"\xca\x6c\xca\x6c\x00\x1c\xab\xcd" + bytes(range(20))
ARP = bytes(12) + b"\x08\x06" + bytes(28)
COUNT = 2000


@pytest.fixture
def out(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    frames: list[bytes] = []
    monkeypatch.setattr(emulator, "write", lambda tap, frame: frames.append(frame))
    return frames


def run(**impairment: float | bool) -> Fate:
    its = Emulator((3, 4), random.Random(7))
    its.obey(json.dumps(impairment))
    for _ in range(COUNT):
        its.take(FRAME, 4)
    return Fate(**json.loads(its.obey("{}")))


def test_without_an_impairment_every_frame_passes_as_it_is(out: list[bytes]) -> None:
    assert asdict(run()) == asdict(Fate(passed=COUNT))
    assert out == [FRAME] * COUNT


def test_a_share_is_lost_and_what_is_cut_is_cut_whole(out: list[bytes]) -> None:
    fate = run(lose=0.1)
    assert 120 < fate.lost < 280
    assert len(out) == fate.passed == COUNT - fate.lost
    out.clear()
    assert run(cut=True).cut == COUNT
    assert not out


def test_address_resolution_is_only_ever_cut(out: list[bytes]) -> None:
    its = Emulator((3, 4), random.Random(7))
    its.obey(json.dumps({"lose": 1.0}))
    its.take(ARP, 4)
    assert out == [ARP]


def test_a_corrupted_datagram_differs_by_a_bit_and_has_no_checksum_that_would_tell() -> None:
    for at in (0.0, 0.5, 0.999):
        changed = corrupted(FRAME, at)
        head = ETHERNET + 20 + 8
        assert changed[: head - 2] == FRAME[: head - 2]
        assert changed[head - 2 : head] == b"\0\0"
        bits = sum((left ^ right).bit_count() for left, right in zip(changed[head:], FRAME[head:], strict=True))
        assert bits == 1


def test_a_narrow_link_drops_what_its_queue_does_not_hold(out: list[bytes]) -> None:
    fate = run(rate=1e6)  # 0.1 s of it are 201 frames of 62 bytes
    assert 150 < fate.passed < 400
    assert fate.queue_full == COUNT - fate.passed


@pytest.mark.root
def test_two_hosts_hear_each_other_through_it_twice_where_it_duplicates() -> None:
    with namespaces(2) as (left, right), emulated(left, right) as link:
        left.address("eth0", "10.99.0.1/24")
        right.address("eth0", "10.99.0.2/24")
        assert len(answered(left.run(*ping("10.99.0.2", 20)).stdout)) == 20
        link.set(duplicate=1.0, reorder=0.5)
        output = left.run(*ping("10.99.0.2", 20), check=False).stdout
        assert "(DUP!)" in output
        fate = link.set(cut=True)
        assert fate["duplicated"] == fate["passed"] >= 40
        assert not answered(left.run(*ping("10.99.0.2", 2, patience=1), check=False).stdout)
