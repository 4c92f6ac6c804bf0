"""The scenarios that there are, and one of them with all of its files, each problem at its line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qtunnel.config.document import Problem
from qtunnel.config.loader import load
from qtunnel.config.words import there_is_no
from qtunnel.demo.files import examples
from qtunnel.errors import ConfigError, NetworkError
from qtunnel.scenario.assertions import NEEDS
from qtunnel.scenario.model import ACTIONS, AssertionSection, EventSection, ScenarioFile
from qtunnel.simulator.commands import perform
from qtunnel.simulator.topology_file import Topology, load_topology

MOST_SITES = 90
"""Each has an address of its own in networks of 256."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario's files, which fit together."""

    name: str
    directory: Path
    file: ScenarioFile
    topology: Topology

    @property
    def network_file(self) -> Path:
        return self.directory / "network.yaml"

    def node_of(self, site: str) -> str:
        return self.topology.homes[self.file.sites[site].sae]


def gallery() -> dict[str, Path]:
    """The directories of all scenarios, by name."""
    place = examples() / "scenarios"
    return {path.parent.name: path.parent for path in sorted(place.glob("*/scenario.yaml"))}


def title(directory: Path) -> str:
    """The first line of its README, without the mark of a heading."""
    return (directory / "README.md").read_text().splitlines()[0].lstrip("# ").strip()


def find(name: str) -> Scenario:
    """A scenario of the gallery, or one in the directory of that path; raises ``ConfigError``."""
    known = gallery()
    directory = known.get(name)
    if directory is None and "/" in name:
        directory = Path(name)
        if not (directory / "scenario.yaml").is_file():
            raise ConfigError(f"--scenario {name}: there is no scenario.yaml in that directory")
    if directory is None:
        listed = ", ".join(known) or "none"
        raise ConfigError(f"--scenario {name}: there are: {listed}; or give a directory, as ./{name}")
    return load_scenario(directory)


def load_scenario(directory: Path) -> Scenario:
    """Raises ``ConfigError`` with one line per problem."""
    topology = load_topology(directory / "network.yaml")

    def fits(file: ScenarioFile) -> Iterator[Problem]:
        yield from _sites(file, topology)
        yield from _tunnels(file)
        yield from _drivers(file, topology)
        yield from _takers(file)
        for index, event in enumerate(file.timeline):
            yield from _event(file, topology, index, event)
        for index, one in enumerate(file.assertions):
            yield from _assertion(file, topology, index, one)

    return Scenario(
        directory.resolve().name, directory, load(directory / "scenario.yaml", ScenarioFile, checks=[fits]), topology
    )


def _sites(file: ScenarioFile, topology: Topology) -> Iterator[Problem]:
    if len(file.sites) > MOST_SITES:
        yield Problem(("sites",), f"are {len(file.sites)}; at most {MOST_SITES} find room on one machine")
    taken: dict[str, str] = {}
    for name, site in file.sites.items():
        place = ("sites", name, "sae")
        if name in ("internet", "qkd"):
            yield Problem(("sites", name), "is the name of a network of the run; take another", at_key=True)
        node = topology.homes.get(site.sae)
        if node is None:
            yield Problem(place, there_is_no("SAE", site.sae, topology.homes) + " (network.yaml, nodes.NODE.saes)")
        elif node in taken:
            yield Problem(place, f"is at {node}, where {taken[node]} is already; each site needs a node of its own")
        else:
            taken[node] = name


def _tunnels(file: ScenarioFile) -> Iterator[Problem]:
    pairs: dict[frozenset[str], str] = {}
    for name, tunnel in file.tunnels.items():
        ends = frozenset(tunnel.between)
        for index, end in enumerate(tunnel.between):
            if end not in file.sites:
                yield Problem(("tunnels", name, "between", index), there_is_no("site", end, file.sites))
        if len(ends) == 1:
            yield Problem(("tunnels", name, "between"), "is one site twice; name two")
        elif ends in pairs:
            yield Problem(("tunnels", name, "between"), f"has the ends of {pairs[ends]}; two sites have one tunnel")
        pairs.setdefault(ends, name)
    used = {end for tunnel in file.tunnels.values() for end in tunnel.between}
    for name in file.sites:
        if name not in used:
            yield Problem(("sites", name), "has no tunnel; leave it out, or give it one", at_key=True)
    if sum(tunnel.load for tunnel in file.tunnels.values()) > 1:
        yield Problem(("tunnels",), "have load more than once; one throughput test is what this can carry")


def _drivers(file: ScenarioFile, topology: Topology) -> Iterator[Problem]:
    """Nodes have the interfaces that tunnels want."""
    for name, tunnel in file.tunnels.items():
        for end in tunnel.between:
            node = topology.homes.get(file.sites[end].sae) if end in file.sites else None
            if node is None:
                continue  # another check has said why
            if tunnel.driver == "etsi004" and topology.nodes[node].etsi004 is None:
                what = f"is etsi004, which the KME of {end} does not speak; give nodes.{node} an etsi004 (network.yaml)"
                yield Problem(("tunnels", name, "driver"), what)


def _takers(file: ScenarioFile) -> Iterator[Problem]:
    for index, taker in enumerate(file.takers):
        for name in ("at", "towards"):
            site = getattr(taker, name)
            if site not in file.sites:
                yield Problem(("takers", index, name), there_is_no("site", site, file.sites))
        if taker.at == taker.towards:
            yield Problem(("takers", index, "towards"), "is the same site; name another")


def _event(file: ScenarioFile, topology: Topology, index: int, event: EventSection) -> Iterator[Problem]:
    place = ("timeline", index)
    given = [name for name in ACTIONS if getattr(event, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        yield Problem(place, f"needs one of {', '.join(ACTIONS)}, and has {found}")
        return
    if event.at >= file.seconds:
        yield Problem((*place, "at"), f"is after the end, at {file.seconds:g} s")
    for name in ("move", "clear"):
        site = getattr(event, name)
        if site is not None and site not in file.sites:
            yield Problem((*place, name), there_is_no("site", site, file.sites))
    for name in ("open", "close"):
        tunnel = getattr(event, name)
        if tunnel is not None and tunnel not in file.tunnels:
            yield Problem((*place, name), there_is_no("tunnel", tunnel, file.tunnels))
    if event.change is not None and event.change.tunnel not in file.tunnels:
        yield Problem((*place, "change", "tunnel"), there_is_no("tunnel", event.change.tunnel, file.tunnels))
    if event.network is not None:
        yield from _command(topology, (*place, "network"), event.network)


def _command(topology: Topology, place: tuple[str | int, ...], words: str) -> Iterator[Problem]:
    """Try it on a network at rest."""
    target, action, *arguments = [*words.split(), "", ""][: max(2, len(words.split()))]
    try:
        perform(topology.core(), target, action, arguments)
    except NetworkError as error:
        yield Problem(place, str(error))


def _assertion(file: ScenarioFile, topology: Topology, index: int, one: AssertionSection) -> Iterator[Problem]:
    place = ("assertions", index)
    for tunnel in one.tunnels:
        if tunnel not in file.tunnels:
            yield Problem((*place, "tunnels"), there_is_no("tunnel", tunnel, file.tunnels))
    if one.site is not None and one.site not in file.sites:
        yield Problem((*place, "site"), there_is_no("site", one.site, file.sites))
    if one.link is not None and one.link not in topology.links:
        yield Problem((*place, "link"), there_is_no("link", one.link, topology.links))
    for node in one.nodes:
        if node not in topology.nodes:
            yield Problem((*place, "nodes"), there_is_no("node", node, topology.nodes))
    for name in NEEDS[one.that]:
        if getattr(one, name) is None:
            yield Problem((*place, name), f"is missing; {one.that} needs it")
    begin, end = one.since or 0.0, file.seconds if one.until is None else one.until
    if begin >= end:
        yield Problem((*place, "since"), f"leaves no time before {end:g} s")
