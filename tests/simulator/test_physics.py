"""Single links and chains against the package's own results for the same hardware."""

from __future__ import annotations

import itertools
import math

import pytest
import qkd

from qtunnel.qkdnet.channel import Fibre
from qtunnel.qkdnet.conditions import Classical, Conditions, Hardware, Protocol
from qtunnel.qkdnet.link import LinkSpec
from qtunnel.qkdnet.network import Network, NodeSpec
from qtunnel.simulator import physics
from qtunnel.simulator.physics import figures

LENGTHS = [1.0, 25.0, 50.0, 100.0, 150.0]
DETECTOR = qkd.ClickDetector(eta=0.2, dark=1e-6)


def clicked(modulation: object, length: float, receiver: object, security: object) -> qkd.LinkResult:
    bob = qkd.Bob(detector=DETECTOR, receiver=receiver)
    return qkd.Link(modulation=modulation, channel=qkd.Fiber(length=length), bob=bob, security=security).run()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    ("protocol", "keying"), [("bb84-decoy", {}), ("six-state", {"bases": 3}), ("sarg04", {"announce": "pair"})]
)
def test_decoy_links_have_the_rate_and_error_of_the_package(protocol: str, keying: dict, length: float) -> None:  # type: ignore[type-arg]
    own = clicked(
        qkd.BasisKeying(decoy=qkd.Decoy((0.5, 0.1, 0.0)), **keying),
        length,
        qkd.BasisAnalyser(misalign=0.01),
        qkd.SplittingAttack(f=1.22),
    )
    ours = figures(Conditions(Hardware(protocol=protocol), length))  # type: ignore[arg-type]
    assert ours.key_rate == pytest.approx(1e9 * own.key_rate)
    assert ours.error == pytest.approx(own.qber)


@pytest.mark.parametrize("length", LENGTHS)
def test_cow_links_have_the_rate_and_error_of_the_package(length: float) -> None:
    own = clicked(
        qkd.IntensityKeying(mu=0.5), length, qkd.CoherenceMonitor(misalign=0.01), qkd.PhaseBound(e_phase=0.1, f=1.1)
    )
    ours = figures(Conditions(Hardware(protocol="cow", leak=1.1), length))
    assert ours.key_rate == pytest.approx(1e9 * own.key_rate)
    assert ours.error == pytest.approx(own.qber)


@pytest.mark.parametrize("length", [1.0, 25.0, 80.0])
def test_links_of_continuous_variables_have_the_rate_of_the_package(length: float) -> None:
    own = qkd.Link(
        modulation=qkd.GaussianModulation(v_a=4.0),
        channel=qkd.Channel(T=10 ** (-0.02 * length), xi=0.005, ref="input"),
        bob=qkd.Bob(detector=qkd.Heterodyne(eta=0.6, v_el=0.1)),
        security=qkd.Asymptotic(beta=0.95),
    ).run()
    ours = figures(Conditions(Hardware(protocol="cv", efficiency=0.6, clock=1e8), length))
    assert ours.key_rate == pytest.approx(1e8 * own.key_rate)
    assert ours.error == 0.005


def test_pairs_from_the_middle_have_the_rate_of_the_package() -> None:
    arm = qkd.Fiber(length=25.0)
    own = qkd.PairLink(qkd.PairSource(rate=1e9), (DETECTOR,) * 2, (arm, arm), qkd.BasisAnalyser(misalign=0.01)).run()
    ours = figures(Conditions(Hardware(protocol="bbm92"), 50.0))
    assert ours.key_rate == pytest.approx(own.per_second)
    assert ours.error == pytest.approx(own.qber)


def test_a_finite_block_costs_what_the_package_says() -> None:
    own = clicked(
        qkd.BasisKeying(decoy=qkd.Decoy((0.5, 0.1, 0.0))),
        50.0,
        qkd.BasisAnalyser(misalign=0.01),
        qkd.SplittingAttack(f=1.22, block=qkd.KeyBlock(n=1e10)),
    )
    ours = figures(Conditions(Hardware(block=1e10), 50.0))
    assert ours.key_rate == pytest.approx(1e9 * own.key_rate)
    assert 0 < ours.key_rate < figures(Conditions(Hardware(), 50.0)).key_rate


@pytest.mark.parametrize("backward", [False, True])
def test_classical_light_adds_the_clicks_that_the_package_adds(backward: bool) -> None:
    """Its closed form has none; its sampled one tells the background that it draws from."""
    own = qkd.Link(
        modulation=qkd.BasisKeying(decoy=qkd.Decoy((0.5, 0.1, 0.0))),
        channel=qkd.Fiber(length=25.0),
        alice=qkd.Alice(symbol_rate=1e9),
        bob=qkd.Bob(detector=qkd.ClickDetector(eta=0.2, dark=1e-6, passband=25e9), receiver=qkd.BasisAnalyser(0.01)),
        impairments=[qkd.Coexistence(4, -10.0, backward=backward)],
        security=qkd.SplittingAttack(),
    ).run(symbols=1000, seed=1)
    dark = physics._dark(qkd, Conditions(Hardware(), 25.0, classical=Classical(4, -10.0, backward)))
    assert 1 - (1 - dark) ** 2 == pytest.approx(own.explain["y0"]["value"], rel=1e-9)


def test_a_source_of_pairs_shines_on_under_an_attack_and_shows_it() -> None:
    hardware = Hardware(protocol="bbm92", clock=10e6, efficiency=0.15, dark=1e-5, misalignment=0.02)
    before = figures(Conditions(hardware, 10.0))
    attacked = figures(Conditions(hardware, 10.0, intercepted=1.0))
    assert attacked.sifted_rate == pytest.approx(before.sifted_rate, rel=0.01)
    assert (attacked.key_rate, attacked.error > 0.25) == (0.0, True)


@pytest.mark.parametrize(
    ("protocol", "error"), [("bb84-decoy", 0.25), ("six-state", 1 / 3), ("cow", 0.25), ("bbm92", 0.25), ("cv", 2.0)]
)
def test_who_intercepts_everything_makes_the_textbook_s_errors_and_leaves_no_key(protocol: str, error: float) -> None:
    perfect = Hardware(protocol=protocol, misalignment=0.0, dark=0.0, excess_noise=0.0, efficiency=0.6)  # type: ignore[arg-type]
    found = figures(Conditions(perfect, 10.0, intercepted=1.0))
    assert found.error == pytest.approx(error, abs=0.03)  # pairs of pairs add a little
    assert found.key_rate == 0


def test_an_intercepted_share_costs_more_key_the_larger_it_is() -> None:
    rates = [figures(Conditions(Hardware(), 25.0, intercepted=share)).key_rate for share in (0, 0.05, 0.1, 0.2, 0.5)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[1] > 0 == rates[-1]


@pytest.mark.parametrize("dark", [0.0, 1e-6, 1e-3, 0.1])
@pytest.mark.parametrize("protocol", ["bb84-decoy", "six-state", "sarg04", "cow", "bbm92", "cv"])
def test_errors_of_a_half_have_figures_as_others_have(protocol: Protocol, dark: float) -> None:
    """Nobody looks at the figures of a satellite that is not there yet, and where they cannot be had when it rises, the
    network's time stands still."""
    signal, decoy = (0.1, 0.05) if protocol == "cow" else (0.5, 0.1)
    hardware = Hardware(protocol, signal=signal, decoy=decoy, dark=dark)
    for loss, share in itertools.product((0.0, 20.0, 60.0, 300.0), (0.0, 0.5, 1.0)):
        found = figures(Conditions(hardware, loss=loss, noise=0.5, intercepted=share))
        assert found.key_rate == 0
        assert found.sifted_rate >= 0
        if protocol != "cv":
            assert 0.35 < found.error <= 0.5


def test_dead_time_bounds_the_counts() -> None:
    slow = figures(Conditions(Hardware(dead_time=10e-6), 1.0))
    free = figures(Conditions(Hardware(), 1.0))
    clicks = 2 * free.sifted_rate
    assert slow.key_rate / free.key_rate == pytest.approx(1 / (1 + clicks / 2 * 10e-6))


def test_a_measured_link_has_what_was_measured_and_less_when_dimmed_or_noisy() -> None:
    given = Hardware(protocol="measured", key_rate=10_000.0, qber=0.03)
    assert figures(Conditions(given, 80.0)).key_rate == 10_000
    assert figures(Conditions(given, 80.0)).error == pytest.approx(0.03)
    assert figures(Conditions(given, 80.0, loss=10.0)).key_rate == pytest.approx(1000)
    assert 0 < figures(Conditions(given, 80.0, noise=0.02)).key_rate < 10_000
    assert figures(Conditions(given, 80.0, intercepted=1.0)).key_rate == 0


def test_a_chain_relays_at_the_rate_of_the_package_s_bottleneck() -> None:
    """``qkd.Network`` finds the widest way; over a day our relay hands out as many bits as its slowest hop makes."""
    names, lengths = ["a", "b", "c", "d"], [40.0, 90.0, 60.0]
    hops = list(itertools.pairwise(names))

    def link(length: float) -> qkd.Link:
        bob = qkd.Bob(detector=DETECTOR, receiver=qkd.BasisAnalyser(misalign=0.01))
        modulation, security = qkd.BasisKeying(decoy=qkd.Decoy((0.5, 0.1, 0.0))), qkd.SplittingAttack()
        return qkd.Link(modulation=modulation, channel=qkd.Fiber(length=length), bob=bob, security=security)

    own = qkd.Network(
        {name: qkd.Node() for name in names},
        [qkd.Hop(ends, link(length), 1e9) for ends, length in zip(hops, lengths, strict=True)],
    ).run()
    bottleneck = own.route("a", "d").bottleneck
    specs = [
        LinkSpec("-".join(ends), ends, Hardware(), Fibre(length)) for ends, length in zip(hops, lengths, strict=True)
    ]
    network = Network([NodeSpec(name) for name in names], specs, figures)
    bits, seconds = 0, 200
    for second in range(seconds):
        network.advance(second + 1)
        number, paths = network.available("a", "d", 256)
        network.spend(paths, 256 * number)
        bits += 256 * number
    assert bits / seconds == pytest.approx(bottleneck, rel=1e-3)


def test_figures_are_computed_once_for_the_same_conditions() -> None:
    calls = []

    def counted(conditions: Conditions) -> object:
        calls.append(conditions)
        return figures(conditions)

    network = Network([NodeSpec("a"), NodeSpec("b")], [LinkSpec("l", ("a", "b"), Hardware(), Fibre(10.0))], counted)  # type: ignore[arg-type]
    for second in range(100):
        network.advance(float(second))
    network.links["l"].set_distance(99.0, 20.0)
    network.links["l"].restore(99.0)
    network.advance(200.0)
    assert len(calls) == 2


def test_every_length_up_to_where_no_key_is_left_gives_numbers() -> None:
    for protocol in ("bb84-decoy", "six-state", "sarg04", "cow", "bbm92", "cv"):
        for length in (0.1, 10, 100, 200, 500, 2000):
            found = figures(Conditions(Hardware(protocol=protocol, efficiency=0.6), float(length)))
            assert math.isfinite(found.key_rate)
            assert found.key_rate >= 0
            assert 0 <= found.error <= 0.5
