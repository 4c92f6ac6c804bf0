"""A scenario's file: which gateways there are, their tunnels, what happens to them and what has to hold."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, StrictBool, StrictFloat, StrictInt

from qtunnel.config.kems import Kems
from qtunnel.config.model import QkdConfig
from qtunnel.config.rekey import RekeyConfig
from qtunnel.config.types import Duration, Name, Percentage, Section, at_least

Ends = Annotated[list[Name], Field(min_length=2, max_length=2)]

Amount = StrictInt | StrictFloat

ProtectionName = Literal["qkd+pqc", "pqc-only", "blocked"]


class SiteSection(Section):
    """A gateway. sae: as which SAE it asks the KME of that SAE's node. source: further options of its key source with
    ``driver: etsi014``."""

    sae: Name = Field(examples=["sae-alice"])
    source: dict[str, Any] = Field(default_factory=dict)


class TunnelSection(Section):
    """Between two sites. driver: by which interface both ends ask their KMEs. later: not there before the timeline
    opens it. load: a throughput test runs through it."""

    between: Ends = Field(examples=[["alice", "bob"]])
    rekey: RekeyConfig = RekeyConfig()
    qkd: QkdConfig = QkdConfig()
    kem: Kems = ("ml-kem-1024",)
    driver: Literal["etsi014", "etsi004"] = "etsi014"
    later: StrictBool = False
    load: StrictBool = False


class TakerSection(Section):
    """An application beside a gateway that takes keys from the same KME: ``keys`` at once, ``every`` seconds."""

    at: Name = Field(examples=["alice"])
    towards: Name = Field(examples=["bob"])
    keys: Annotated[StrictInt, Field(ge=1, le=128)] = 8
    every: Annotated[Duration, at_least(0.1, "which would be load and no demand")] = 0.5


class ChangeSection(Section):
    """Other settings of a tunnel, at both ends."""

    tunnel: Name = Field(examples=["office"])
    rekey: RekeyConfig | None = None
    qkd: QkdConfig | None = None
    kem: Kems | None = None


class EventSection(Section):
    """Something that happens ``at`` seconds after traffic began; one of the others.

    network: what ``qtunnel kme ctl`` would be told. move: a site gets another address, in another network. open, close:
    a tunnel, by a reload at both ends. change: its settings, likewise. clear: end the quarantine of a site's key
    source, where it is in one.
    """

    at: Duration = Field(examples=["5s"])
    network: str | None = None
    move: Name | None = None
    open: Name | None = None
    close: Name | None = None
    change: ChangeSection | None = None
    clear: Name | None = None


ACTIONS = ("network", "move", "open", "close", "change", "clear")

AssertionName = Literal[
    "nothing-lost",
    "rekeys",
    "protected",
    "falls-to",
    "ends-as",
    "silent-while-blocked",
    "back-within",
    "fresh-keys",
    "happened",
    "alarmed",
    "relayed",
    "unknown-to-nodes",
    "unknown-to-eavesdropper",
    "weakest-hop",
    "between-passes",
    "refilled",
    "carried",
]
ASSERTIONS: tuple[str, ...] = get_args(AssertionName)


class AssertionSection(Section):
    """Something that has to hold. that: by which rule, see ``assertions.py``; says: the sentence in the README.

    tunnels: all, unless given. since, until: from traffic's beginning, the whole run unless given. What the others mean
    depends on the rule.
    """

    that: AssertionName = Field(examples=["nothing-lost"])
    says: str = Field(min_length=1, examples=["No packet is lost."])
    tunnels: tuple[Name, ...] = ()
    since: Duration | None = None
    until: Duration | None = None
    protection: ProtectionName | None = None
    site: Name | None = None
    event: str | None = None
    link: Name | None = None
    nodes: tuple[Name, ...] = ()
    least: Amount | None = None
    most: Amount | None = None
    within: Percentage | None = None


class ScenarioFile(Section):
    """A scenario. seconds: of traffic. ping: seconds from one echo to the next, in each tunnel. delay: seconds that a
    packet takes from one site to another."""

    title: str = Field(min_length=1, examples=["Two sites in one town"])
    seconds: Annotated[Duration, at_least(5, "in which nothing can be seen")] = Field(examples=["20s"])
    ping: Annotated[Duration, at_least(0.01, "which would be load and no measurement")] = 0.05
    delay: Duration | None = None
    sites: dict[Name, SiteSection] = Field(
        min_length=2, examples=[{"alice": {"sae": "sae-alice"}, "bob": {"sae": "sae-bob"}}]
    )
    tunnels: dict[Name, TunnelSection] = Field(min_length=1, examples=[{"office": {"between": ["alice", "bob"]}}])
    takers: tuple[TakerSection, ...] = ()
    timeline: tuple[EventSection, ...] = ()
    assertions: tuple[AssertionSection, ...] = Field(
        min_length=1, examples=[[{"that": "nothing-lost", "says": "No packet is lost."}]]
    )
