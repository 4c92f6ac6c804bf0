"""What all gateways at a broker say of themselves, read once. What comes from there is anybody's word."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from qtunnel.errors import BrokerError
from qtunnel.fleet.broker import Broker, connected

QUIET = 1.0
"""Seconds without another message after which all that is retained has come: the broker sends it in one go."""
LONGEST = 10.0
"""Seconds in all, for a broker that never gets quiet."""
REFUSED = 0x80
"""Reason codes of MQTT 5 from here on are failures."""
MAX_PAYLOAD = 64 * 1024
"""Bytes of a report; one of ours has some 2 kB."""
MAX_REPORTS = 100_000
"""Reports that are kept: a thousand gateways with a hundred peers each."""


class _Report(BaseModel):
    """What is read of a report: another version may say more."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
    time: float = 0.0


class NodeReport(_Report):
    """Of a gateway itself. time: Unix seconds of the report."""

    state: str = "unknown"
    version: str = ""
    audit_error: str | None = None


class PeerReport(_Report):
    """Of one of its tunnels. age_s: of the epoch in force, in seconds, at the time of the report."""

    protected: bool = False
    protection: str = "unknown"
    age_s: float | None = None


class SourceReport(_Report):
    """Of one of its key sources."""

    healthy: bool | None = None
    state: str = "unknown"
    days_left: float | None = None


@dataclass(slots=True)
class Member:
    """One gateway. online: what the broker has, its will included."""

    name: str
    online: bool = False
    node: NodeReport = field(default_factory=NodeReport)
    peers: dict[str, PeerReport] = field(default_factory=dict)
    sources: dict[str, SourceReport] = field(default_factory=dict)

    @property
    def well(self) -> bool:
        """Whether it is there, and every tunnel protected as policy asks."""
        return self.online and self.node.state == "up" and all(peer.protected for peer in self.peers.values())


async def read_fleet(broker: Broker, prefix: str, client_id: str) -> list[Member]:
    """All gateways under ``prefix``, by name; raises ``BrokerError``."""
    members: dict[str, Member] = {}
    async with connected(broker, client_id, waiting=MAX_REPORTS) as client:
        codes = await client.subscribe([(f"{prefix}/+/{rest}", 1) for rest in ("state", "node", "peer/+", "source/+")])
        if any((code if isinstance(code, int) else int(code.value)) >= REFUSED for code in codes):
            raise BrokerError(f"{broker.name}: it does not let us read {prefix}/#")
        end = asyncio.get_running_loop().time() + LONGEST
        for _ in range(MAX_REPORTS):
            wait = min(QUIET, end - asyncio.get_running_loop().time())
            try:
                async with asyncio.timeout(max(0.0, wait)):
                    message = await anext(client.messages)
            except TimeoutError:
                break
            take(members, prefix, message.topic.value, message.payload)
    return [members[name] for name in sorted(members)]


def take(members: dict[str, Member], prefix: str, topic: str, data: Any) -> None:
    """Put one message in its place; what is not a report is passed over, but for one of a tunnel: that nothing is known
    of its protection is no reason to call the gateway well."""
    levels = topic.removeprefix(f"{prefix}/").split("/")
    if not isinstance(data, bytes) or not data or not 2 <= len(levels) <= 3:
        return
    name, kind, *rest = levels
    member = members.setdefault(name, Member(name))
    if kind == "state":
        member.online = data == b"online"
    elif kind == "node" and (node := _parsed(NodeReport, data)) is not None:
        member.node = node
    elif kind == "peer" and rest:
        member.peers[rest[0]] = _parsed(PeerReport, data) or PeerReport()
    elif kind == "source" and rest and (source := _parsed(SourceReport, data)) is not None:
        member.sources[rest[0]] = source


Report = TypeVar("Report", bound=_Report)


def _parsed(model: type[Report], data: bytes) -> Report | None:
    if len(data) > MAX_PAYLOAD:
        return None
    try:
        return model.model_validate(json.loads(data))
    except (ValueError, ValidationError, RecursionError):
        return None
