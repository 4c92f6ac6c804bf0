"""A topology from its YAML file, with every problem at its line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from qtunnel.config.document import Problem
from qtunnel.config.loader import load
from qtunnel.config.types import ConfigPath, Name, Section
from qtunnel.config.words import there_is_no
from qtunnel.errors import ConfigError
from qtunnel.kme.api import Limits
from qtunnel.qkdnet.channel import Channel, Fading, Fibre, FreeSpace, Satellite
from qtunnel.qkdnet.conditions import Classical, Conditions, Hardware
from qtunnel.qkdnet.link import LinkSpec
from qtunnel.qkdnet.network import Network, NodeSpec
from qtunnel.qkdnet.routing import Edge, disjoint_paths
from qtunnel.qkdnet.view import Pair
from qtunnel.simulator.model import (
    AlarmsSection,
    FadingSection,
    HardwareSection,
    KeysSection,
    LinkSection,
    NodeSection,
    PairSection,
)
from qtunnel.simulator.physics import figures
from qtunnel.simulator.units import TimeScale

QBER_THRESHOLD = 0.11
"""Above this no key is left of BB84 with one-way error correction (Shor and Preskill, Phys. Rev. Lett. 85, 441)."""
NOISE_THRESHOLD = 0.1
"""Shot noise units: of ``cv``; an order of magnitude above what such systems report, and far below the 2 of an
eavesdropper who takes all."""
QBER_SAMPLE = 2000.0
"""Sifted bits: the QBER of 11 % is then known to 0.7 % (one standard deviation)."""
NOISE_SAMPLE = 1e6
"""Symbols of ``cv``: the usual block of an estimate of excess noise in the laboratory."""

MOST_FADES = 10_000.0
"""Of all links in a second of the clock: each takes 30 to 50 us of the one processor that the network has."""

_CLICKS = {"clock", "efficiency", "dark", "misalignment", "leak", "gate", "passband"}
_PULSES = _CLICKS | {"dead_time", "signal"}
READ: dict[str, set[str]] = {
    "bb84-decoy": _PULSES | {"decoy", "sift", "block"},
    "six-state": _PULSES | {"decoy", "sift"},
    "sarg04": _PULSES | {"decoy"},
    "cow": _PULSES | {"phase_error"},
    "bbm92": _CLICKS,
    "cv": {"clock", "efficiency", "modulation", "electronic_noise", "excess_noise", "reconciliation"},
    "measured": {"leak", "key_rate", "qber"},
}
"""What of the hardware each protocol's rate depends on: a number that would be dropped in silence is an error."""


class Topology(Section):
    """A whole network; docs/simulator.md has every field."""

    network: Name = Field(examples=["metro"])
    pki: ConfigPath = Field(default=Path("pki"), validate_default=True)
    seed: Annotated[str | int, Field(union_mode="left_to_right")] = 0
    time_scale: TimeScale = 1.0
    key: KeysSection = KeysSection()
    mqtt: AlarmsSection | None = None
    hardware: dict[Name, HardwareSection] = Field(default_factory=dict)
    nodes: dict[Name, NodeSection] = Field(min_length=2, examples=[{"alice": {}, "bob": {}}])
    links: dict[Name, LinkSection] = Field(
        min_length=1, examples=[{"alice-bob": {"between": ["alice", "bob"], "fibre": {"length": "25 km"}}}]
    )
    pairs: tuple[PairSection, ...] = ()

    def kme_id(self, node: str) -> str:
        return self.nodes[node].kme_id or f"kme-{node}"

    @property
    def homes(self) -> dict[str, str]:
        """The node of each SAE."""
        return {sae: name for name, node in self.nodes.items() for sae in node.saes}

    @property
    def limits(self) -> Limits:
        key = self.key
        return Limits(key.size, key.min_size, key.max_size, key.max_per_request, key.max_count, key.max_sae_ids)

    def disjoint(self, one: str, other: str) -> int:
        """Over how many ways these two nodes want their keys, unless a request says otherwise."""
        return next((pair.disjoint for pair in self.pairs if set(pair.between) == {one, other}), 1)

    @property
    def shown_pairs(self) -> list[Pair]:
        """All nodes with SAEs that can share keys, and those that ``pairs`` names."""
        homes = [name for name, node in self.nodes.items() if node.saes]
        found = {frozenset((one, other)): (one, other) for i, one in enumerate(homes) for other in homes[i + 1 :]}
        for pair in self.pairs:
            found.setdefault(frozenset(pair.between), (pair.between[0], pair.between[1]))
        return [Pair(one, other, self.disjoint(one, other)) for one, other in found.values()]

    def specs(self) -> list[LinkSpec]:
        return [_spec(self, name, link) for name, link in self.links.items()]

    def core(self, now: float = 0.0, *, average: bool = False) -> Network:
        """The network at rest. average: fades enter as their mean, for plans of days."""
        nodes = [NodeSpec(name, node.relays) for name, node in self.nodes.items()]
        return Network(nodes, self.specs(), figures, now, average=average)


def load_topology(path: Path | str) -> Topology:
    """The topology; raises ``ConfigError`` with one line per problem."""
    return load(path, Topology, checks=[_key_sizes, _nodes, _links, _fades, _hardware, _pairs, _physics])


def _spec(topology: Topology, name: str, link: LinkSection) -> LinkSpec:
    hardware = _hardware_of(topology, link)
    noisy = hardware.protocol == "cv"
    classical = None
    if link.fibre is not None and link.fibre.classical is not None:
        classical = Classical(**link.fibre.classical.model_dump())
    return LinkSpec(
        name,
        (link.between[0], link.between[1]),
        hardware,
        _channel(topology, name, link, hardware),
        threshold=link.threshold or (NOISE_THRESHOLD if noisy else QBER_THRESHOLD),
        sample=link.sample or (NOISE_SAMPLE if noisy else QBER_SAMPLE),
        capacity=link.store,
        initial=link.initial,
        watched=link.watched,
        waits=link.waits,
        classical=classical,
    )


def _hardware_of(topology: Topology, link: LinkSection) -> Hardware:
    given = topology.hardware[link.hardware] if link.hardware is not None else HardwareSection()
    plain = given.model_dump()
    plain |= {name: plain[name] or 0.0 for name in ("key_rate", "qber")}
    return Hardware(**plain)


def _channel(topology: Topology, name: str, link: LinkSection, hardware: Hardware) -> Channel:
    seed = f"{topology.seed}/{name}"
    if link.free_space is not None:
        one = link.free_space
        return FreeSpace(**one.model_dump(exclude={"fading"}), fading=_fading(one.fading, seed))
    if link.satellite is not None:
        other = link.satellite
        return Satellite(**other.model_dump(exclude={"fading"}), fading=_fading(other.fading, seed))
    assert link.fibre is not None  # checked
    # what a measured link loses is in its rate already
    loss = 0.0 if hardware.protocol == "measured" else link.fibre.loss
    return Fibre(link.fibre.length, link.fibre.attenuation, loss)


def _fading(section: FadingSection | None, seed: str) -> Fading | None:
    return None if section is None else Fading(section.deviation, section.interval, seed)


def _key_sizes(topology: Topology) -> Iterator[Problem]:
    key = topology.key
    if not key.min_size <= key.size <= key.max_size:
        what = f"is {key.size}; must be from min_size ({key.min_size}) to max_size ({key.max_size})"
        yield Problem(("key", "size"), what, (("key", "size"), ("key", "min_size"), ("key", "max_size")))


def _nodes(topology: Topology) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for name, node in topology.nodes.items():
        for index, sae in enumerate(node.saes):
            if sae in seen:
                what = f"'{sae}' belongs to {seen[sae]} already; each SAE asks one KME"
                yield Problem(("nodes", name, "saes", index), what)
            seen[sae] = name
        if node.saes and node.listen is None and node.etsi004 is None:
            yield Problem(("nodes", name, "listen"), "is missing: its SAEs have nobody to ask; write 127.0.0.1:8443")
    places = {name: node.listen for name, node in topology.nodes.items() if node.listen is not None}
    for name, node in topology.nodes.items():
        if node.etsi004 is not None and node.etsi004 in places.values():
            yield Problem(("nodes", name, "etsi004"), f"{node.etsi004} is where a node listens; take another port")
    for field, values in (
        ("listen", places),
        ("etsi004", {name: node.etsi004 for name, node in topology.nodes.items() if node.etsi004 is not None}),
        ("kme_id", {name: topology.kme_id(name) for name in topology.nodes}),
    ):
        for value, number in Counter(values.values()).items():
            if number > 1:
                last = [name for name, one in values.items() if one == value][-1]
                yield Problem(("nodes", last, field), f"{value} is another node's too; each needs one of its own")
    taken = set(seen) & {topology.kme_id(name) for name in topology.nodes}
    for sae in sorted(taken):
        yield Problem(("nodes", seen[sae], "saes"), f"'{sae}' is the ID of a KME; their certificates need two names")


def _links(topology: Topology) -> Iterator[Problem]:
    for name, link in topology.links.items():
        for index, end in enumerate(link.between):
            if end not in topology.nodes:
                yield Problem(("links", name, "between", index), there_is_no("node", end, topology.nodes))
        if link.between[0] == link.between[1]:
            yield Problem(("links", name, "between"), "joins a node to itself; name two")
        if name in topology.nodes:
            yield Problem(("links", name), "is a node's name too, and commands could not tell them apart", at_key=True)
        kinds = [kind for kind in ("fibre", "free_space", "satellite") if getattr(link, kind) is not None]
        if len(kinds) != 1:
            found = " and ".join(kinds) or "none of them"
            yield Problem(("links", name), f"needs one of fibre, free_space and satellite, and has {found}")
        if link.initial > link.store:
            yield Problem(("links", name, "initial"), f"is more than the store holds ({link.store} bit)")
        orbit = link.satellite
        if orbit is not None and orbit.lowest >= orbit.highest:
            yield Problem(("links", name, "satellite", "highest"), "must be above lowest (10 deg), or it never rises")
        if link.threshold is not None and link.threshold >= 0.5 and not _noisy(topology, link):
            yield Problem(("links", name, "threshold"), "must be a QBER below 50%; the usual is 11%")


def _fades(topology: Topology) -> Iterator[Problem]:
    """Whether one processor can play them all."""
    intervals: dict[tuple[str, str], float] = {}
    for name, link in topology.links.items():
        place = link.free_space or link.satellite
        if place is not None and place.fading is not None:
            intervals[name, "satellite" if link.free_space is None else "free_space"] = place.fading.interval
    if sum(topology.time_scale / interval for interval in intervals.values()) <= MOST_FADES:
        return
    least = topology.time_scale * len(intervals) / MOST_FADES
    together = f" and {len(intervals)} links that fade" if len(intervals) > 1 else ""
    for (name, kind), interval in intervals.items():
        if interval < least:
            what = f"must be {least:g} s or more with this time_scale{together}, or time falls behind"
            yield Problem(("links", name, kind, "fading", "interval"), what)


def _noisy(topology: Topology, link: LinkSection) -> bool:
    given = topology.hardware.get(link.hardware or "")
    return given is not None and given.protocol == "cv"


def _hardware(topology: Topology) -> Iterator[Problem]:
    for name, link in topology.links.items():
        if link.hardware is None:
            continue
        if link.hardware not in topology.hardware:
            yield Problem(("links", name, "hardware"), there_is_no("hardware", link.hardware, topology.hardware))
        elif topology.hardware[link.hardware].protocol == "measured" and link.fibre is None:
            yield Problem(("links", name, "hardware"), "is measured, which goes with fibre only")
        elif topology.hardware[link.hardware].protocol == "measured" and link.fibre and link.fibre.classical:
            yield Problem(("links", name, "fibre", "classical"), "is in the measured rate already; remove it")
    for name, section in topology.hardware.items():
        place = ("hardware", name)
        if section.protocol == "measured" and (section.key_rate is None or section.qber is None):
            yield Problem((*place, "protocol"), "is measured, and needs key_rate and qber")
        for field in sorted(section.model_fields_set - READ[section.protocol] - {"protocol"}):
            fits = ", ".join(protocol for protocol, fields in READ.items() if field in fields)
            yield Problem(
                (*place, field), f"means nothing with protocol: {section.protocol}, but with {fits}; remove it"
            )
        if "decoy" in READ[section.protocol] and section.decoy >= section.signal:
            yield Problem((*place, "decoy"), f"must be weaker than the signal ({section.signal:g})")


def _pairs(topology: Topology) -> Iterator[Problem]:
    for index, pair in enumerate(topology.pairs):
        unknown = [end for end in pair.between if end not in topology.nodes]
        for end in unknown:
            yield Problem(("pairs", index, "between"), there_is_no("node", end, topology.nodes))
        if unknown:
            continue
        one, other = pair.between
        if one == other:
            yield Problem(("pairs", index, "between"), "is one node twice; name two")
        else:
            what = too_many_ways(topology, one, other, pair.disjoint)
            if what is not None:
                yield Problem(("pairs", index, "disjoint"), what)


def too_many_ways(topology: Topology, one: str, other: str, wanted: int) -> str | None:
    """What is wrong where two nodes want more ways without a common node than all links of the topology have, however
    full; ``None`` where they have as many."""
    edges = [Edge(name, (link.between[0], link.between[1])) for name, link in topology.links.items()]
    relays = frozenset(name for name, node in topology.nodes.items() if node.relays)

    def fits(number: int) -> bool:
        return number == 0 or disjoint_paths(edges, one, other, number, relays=relays) is not None

    found = next(number for number in range(wanted, -1, -1) if fits(number))
    if found == wanted:
        return None
    if found == 0:
        return f"there is no way from {one} to {other} over nodes that relay; add links"
    asked = "a way" if wanted == 1 else f"{wanted} ways without a common node"
    return f"asks for {asked}; the links have {found}; add links, or ask for fewer"


def _physics(topology: Topology) -> Iterator[Problem]:
    """Every link once with all that it has in the file, so that what the package refuses is said before the network
    runs."""
    for name, link in topology.links.items():
        try:
            spec = _spec(topology, name, link)
            loss = _first_loss(spec.channel)
        except (KeyError, AssertionError):
            continue  # another check has said why
        except (ValueError, ArithmeticError):
            what = "has a beam whose loss has no number; check divergence, receiver, sender and fading"
            yield Problem(("links", name), what)
            continue
        conditions = Conditions(spec.hardware, spec.channel.length, spec.channel.attenuation, loss, spec.classical)
        try:
            figures(conditions)
        except ConfigError as error:
            yield Problem(("links", name, "hardware"), str(error))
            return
        except (ValueError, NotImplementedError, ArithmeticError) as error:
            first = " ".join(str(error).split())[:200]
            yield Problem(("links", name, "hardware"), f"has no key rate: {first}")


def _first_loss(channel: Channel) -> float:
    """dB besides the fibre's, at the first light."""
    return channel.loss_at(channel.first if isinstance(channel, Satellite) else 0.0) or 0.0
