"""Record mode where datagrams are lost: what is measured, sizes, parity, and when single packets go instead."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.wireguard.record_burst import ReceiveBuffer
from qtunnel.wireguard.record_format import MAX_COUNT, TYPE_RECORD, fragments
from qtunnel.wireguard.record_link import LAST_REST, LASTING, LOOK, REST, SOON, TOO_LOSSY, RecordLink, RecordState
from qtunnel.wireguard.record_plain import VNET_HEADER, Report
from qtunnel.wireguard.record_size import (
    BUSY,
    BUSY_LOSS,
    DOUBLED,
    DOUBLED_AT_ONCE,
    DOUBLING_LOSS,
    FIRST_GUESS,
    MIN_LOST,
    MIN_SAMPLE,
    PARITY_LOSS,
    SMALL,
    SMALL_COUNTS,
    THIN,
    THIN_LOSS,
    RecordSizer,
    fragments_for,
)
from tests.wireguard.test_record_mode import agreed, current_records, packets
from tests.wireguard.world import End, World


def test_records_shrink_and_get_parity_where_datagrams_are_lost_and_heal_single_losses() -> None:
    world, alice, bob = agreed()
    full = alice.device.records.max_plain(alice.peer(bob), world.now)
    lost = 0

    def lose(source: object, destination: object, data: bytes) -> bool:
        nonlocal lost
        gone = source == alice.endpoint and data[0] == TYPE_RECORD and world.random.random() < 0.01
        lost += gone
        return gone

    world.lose = lose
    sent = 0
    for turn in range(2000):
        if turn == 300:  # the loss is known by now
            sent = lost = 0
            bob.delivered.clear()
        size = min(alice.device.records.max_plain(alice.peer(bob), world.now), 12_000)
        count = max(2, size // 1038)
        sent += count
        alice.send_record(bob, *packets(alice, bob, count))
        world.settle()
        world.advance(0.005)
    sizer = alice.peer(bob).records.sizer
    assert sizer.parity
    assert sizer.count < 16
    assert alice.device.records.max_plain(alice.peer(bob), world.now) < full / 4
    missing = sent - len(bob.delivered)
    assert lost > 20
    assert missing < sent / 200


def test_loss_that_ends_is_forgotten() -> None:
    world, alice, bob = agreed()
    sizer = alice.peer(bob).records.sizer
    sizer.believe(0.005)
    assert (sizer.parity, sizer.count < 20) == (True, True)
    for _ in range(4000):
        alice.send_record(bob, *packets(alice, bob, 8))
        world.settle()
        world.advance(0.01)
    assert sizer.loss < 0.0015  # of 0.005, and falls on, as the next test has it


def flow(world: World, alice: End, bob: End, turns: int, count: int, pause: float) -> None:
    """In each turn ``count`` packets from alice to bob, in records as large as they may be, while they go there."""
    for _ in range(turns):
        left = count
        while left and (room := alice.device.records.max_plain(alice.peer(bob), world.now)):
            several = min(left, room // 1038)
            alice.send_record(bob, *packets(alice, bob, several))
            left -= several
        world.settle()
        world.advance(pause)


def lossy(world: World, share: float) -> None:
    chance = world.random
    world.lose = lambda source, destination, data: data[0] == TYPE_RECORD and chance.random() < share


def test_busy_traffic_goes_packet_by_packet_where_a_link_loses_too_much_and_records_are_tried_again() -> None:
    world, alice, bob = agreed()
    lossy(world, 0.08)
    flow(world, alice, bob, 1500, 35, 0.001)
    assert alice.peer(bob).records.state is RecordState.RESTING
    assert "record_mode_state=resting\nrecord_mode_reason=" in alice.get()
    assert "% of the datagrams are lost" in alice.get()
    world.lose = lambda source, destination, data: False
    world.advance(REST + 1)
    assert alice.peer(bob).records.state is RecordState.ACTIVE
    assert alice.send_record(bob, *packets(alice, bob, 4))
    alice.set_peer(bob.public, "record_mode=off")


def test_thin_traffic_stays_in_records_that_are_small_and_heal() -> None:
    world, alice, bob = agreed()
    lossy(world, 0.08)
    flow(world, alice, bob, 1000, 2, 0.005)
    sizer = alice.peer(bob).records.sizer
    assert alice.peer(bob).records.state is RecordState.ACTIVE
    assert (sizer.busy, sizer.count) == (False, 2)
    bob.delivered.clear()
    flow(world, alice, bob, 1000, 2, 0.005)
    assert len(bob.delivered) > 2000 * (1 - 0.04)


def lose(link: RecordLink, reports: int, now: float, share: float = 0.1) -> float:
    """Reports of 100,000 fragments a second; when the last came."""
    for _ in range(reports):
        now += 0.1
        said = link._baseline
        link.reported(
            Report(
                said.next + 1000,
                said.expected + 10_000,
                said.received + round(10_000 * (1 - share)),
                said.delivered + 1000,
            ),
            1 << 40,
            now,
        )
    return now


def confirmed(now: float) -> RecordLink:
    """A link that is in use since then."""
    link = RecordLink()
    link.set_suite("aes-256-gcm", 0)
    link.use_session(1)
    link.reported(Report(1, 1, 1, 1), 1, now)
    link.sizer.believe(PARITY_LOSS)  # so that records have parity, and show what is lost
    return link


def resting() -> RecordLink:
    """At 0.5, after a rate of 100,000 fragments a second."""
    link = confirmed(0.2)
    lose(link, LASTING - 1, 0.2)
    assert link.active
    lose(link, 1, 0.4)
    assert not link.active
    return link


def test_a_moment_of_loss_is_no_lossy_link() -> None:
    link = confirmed(0.1)
    now = lose(link, LASTING - 1, 0.1, 0.3)
    assert link.sizer.loss > TOO_LOSSY
    for _ in range(10):
        now = lose(link, LASTING - 1, lose(link, 1, now, 0.001), 0.1)
    assert link.active


@pytest.mark.parametrize(("rate", "ends"), [(60_000, REST), (40_000, 3 * LOOK), (THIN / 2, 3 * LOOK)])
def test_a_rest_ends_when_it_is_over_or_when_it_makes_things_worse(rate: float, ends: float) -> None:
    link = resting()
    now = 0.5
    while link.state is RecordState.RESTING:
        now = max(link.next_look, now + 0.1)
        link.rest(int(rate * now), now)
    assert now - 0.5 == pytest.approx(ends)
    mistaken = ends < REST
    now = lose(link, LASTING, now)
    assert link.active == mistaken
    if mistaken:
        lose(link, 2, now + REST)  # the first is of traffic after a pause
        assert not link.active


def rest(link: RecordLink, now: float) -> float:
    """Let it rest until it is over; when that is."""
    while not link.active:
        now = max(link.next_look, now + 0.1)
        link.rest(int(60_000 * now), now)
    return now


def test_a_link_that_stays_lossy_is_tried_less_and_less_often() -> None:
    link = resting()
    now = 0.5
    rests = []
    for _ in range(5):
        began, now = now, rest(link, now)
        rests.append(now - began)
        now = lose(link, LASTING, now)
        assert not link.active
    assert rests == pytest.approx([REST, 2 * REST, 4 * REST, LAST_REST, LAST_REST])
    now = lose(link, int(SOON * 10) + 1, rest(link, now), 0.001)
    now = lose(link, 3, now, 0.2)
    assert not link.active
    assert rest(link, now) - now == pytest.approx(REST)


@pytest.mark.parametrize("heard", [0, 30_000])
def test_acknowledgments_of_a_busy_flow_rest_as_well(heard: int) -> None:
    """A few of them go out, each in a record, and many datagrams come in, a second."""
    link = confirmed(0.1)
    now = 0.1
    for number in range(1, 20):
        now += 0.1
        sent = 100 * number
        report = Report(sent, sent - 10 * number, sent - 10 * number, sent - 10 * number)
        link.reported(report, 1 << 40, now, int(heard * now))
    assert link.active == (heard == 0)


def test_a_pause_of_the_traffic_is_no_mistake_of_the_rest() -> None:
    link = resting()
    for look, sent in ((1.5, 0), (2.5, 90_000), (3.5, 91_000), (4.5, 180_000)):
        link.rest(sent, look)
    assert link.state is RecordState.RESTING


def test_a_flow_that_begins_after_a_pause_is_no_mistake_of_the_rest_either() -> None:
    link = resting()
    sent = 0
    for second, rate in enumerate((90_000, 0, 15_000, 20_000, 30_000, 45_000, 60_000)):
        sent += rate
        link.rest(sent, 1.5 + second)
        assert link.state is RecordState.RESTING
    for look in (8.5, 9.5):
        sent += 20_000
        link.rest(sent, look)
    assert link.active


def test_a_new_session_while_resting_says_nothing_of_the_rate() -> None:
    link = resting()
    for look, sent in ((1.5, 500_000), (2.5, 590_000), (3.5, 10), (4.5, 80_000)):
        link.rest(sent, look)
    assert link.state is RecordState.RESTING


def test_single_packets_go_twice_where_datagrams_are_lost_and_reports_do_too() -> None:
    world, alice, bob = agreed()
    for end, other in ((alice, bob), (bob, alice)):
        end.peer(other).records.sizer.believe(0.01)
    lossy(world, 0.05)
    for _ in range(2000):
        alice.send_record(bob, *packets(alice, bob, 1))
        world.settle()
        world.advance(0.002)
    assert alice.peer(bob).records.state is RecordState.ACTIVE
    assert 2000 * (1 - 0.015) < len(bob.delivered) <= 2000
    assert 0.03 < alice.peer(bob).records.sizer.loss < 0.08  # of the datagrams, not of the records
    assert bob.drops == {}


def test_a_clean_link_makes_records_large_again() -> None:
    sizer = RecordSizer()
    for _ in range(2):
        assert sizer.measured(1000, 990)
        assert sizer.parity
    small = sizer.count
    for _ in range(400):
        sizer.measured(1000, 1000)
    assert (sizer.count, sizer.parity) == (MAX_COUNT, False)
    assert small < 20


def test_a_small_sample_says_nothing_unless_much_of_it_was_lost() -> None:
    sizer = RecordSizer()
    assert not sizer.measured(MIN_SAMPLE - 1, MIN_SAMPLE - MIN_LOST)
    assert not sizer.measured(1000, 1001)
    assert (sizer.count, sizer.parity) == (MAX_COUNT, False)
    assert sizer.measured(100, 100 - MIN_LOST)
    assert sizer.loss == FIRST_GUESS
    assert sizer.measured(100, 100 - MIN_LOST)
    assert sizer.loss == pytest.approx((FIRST_GUESS + 0.1) / 2)


def report_of(said: Report, sent: int, whole: int, healed: int, count: int, spoiled: int = 0) -> Report:
    """After ``sent`` records more of ``count`` fragments, of which ``whole`` never came and ``healed`` were healed."""
    came = sent - whole
    return Report(
        said.next + sent,
        said.expected + came * count,
        said.received + came * count - healed,
        said.delivered + came,
        said.spoiled + spoiled,
    )


@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
def test_records_lost_whole_are_no_lossy_link(share: float) -> None:
    """As where a queue overflows that takes them in one piece: their size changes nothing about it."""
    link = RecordLink()
    link.set_suite("aes-256-gcm", 0)
    link.use_session(1)
    link.reported(Report(1, 1, 1, 1), 1, 0.1)
    said, now = Report(1, 1, 1, 1), 0.1
    for _ in range(100):
        now += 0.1
        said = report_of(said, 400, int(400 * share), 0, link.sizer.count)
        link.reported(said, 1 << 40, now)
        assert link.active
        assert link.sizer.loss < 2 * FIRST_GUESS
        assert link.sizer.count > 15


def test_records_that_forged_fragments_spoil_are_a_lossy_link() -> None:
    link = confirmed(0.1)
    said, now = Report(1, 1, 1, 1), 0.1
    for _ in range(20):
        now += 0.1
        said = report_of(said, 4000, 2000, 0, link.sizer.count, spoiled=2000)
        link.reported(said, 1 << 40, now)
    assert link.state is RecordState.RESTING


@pytest.mark.parametrize("lost", [0, 5])
def test_thin_traffic_rests_where_forged_fragments_spoil_records_but_not_where_they_spoil_nothing(lost: int) -> None:
    link = confirmed(0.1)
    said, now = Report(1, 1, 1, 1), 0.1
    rests = []
    while now < 60:
        for _ in range(40):
            now += 0.1
            if link.active:
                said = report_of(said, 6, lost, 0, 2, spoiled=5)
                link.reported(said, 1 << 40, now)
        began = now
        while not link.active and now < 100:
            now += LOOK
            link.rest(int(10 * now), now)  # so little traffic that any other rest would be a mistake
        rests.append(round(now - began))
    assert link.active
    assert rests[:3] == ([7, 17, 37] if lost else [0, 0, 0])  # of 10, 20 and 40 s, that began 3 s before


def test_a_record_that_is_spoiled_now_and_then_is_no_reason_to_rest() -> None:
    link = confirmed(0.1)
    said, now = Report(1, 1, 1, 1), 0.1
    for _ in range(200):
        now += 0.1
        said = report_of(said, 20, 1, 0, 20, spoiled=1)
        link.reported(said, 1 << 40, now)
    assert link.active


@pytest.mark.parametrize("loss", [0.002, 0.01, 0.05, 0.1])
def test_losses_one_by_one_are_met_within_a_second_whatever_the_size_was(loss: float) -> None:
    chance, link = random.Random(2), RecordLink()
    link.set_suite("aes-256-gcm", 0)
    link.use_session(1)
    said, now = Report(1, 1, 1, 1), 0.1
    link.reported(said, 1, now)
    for _ in range(9):
        now += 0.1
        count, parity = link.sizer.count, link.sizer.parity
        whole = healed = 0
        sent = 5000 // count
        for _ in range(sent):
            data = sum(chance.random() < loss for _ in range(count))
            spare = parity and chance.random() >= loss
            whole += data > spare
            healed += data == 1 and spare
        said = report_of(said, sent, whole, healed, count)
        link.reported(said, 1 << 40, now)
    assert 0.5 * loss < link.sizer.loss < 1.6 * loss


@pytest.mark.parametrize("loss", [1e-3, 1e-2, 5e-2])
def test_chance_does_not_drive_the_estimate_up(loss: float) -> None:
    chance, sizer = random.Random(1), RecordSizer()
    seen = []
    for _ in range(400):
        sizer.measured(1000, sum(chance.random() >= loss for _ in range(1000)))
        seen.append(sizer.loss)
    assert statistics.mean(seen[100:]) == pytest.approx(loss, rel=0.15)


def test_sizes_do_not_swing_with_the_rate() -> None:
    sizer = RecordSizer()
    sizer.believe(0.01)
    sizes = []
    for rate in (BUSY * 2, BUSY * 0.9, THIN * 1.1, BUSY * 2, THIN / 2, THIN * 2, BUSY * 0.9, BUSY * 1.1):
        sizer.carries(rate)
        sizes.append(sizer.count)
    large, small = fragments_for(0.01, BUSY_LOSS), fragments_for(0.01, THIN_LOSS)
    assert sizes == [large] * 4 + [small] * 3 + [large]


@given(st.lists(st.floats(0, 0.01), max_size=200))
def test_doubling_has_a_bound(pauses: list[float]) -> None:
    sizer = RecordSizer()
    sizer.believe(0.01)
    now, doubled = 5.0, 0
    for pause in [0.0] * 100 + pauses:
        now += pause
        doubled += sizer.doubles(SMALL + 1, now)
        assert doubled <= DOUBLED_AT_ONCE + 1 + (now - 5) * DOUBLED
    assert doubled >= DOUBLED_AT_ONCE
    sizer.believe(DOUBLING_LOSS / 2)
    assert not sizer.doubles(SMALL + 1, now + 10)
    sizer.believe(0.01)
    assert SMALL_COUNTS * sum(sizer.doubles(SMALL, now + 10) for _ in range(100)) >= DOUBLED_AT_ONCE
    assert SMALL_COUNTS * sum(sizer.doubles(SMALL, now + 20) for _ in range(100)) <= DOUBLED_AT_ONCE + SMALL_COUNTS


@pytest.mark.parametrize("loss", [1e-4, 1e-3, 1e-2, 5e-2])
@pytest.mark.parametrize("share", [BUSY_LOSS, THIN_LOSS])
def test_records_lose_less_than_the_link(loss: float, share: float) -> None:
    count = fragments_for(loss, share)
    assert (count + 1) * count / 2 * loss**2 <= loss * max(share + 1e-9, 3 * loss)
    assert count >= 2


@pytest.mark.parametrize("first", [1, 2, 15])
@pytest.mark.parametrize("parity", [False, True])
def test_where_a_burst_ends_does_not_count_as_loss(first: int, parity: bool) -> None:
    world, alice, bob = agreed()
    peer, keys = alice.peer(bob), current_records(bob, alice)
    peer.records.sizer.parity = parity
    before = keys.report(question=False)
    for _ in range(20):
        sent = packets(alice, bob, 20)
        plain = b"".join(bytes(VNET_HEADER) + packet for packet in sent)
        datagrams, size = alice.device.records.seal(peer, memoryview(plain), world.now)
        data = bytes(datagrams)
        for burst in (data[: first * size], data[first * size :]):
            buffer = ReceiveBuffer(len(burst))
            buffer.view[:] = burst
            for _, items in bob.device.records.open_burst(buffer, 0, len(burst), size, alice.endpoint, world.now):
                bob.delivered += [bytes(item[VNET_HEADER:]) for item in items]
        assert bob.delivered == sent
        bob.delivered.clear()
    after = keys.report(question=False)
    assert after.delivered - before.delivered == 20
    assert after.expected - before.expected == after.received - before.received == 20 * fragments(len(plain), size)
