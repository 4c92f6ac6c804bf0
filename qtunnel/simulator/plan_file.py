"""The file of tunnels that a plan is made for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, StrictInt

from qtunnel.config.document import Problem
from qtunnel.config.loader import load
from qtunnel.config.types import Duration, KeySize, Name, Section, at_least
from qtunnel.qkdnet.plan import Tunnel
from qtunnel.simulator.topology_file import Topology, too_many_ways


class TunnelSection(Section):
    """A tunnel. between: two nodes, or SAEs. keys: that each rekey takes, two where both ends contribute one."""

    name: Name = Field(examples=["office"])
    between: Annotated[list[Name], Field(min_length=2, max_length=2)] = Field(examples=[["alice", "bob"]])
    interval: Annotated[Duration, at_least(1, "no tunnel rekeys that often")] = 120.0
    keys: Annotated[StrictInt, Field(ge=1, le=100)] = 1
    size: KeySize = 256
    disjoint: Annotated[StrictInt, Field(ge=1, le=10)] | None = None
    begin: Duration = 0.0


class TunnelsFile(Section):
    tunnels: tuple[TunnelSection, ...] = Field(
        min_length=1, examples=[[{"name": "office", "between": ["alice", "bob"]}]]
    )


def load_tunnels(path: Path | str, topology: Topology) -> list[Tunnel]:
    """The tunnels, between nodes of the topology; raises ``ConfigError`` with one line per problem."""

    def ends(file: TunnelsFile) -> Iterator[Problem]:
        seen: set[str] = set()
        for index, tunnel in enumerate(file.tunnels):
            if tunnel.name in seen:
                yield Problem(
                    ("tunnels", index, "name"), f"'{tunnel.name}' is given twice; each needs a name of its own"
                )
            seen.add(tunnel.name)
            nodes = [_node(topology, end) for end in tunnel.between]
            for number, node in enumerate(nodes):
                if node is None:
                    unknown = f"there is no node or SAE '{tunnel.between[number]}' in the topology; there are: "
                    yield Problem(
                        ("tunnels", index, "between", number), unknown + ", ".join([*topology.nodes, *topology.homes])
                    )
            if nodes[0] is not None and nodes[0] == nodes[1]:
                yield Problem(("tunnels", index, "between"), f"both ends are at {nodes[0]}, which takes no link")
            elif nodes[0] is not None and nodes[1] is not None:
                wanted = tunnel.disjoint or topology.disjoint(nodes[0], nodes[1])
                what = too_many_ways(topology, nodes[0], nodes[1], wanted)
                if what is not None:
                    yield Problem(("tunnels", index, "between" if tunnel.disjoint is None else "disjoint"), what)

    file = load(path, TunnelsFile, checks=[ends])
    return [_tunnel(topology, one) for one in file.tunnels]


def _node(topology: Topology, end: str) -> str | None:
    return end if end in topology.nodes else topology.homes.get(end)


def _tunnel(topology: Topology, section: TunnelSection) -> Tunnel:
    one, other = (_node(topology, end) for end in section.between)
    assert one is not None  # checked
    assert other is not None
    disjoint = section.disjoint or topology.disjoint(one, other)
    return Tunnel(section.name, one, other, section.interval, section.size, section.keys, disjoint, section.begin)
