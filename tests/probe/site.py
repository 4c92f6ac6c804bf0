"""Two real KMEs, each with a front that can spoil its answers, and the configurations of the gateways that ask them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qtunnel.probe.model import Finding, Report
from qtunnel.probe.run import probe
from qtunnel.probe.target import Target, find_target
from tests.drivers.front import Exchange, Fault, Front, front, honest
from tests.support.kme import Pair, answer, files, kme_pair

PEERS = {"sae-alice": "sae-bob", "sae-bob": "sae-alice"}


def write_config(directory: Path, pki: Path, sae_id: str, url: str, **options: Any) -> Path:
    """A gateway's configuration with one source; other files that it names are not there, as the probe needs none."""
    mine = files(pki, sae_id)
    source = {"driver": "etsi014", "url": url, "sae_id": sae_id, "timeout": "20s"}
    source |= {"ca": str(mine.ca), "certificate": str(mine.certificate), "private_key": str(mine.private_key)}
    peer = {"name": "peer", "public": "peer.public", "allowed_ips": ["10.77.0.2/32"]}
    path = directory / f"{sae_id}.yaml"
    path.write_text(
        json.dumps(
            {
                "node": {"name": sae_id, "identity": "gateway.identity"},
                "tunnel": {"interface": "qt0", "addresses": ["10.77.0.1/24"]},
                "key_sources": {"metro": source | options},
                "peers": [peer | {"qkd": {"sources": {"metro": {"peer_sae_id": PEERS[sae_id]}}}}],
            }
        )
    )
    return path


@dataclass
class Site:
    """announced: what the probe asked whether it might take. given: keys that left the real KME at alice."""

    pair: Pair
    alice: Front
    bob: Front
    directory: Path
    announced: list[int] = field(default_factory=list)

    @property
    def given(self) -> int:
        asked = [one for one in self.alice.requests if one.call == "enc_keys" and one.status == 200 and one.body]
        return sum(len(one.document["keys"]) for one in asked)

    def target(self, peer: bool = True, **options: Any) -> Target:
        config = write_config(self.directory, self.pair.pki, "sae-alice", self.alice.url, **options)
        other = write_config(self.directory, self.pair.pki, "sae-bob", self.bob.url)
        return find_target(config, None, None, other if peer else None)

    async def probe(self, peer: bool = True, agree: bool = True, **options: Any) -> Report:
        def asked(keys: int) -> bool:
            self.announced.append(keys)
            return agree

        return await probe(self.target(peer, **options), asked, os.urandom)


@contextlib.asynccontextmanager
async def site(pki: Path, directory: Path, **key: Any) -> AsyncIterator[Site]:
    async with (
        kme_pair(pki, **{"max_per_request": 4, **key}) as pair,
        front(pki, f"https://{pair.a.listen}") as alice,
        front(pki, f"https://{pair.b.listen}", "sae-bob") as bob,
    ):
        yield Site(pair, alice, bob, directory)


def findings(report: Report) -> dict[str, Finding]:
    return {result.check.id: result.finding for result in report.results}


def to(call: str, fault: Fault, method: str = "") -> Fault:
    """A fault of one call alone."""

    async def chosen(exchange: Exchange) -> None:
        await (fault if exchange.call == call and exchange.method.startswith(method) else honest)(exchange)

    return chosen


def documents(change: Callable[[dict[str, Any]], Any]) -> Fault:
    """The JSON of each 200, changed in place or for what is returned."""

    async def fault(exchange: Exchange) -> None:
        if exchange.status != 200:
            return await exchange.reply()
        document = exchange.document
        return await exchange.reply(change(document) or document)

    return fault


def entries(change: Callable[[dict[str, Any]], Any]) -> Fault:
    """Each key's object, changed in place."""

    def each(document: dict[str, Any]) -> None:
        for entry in document["keys"]:
            change(entry)

    return documents(each)


def refusals(status: str, body: str, kind: str = "application/json") -> Fault:
    """Refusals of the real KME in another form."""

    async def fault(exchange: Exchange) -> None:
        await (exchange.reply() if exchange.status == 200 else exchange.write(answer(status, body, kind)))

    return fault


def always(status: str, body: object = "", kind: str = "application/json") -> Fault:
    """The same answer to everything."""

    async def fault(exchange: Exchange) -> None:
        await exchange.write(answer(status, body if isinstance(body, str) else json.dumps(body), kind))

    return fault
