"""A link under faults and attacks."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.qkdnet.channel import Fading, FreeSpace, Satellite
from qtunnel.qkdnet.conditions import Conditions, Figures, Hardware
from qtunnel.qkdnet.link import Link, LinkState
from qtunnel.qkdnet.reservoir import ShortageError
from tests.qkdnet.support import RATE, simple, spec

WINDOW = 250
"""Bits of key that wait until the error of the window after them is known: of its 1000 sifted bits, each a quarter."""

PASS = Satellite(500.0, math.radians(70), math.radians(10), first=1000.0, every=10_000.0)


def link(**options: object) -> Link:
    return Link(spec("x", "a", "b", **options), simple, 0.0)


def words(found: object) -> list[str]:
    return [one.what for one in found]  # type: ignore[attr-defined]


def test_keys_come_at_the_rate_of_the_physics_up_to_the_store() -> None:
    one = link(capacity=10_000)
    list(one.advance(2.0))
    assert one.reservoir.stored == 2 * RATE - WINDOW
    list(one.advance(100.0))
    assert one.reservoir.stored == 10_000
    assert one.reservoir.made == 100 * RATE - WINDOW


@given(st.lists(st.floats(0.001, 3), min_size=1, max_size=30))
def test_how_often_one_looks_changes_nothing(steps: list[float]) -> None:
    often, once = link(), link()
    now = 0.0
    for step in steps:
        now += step
        list(often.advance(now))
    list(once.advance(now))
    assert abs(often.reservoir.made - once.reservoir.made) <= 1


def test_a_cut_link_makes_nothing_and_its_store_is_used_up() -> None:
    one = link()
    list(one.advance(1.0))
    one.cut(1.0)
    list(one.advance(10.0))
    assert one.state is LinkState.CUT
    assert one.usable
    one.take(int(RATE - WINDOW))
    with pytest.raises(ShortageError):
        one.take(1)
    one.restore(10.0)
    list(one.advance(11.0))
    assert one.reservoir.stored == RATE  # with what was in the window when light went


def test_an_eavesdropper_is_alarmed_and_what_came_meanwhile_is_thrown_away() -> None:
    one = link()
    list(one.advance(10.0))
    one.eavesdrop(10.0, "intercept-resend")
    found = list(one.advance(20.0))
    assert words(found) == ["link.alarm"]
    # 2 % to 27 % in a straight line: 11 % after 36 % of the 1000 bits that the window has
    assert found[0].at == pytest.approx(10 + 0.36 * 1000 / (4 * RATE), rel=1e-3)
    assert one.state is LinkState.ALARMED
    assert not one.usable
    assert one.alarm == "QBER above the threshold of 11.0%"
    # what she touched leaves no key, and of what came before it is not known that it came before
    assert one.reservoir.discarded == pytest.approx(0.64 * WINDOW, abs=1)
    assert one.reservoir.stored == pytest.approx(10 * RATE - 0.64 * WINDOW, abs=1)
    assert one.error == pytest.approx(0.27)
    one.restore(20.0)
    assert words(one.advance(30.0)) == ["link.cleared"]
    assert one.alarm is None
    assert one.reservoir.stored > 10 * RATE


def test_a_link_that_is_too_noisy_from_the_start_says_so() -> None:
    one = link(threshold=0.01)
    assert words(one.advance(0.0)) == ["link.alarm"]
    assert words(one.advance(5.0)) == []
    assert one.reservoir.made == 0


@pytest.mark.parametrize("qber", [0.07, 0.08, 0.1])
def test_a_link_whose_error_is_its_threshold_comes_back_after_an_alarm(qber: float) -> None:
    def even(conditions: Conditions) -> Figures:
        return Figures(RATE, 4 * RATE, qber + conditions.intercepted / 4)

    one = Link(spec("x", "a", "b", threshold=qber), even, 0.0)
    assert words(one.advance(1.0)) == []
    one.eavesdrop(1.0, "intercept-resend")
    assert words(one.advance(3.3)) == ["link.alarm"]
    one.restore(3.3)
    assert words(one.advance(100.0)) == ["link.cleared"]


@pytest.mark.parametrize("begin", [1e9, 1e11, 1e15])
def test_time_goes_on_where_a_number_tells_no_microseconds_apart(begin: float) -> None:
    """A day of the network in each second of the clock, for days."""
    one = Link(spec("x", "a", "b"), simple, begin)
    assert words(one.advance(begin + 10)) == []
    one.eavesdrop(begin + 10, "intercept-resend")
    assert words(one.advance(begin + 20)) == ["link.alarm"]
    one.restore(begin + 20)
    assert words(one.advance(begin + 30)) == ["link.cleared"]


def test_a_share_that_stays_below_the_threshold_costs_keys_but_no_alarm() -> None:
    one = link()
    one.eavesdrop(0.0, "intercept-resend", 0.2)
    assert words(one.advance(10.0)) == []
    assert one.state is LinkState.UP
    assert one.error == pytest.approx(0.07)


def test_a_key_waits_until_the_error_of_the_window_after_it_is_known() -> None:
    """Of a second. Noise that grows in two steps: what came within a window before the alarm is thrown away."""
    one = link(sample=4 * RATE)
    list(one.advance(1.0))
    assert one.reservoir.stored == 0
    list(one.advance(2.0))
    assert one.reservoir.stored == RATE
    one.add_noise(2.0, 0.08)
    list(one.advance(3.0))
    assert one.reservoir.stored == 2 * RATE
    one.add_noise(3.0, 0.5)  # 10 % to 52 %: 11 % after 1/42 of the window
    assert words(one.advance(100.0)) == ["link.alarm"]
    assert one.reservoir.stored == pytest.approx(RATE * (2 + 1 / 42), abs=1)
    assert one.reservoir.discarded == pytest.approx(RATE * (1 - 1 / 42), abs=1)


@pytest.mark.parametrize(("waits", "known"), [(True, 0), (False, 90)])
def test_who_intercepts_knows_what_a_link_gives_out_before_it_knows_the_error(waits: bool, known: int) -> None:
    """Until the alarm, after 36 % of the window, a link that does not wait makes keys as if nobody were there."""
    one = link(waits=waits)
    list(one.advance(1.0))
    before = one.reservoir.stored
    one.eavesdrop(1.0, "intercept-resend")
    (alarm,) = one.advance(1.5)
    assert alarm.what == "link.alarm"
    one.restore(1.5)
    list(one.advance(9.0))
    first = RATE if not waits else before + 0.36 * WINDOW
    assert not one.take(int(first))
    assert [one.take(1) for _ in range(200)].count(True) == pytest.approx(known, abs=1)
    assert not one.take(int(RATE))


def test_a_share_below_the_threshold_is_taken_away_once_it_is_known() -> None:
    for waits, known in ((True, 0), (False, WINDOW)):
        one = link(waits=waits)
        list(one.advance(1.0))
        one.eavesdrop(1.0, "intercept-resend", 0.2)  # 7 %
        assert words(one.advance(3.0)) == []
        taken = [one.take(1) for _ in range(one.reservoir.stored)]
        assert taken.count(True) == pytest.approx(known, abs=1)


def test_an_eavesdropper_who_comes_and_goes_within_a_window_is_seen_in_its_mean() -> None:
    """A fifth of the time all of the light, which is 7 % in all: no alarm, and a fifth fewer keys. Half: an alarm."""
    for share, alarms in ((0.2, 0), (0.5, 1)):
        one, now = link(), 0.0
        for _ in range(200):
            one.eavesdrop(now, "intercept-resend")
            list(one.advance(now + 0.01 * share))
            one.restore(now + 0.01 * share)
            now += 0.01
            list(one.advance(now))
        assert min(one.alarms, 1) == alarms
        if not alarms:
            assert one.reservoir.made == pytest.approx(0.8 * (2 * RATE - WINDOW), rel=0.01)


def test_bright_light_is_seen_by_a_receiver_that_watches_for_it() -> None:
    one = link()
    list(one.advance(1.0))
    assert words(one.eavesdrop(1.0, "blind")) == ["link.eavesdropped", "link.alarm"]
    assert one.alarm == "bright light blinds the detectors"
    looks = [one._next_moment()]
    assert words(one.advance(2.0)) == []
    assert looks == [math.inf]  # the QBER is low, and nothing waits for it to become so
    assert words(one.restore(2.0)) == ["link.restored", "link.cleared"]


def test_what_a_blinded_link_makes_unnoticed_is_known_to_the_eavesdropper_and_no_more() -> None:
    one = link(watched=False)
    list(one.advance(1.0))  # 2560 bits that she does not know
    one.eavesdrop(1.0, "blind")
    list(one.advance(2.0))
    one.restore(2.0)
    list(one.advance(3.0))
    assert one.state is LinkState.UP
    list(one.advance(3.5))
    assert [one.take(1280) for _ in range(6)] == [False, False, True, True, False, False]


def test_what_was_thrown_away_is_no_longer_the_eavesdropper_s() -> None:
    one = link(watched=False, sample=4 * RATE)  # a window of a second
    list(one.advance(1.0))
    one.eavesdrop(1.0, "blind")
    list(one.advance(3.0))  # a second of bits that she knows, and another in the window
    assert one.reservoir.stored == 2 * RATE
    one.add_noise(3.0, 0.5)  # 11 % after 18 % of the window
    assert words(one.advance(50.0)) == ["link.alarm"]
    assert one.reservoir.stored == pytest.approx(2.18 * RATE, abs=1)
    one.restore(50.0)
    list(one.advance(200.0))
    parts = [RATE, 1.17 * RATE, 0.02 * RATE, RATE, RATE]
    assert [one.take(int(part)) for part in parts] == [False, True, True, False, False]


def test_light_cannot_blind_a_homodyne_receiver() -> None:
    with pytest.raises(ValueError, match="cannot blind"):
        link(hardware=Hardware(protocol="cv")).eavesdrop(0.0, "blind")


def test_only_fibre_has_a_length_to_set() -> None:
    one = link()
    one.set_distance(0.0, 50.0)
    assert one.key_rate == RATE / 2
    with pytest.raises(ValueError, match="use loss"):
        link(channel=FreeSpace(2.0)).set_distance(0.0, 3.0)
    with pytest.raises(ValueError, match="was measured"):
        link(hardware=Hardware(protocol="measured")).set_distance(0.0, 3.0)


def test_a_satellite_makes_keys_in_its_passes_only_and_its_store_serves_between() -> None:
    one = link(channel=PASS)
    assert one.state is LinkState.DARK
    assert one.error == 0  # nobody has measured one
    found = list(one.advance(30_000.0))
    half = PASS.pass_length / 2
    rises = [1000 + number * 10_000 - half for number in range(3)]
    assert [one.at for one in found if one.what == "link.risen"] == pytest.approx(rises)
    assert [one.at for one in found if one.what == "link.set"] == pytest.approx([rise + 2 * half for rise in rises])
    assert one.state is LinkState.DARK
    assert one.key_rate == 0
    made = one.reservoir.made
    assert made > 0
    list(one.advance(30_500.0))
    assert one.reservoir.made == made
    one.take(256)


def test_an_alarm_outlasts_a_pass_and_ends_in_one_without_the_eavesdropper() -> None:
    one = link(channel=PASS)
    one.eavesdrop(0.0, "intercept-resend")
    assert words(one.advance(5000.0)) == ["link.risen", "link.alarm"]
    one.restore(5000.0)
    assert one.state is LinkState.ALARMED
    found = words(one.advance(15_000.0))
    assert found == ["link.cleared", "link.set"]


def test_keys_that_were_used_before_light_came_to_the_eavesdropper_do_not_count() -> None:
    one = link(channel=PASS, initial=100 * 256)
    one.eavesdrop(0.0, "intercept-resend")
    for _ in range(60):
        one.take(256)
    assert words(one.advance(5000.0)) == ["link.risen", "link.alarm"]
    assert one.keys_until_alarm == 0
    one.restore(5000.0)
    list(one.advance(15_000.0))  # in the dark again, after a pass without her
    one.eavesdrop(15_000.0, "intercept-resend")
    one.take(256)
    half = PASS.pass_length / 2
    list(one.advance(21_000.0 - half + 1e-3))
    one.take(256)
    list(one.advance(22_000.0))
    assert one.keys_until_alarm == 1


def test_an_alarm_of_noise_alone_is_none_over_an_eavesdropper() -> None:
    one = link(initial=100 * 256)
    one.add_noise(0.0, 0.2)
    assert words(one.advance(1.0)) == ["link.alarm"]
    assert (one.alarms, one.keys_until_alarm) == (1, None)
    one.restore(1.0)
    list(one.advance(2.0))
    one.eavesdrop(2.0, "intercept-resend")
    one.take(256)
    list(one.advance(3.0))
    one.restore(3.0)
    list(one.advance(4.0))
    one.add_noise(4.0, 0.2)
    list(one.advance(5.0))
    assert (one.alarms, one.keys_until_alarm) == (3, 1)


def test_a_satellite_that_never_rises_high_enough_gives_no_light_and_costs_no_moments() -> None:
    low = Satellite(500.0, math.radians(10), math.radians(10), first=1000.0, every=86_400.0)
    assert low.pass_length == 0.0
    assert low.next_change(0.0) == math.inf
    assert [low.loss_at(moment) for moment in (0.0, 1000.0, 87_400.0)] == [None] * 3
    assert low.typical(1000.0) == []


def test_passes_follow_from_the_orbit() -> None:
    """500 km: 94.6 minutes round the Earth (Kepler); above the horizon at most 11.6 minutes of them."""
    overhead = Satellite(500.0, math.radians(90), 0.0, first=0.0, every=10_000.0)
    period = 94.6 * 60
    assert overhead.pass_length == pytest.approx(period * math.acos(6371 / 6871) / math.pi, rel=2e-3)
    elevation, distance = overhead.elevation_and_range(0.0)
    assert elevation == pytest.approx(math.pi / 2)
    assert distance == pytest.approx(500.0)
    horizon, far = overhead.elevation_and_range(overhead.pass_length / 2)
    assert horizon == pytest.approx(0, abs=1e-6)
    assert far == pytest.approx(math.sqrt(6871**2 - 6371**2), rel=1e-6)


def test_a_plan_of_a_satellite_s_fades_has_the_mean_of_what_is_played_in_a_pass_and_nothing_between() -> None:
    orbit = Satellite(500.0, math.radians(70), math.radians(10), first=1000.0, every=86_400.0, loss=-20.0,
                      fading=Fading(1.0, 1.0, "s"))  # fmt: skip
    faded = spec("down", "sky", "ground", channel=orbit)
    played, averaged = Link(faded, simple, 0.0), Link(faded, simple, 0.0, average=True)
    made = []
    for moment in (1000.0 - orbit.pass_length / 2, 1000.0 + orbit.pass_length / 2, 80_000.0):
        for one in (played, averaged):
            list(one.advance(moment))
        made.append((played.reservoir.made, averaged.reservoir.made))
    before, behind, later = made
    assert before == (0, 0)
    assert behind[0] == pytest.approx(behind[1], rel=0.05)
    assert later == behind
    assert behind[0] > 1000


def test_fades_are_the_same_in_every_run_and_have_the_deviation_that_was_asked_for() -> None:
    fading = Fading(3.0, 1.0, "seed")
    several = [fading.at(second) for second in range(4000)]
    assert several == [fading.at(second) for second in range(4000)]
    mean = sum(several) / len(several)
    assert abs(mean) < 0.2
    assert math.sqrt(sum((one - mean) ** 2 for one in several) / len(several)) == pytest.approx(3.0, rel=0.05)
    assert several != [Fading(3.0, 1.0, "other").at(second) for second in range(4000)]


def test_a_plan_of_fades_has_the_mean_of_what_is_played() -> None:
    faded = spec("x", "a", "b", channel=FreeSpace(1.0, fading=Fading(2.0, 1.0, "s")))
    played, averaged = Link(faded, simple, 0.0), Link(faded, simple, 0.0, average=True)
    for one in (played, averaged):
        list(one.advance(1500.0))
    assert averaged._next_moment() == math.inf  # days of it cost nothing
    assert played.reservoir.made == pytest.approx(averaged.reservoir.made, rel=0.05)
