"""Topologies as people write them, and what is said of their mistakes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from qtunnel.errors import ConfigError
from qtunnel.qkdnet.channel import Fibre, FreeSpace, Satellite
from qtunnel.simulator.plan_file import load_tunnels
from qtunnel.simulator.topology_file import load_topology

CONFIGS = Path(__file__).parent.parent.parent / "configs"

BAD = """
network: metro
hardware:
  odd: {protocol: bb84, clock: 1}
  given: {protocol: measured}
  rated: {protocol: bb84-decoy, key_rate: 5 kbit/s}
  cow: {protocol: cow, signal: 0.9}
  decoys: {signal: 0.1, decoy: 0.2}
  bought: {protocol: measured, key_rate: 5 kbit/s, qber: 2%}
  blocks: {protocol: bbm92, block: 1e9}
nodes:
  alice: {listen: "127.0.0.1:8443", saes: [sae-alice]}
  bob: {saes: [sae-alice]}
  carol: {listen: "127.0.0.1:8443", quirks: [slow]}
links:
  a: {between: [alice, bobb], fibre: {length: 25}}
  b: {between: [alice, bob], hardware: foo, fibre: {length: 40 km}}
  c: {between: [alice, bob], hardware: cow, fibre: {length: 40 km}}
  d: {between: [alice, alice], threshold: 80%, fibre: {length: 1 km}}
  e: {between: [alice, bob], satellite: {altitude: 500 km, highest: 5 deg, first: 1h, every: 1d}}
  f: {between: [alice, bob], fibre: {length: 1 km}, free_space: {distance: 1 km}, initial: 1 Gbit}
  g: {between: [alice, bob], fibre: {length: -1 km}}
  bob: {between: [alice, bob], fibre: {length: 1 km}}
  h: {between: [alice, bob], fibre: {length: 1 km, classical: {channels: 200, launch: 200 dBm}}}
  i: {between: [alice, bob], fibre: {length: 1 km, attenuation: 0 dB/km, classical: {channels: 2, backward: true}}}
  j: {between: [alice, bob], free_space: {distance: 1 km, divergence: 1e-200 rad, sender: 1e-200 m}}
  k: {between: [alice, bob], hardware: bought, free_space: {distance: 1 km}}
  l: {between: [alice, bob], hardware: bought, fibre: {length: 1 km, classical: {channels: 2}}}
  m: {between: [alice, bob], threshold: 0.2 shot, fibre: {length: 1 km}}
  n: {between: [alice, bob], threshold: 0, fibre: {length: 1 km}}
key: {size: 256, min_size: 512}
pairs: [{between: [carol, bob], disjoint: 2}, {between: [bob, bob]}, {between: [bob, dave]}]
time_scale: fast
"""


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as failure:
        load_topology(path)
    return [line.removeprefix(f"{path}:") for line in str(failure.value).splitlines()]


@pytest.mark.parametrize(
    "expected",
    [
        "4:19: hardware.odd.protocol: is 'bb84'; must be one of: bb84-decoy, six-state,",
        "4:32: hardware.odd.clock: must be a number with a unit (Hz, kHz, MHz, GHz, THz), such as 1 GHz",
        "5:21: hardware.given.protocol: is measured, and needs key_rate and qber",
        "hardware.rated.key_rate: means nothing with protocol: bb84-decoy, but with measured; remove it",
        "hardware.decoys.decoy: must be weaker than the signal (0.1)",
        "hardware.blocks.block: means nothing with protocol: bbm92, but with bb84-decoy; remove it",
        "nodes.bob.listen: is missing: its SAEs have nobody to ask; write 127.0.0.1:8443",
        "nodes.bob.saes[0]: 'sae-alice' belongs to alice already; each SAE asks one KME",
        "nodes.carol.listen: 127.0.0.1:8443 is another node's too; each needs one of its own",
        "nodes.carol.quirks[0]: is 'slow'; must be one of: upper-case-ids,",
        "links.a.between[1]: there is no node 'bobb'; there are: alice, bob, carol",
        "links.a.fibre.length: must be a number with a unit (km, m), such as 25 km",
        "links.b.hardware: there is no hardware 'foo'; there are: odd, given, rated, cow, decoys, bought, blocks",
        "links.c.hardware: has no key rate: e_phase 0.1 is below the 0.2275 multiphoton fraction",
        "links.d.between: joins a node to itself; name two",
        "links.d.threshold: must be a QBER below 50%; the usual is 11%",
        "links.e.satellite.highest: must be above lowest (10 deg), or it never rises",
        "links.f: needs one of fibre, free_space and satellite, and has fibre and free_space",
        "links.f.initial: is more than the store holds (2560000 bit)",
        "links.h.hardware: has no key rate: dark must be",
        "links.i.hardware: has no key rate: float division by zero",
        "links.j: has a beam whose loss has no number; check divergence, receiver, sender and fading",
        "key.size: is 256; must be from min_size (512) to max_size (4096)",
        "links.bob: is a node's name too, and commands could not tell them apart",
        "links.g.fibre.length: must not be negative; write 25 km",
        "links.k.hardware: is measured, which goes with fibre only",
        "links.l.fibre.classical: is in the measured rate already; remove it",
        "links.m.threshold: must be a QBER such as 11%, or for cv shot noise units such as 0.1",
        "links.n.threshold: must be above 0; the usual are 11%, and 0.1 for cv",
        "pairs[1].between: is one node twice; name two",
        "pairs[2].between: there is no node 'dave'; there are: alice, bob, carol",
        "pairs[0].disjoint: there is no way from carol to bob over nodes that relay; add links",
        "time_scale: must be a number, or a comparison such as '1s = 1h'",
    ],
)
def test_each_mistake_is_named_with_its_place_and_remedy(tmp_path: Path, expected: str) -> None:
    found = problems(tmp_path, BAD)
    assert any(expected in line for line in found), "\n".join(found)


def test_a_time_scale_that_cannot_be_played_is_refused(tmp_path: Path) -> None:
    for scale in ("1ms = 1000d", "0", "0s = 1h", "1e-9"):
        found = problems(tmp_path, f"network: n\nnodes: {{alice: {{}}}}\nlinks: {{}}\ntime_scale: {scale}\n")
        what = "time_scale: must be from 0.001 to 10000000 seconds of the network in one of the clock"
        assert any(what in line for line in found), found


def test_fades_are_not_faster_than_they_can_be_played(tmp_path: Path) -> None:
    text = """
network: fast
time_scale: 1s = 1h
nodes: {alice: {}, bob: {}}
links: {air: {between: [alice, bob], free_space: {distance: 1 km, fading: {deviation: 2 dB, interval: 10ms}}}}
"""
    what = "links.air.free_space.fading.interval: must be 0.36 s or more with this time_scale, or time falls behind"
    assert what in problems(tmp_path, text)[0]
    air = "{between: [alice, bob], free_space: {distance: 1 km, fading: {deviation: 2 dB, interval: %s}}}"
    for intervals, slow in ((("500ms", "1s", "10s"), 1.08), (("900ms", "900ms"), None)):
        links = "".join(f"  air-{number}: {air % interval}\n" for number, interval in enumerate(intervals))
        file = tmp_path / "several.yaml"
        file.write_text(f"network: n\ntime_scale: 1s = 1h\nnodes: {{alice: {{}}, bob: {{}}}}\nlinks:\n{links}")
        if slow is None:
            assert load_topology(file).time_scale == 3600
            continue
        found = problems(tmp_path, file.read_text())
        what = f"must be {slow} s or more with this time_scale and 3 links that fade, or time falls behind"
        assert [line.split(": ")[1:] for line in found] == [
            [f"links.air-{number}.free_space.fading.interval", what] for number in (0, 1)
        ]


def test_a_topology_becomes_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text(
        """
network: mixed
time_scale: 1s = 1h
nodes: {a: {}, b: {relays: false}, sky: {}}
hardware: {noisy: {protocol: cv, efficiency: 60%, excess_noise: 0.01}}
links:
  fibre: {between: [a, b], hardware: noisy, threshold: 0.2, fibre: {length: 500 m, attenuation: 0.25 dB/km, loss: 1 dB}}
  air: {between: [a, b], free_space: {distance: 2 km, receiver: 8 cm, fading: {deviation: 2 dB, interval: 500ms}}}
  down: {between: [sky, a], store: 1 Gbit, initial: 10 kbit,
         satellite: {altitude: 500 km, highest: 60 deg, first: 30m, every: 1d}}
pairs: [{between: [b, a], disjoint: 2}]
"""
    )
    topology = load_topology(path)
    fibre, air, down = topology.specs()
    assert topology.time_scale == 3600
    assert fibre.channel == Fibre(0.5, 0.25, 1.0)
    assert (fibre.threshold, fibre.hardware.efficiency) == (0.2, 0.6)
    assert isinstance(air.channel, FreeSpace)
    assert air.channel.receiver == pytest.approx(0.08)
    assert air.channel.fading is not None
    assert air.channel.fading.interval == 0.5
    assert isinstance(down.channel, Satellite)
    assert down.channel.highest == pytest.approx(math.pi / 3)
    assert (down.capacity, down.initial) == (10**9, 10_000)
    assert topology.disjoint("a", "b") == 2
    assert not topology.core().nodes["b"].relays
    assert topology.kme_id("a") == "kme-a"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("network-*.yaml")), ids=lambda path: path.name)
def test_examples_load(path: Path) -> None:
    if path.name.endswith("-tunnels.yaml"):
        assert load_tunnels(path, load_topology(CONFIGS / path.name.replace("-tunnels", "")))
    else:
        assert load_topology(path).core().links


def test_tunnels_are_checked_against_the_topology(metro: Path, tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    file.write_text(
        "tunnels:\n"
        "  - {name: one, between: [alice, nowhere]}\n"
        "  - {name: one, between: [alice, sae-alice], interval: 5}\n"
    )
    topology = load_topology(metro)
    with pytest.raises(ConfigError) as failure:
        load_tunnels(file, topology)
    told = str(failure.value)
    assert "2:34: tunnels[0].between[1]: there is no node or SAE 'nowhere' in the topology; there are: alice," in told
    assert "tunnels[1].name: 'one' is given twice" in told
    assert "tunnels[1].interval: a duration needs a unit; write 5s for seconds" in told
    file.write_text("tunnels: [{name: one, between: [sae-alice, bob], interval: 1h, size: 128, keys: 2}]")
    (tunnel,) = load_tunnels(file, topology)
    assert tunnel.disjoint == 1
    assert (tunnel.source, tunnel.target, tunnel.interval, tunnel.bits_per_rekey) == ("alice", "bob", 3600, 256)


def test_no_tunnel_is_planned_over_more_ways_than_there_are(metro: Path, tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    file.write_text(
        "tunnels:\n"
        "  - {name: two, between: [sae-alice, bob], disjoint: 2}\n"
        "  - {name: three, between: [sae-alice, bob], disjoint: 3}\n"
        "  - {name: one, between: [alice, island]}\n"
    )
    metro.write_text(metro.read_text().replace("  hub:", "  island: {}\n  hub:"))
    with pytest.raises(ConfigError) as failure:
        load_tunnels(file, load_topology(metro))
    assert str(failure.value).splitlines() == [
        f"{file}:3:56: tunnels[1].disjoint: asks for 3 ways without a common node; the links have 2; add links, or ask "
        "for fewer",
        f"{file}:4:26: tunnels[2].between: there is no way from alice to island over nodes that relay; add links",
    ]
