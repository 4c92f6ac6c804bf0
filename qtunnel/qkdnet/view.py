"""A look at the network as plain values: what ``qtunnel kme map`` prints, draws, and gives as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from qtunnel.qkdnet.link import Link
from qtunnel.qkdnet.network import Network, NoPathError
from qtunnel.qkdnet.relay import Traffic
from qtunnel.qkdnet.routing import Path


@dataclass(frozen=True, slots=True)
class Pair:
    """Two nodes whose SAEs share keys; disjoint: over how many ways they want them."""

    source: str
    target: str
    disjoint: int = 1


def look(network: Network, pairs: Iterable[Pair], key_bits: int) -> dict[str, Any]:
    """The network now. Rates in bits per second, keys of ``key_bits`` bits, error rates as fractions."""
    return {
        "time_s": round(network.now, 3),
        "key_size": key_bits,
        "nodes": [_node(network, name) for name in network.nodes],
        "links": [_link(network, link, key_bits) for link in network.links.values()],
        "pairs": [_pair(network, pair, key_bits) for pair in pairs],
        "eavesdropper": {
            "keys": network.ledger.eavesdropper.whole,
            "shares": network.ledger.eavesdropper.shares,
            "touched_bits": round(sum(link.touched_bits for link in network.links.values())),
        },
        "totals": totals(network, key_bits),
    }


def totals(network: Network, key_bits: int) -> dict[str, int]:
    """Sums over the network. In keys. The first five are of the links' stores, so a key
    that goes over three links is used three times."""
    stores = [link.reservoir for link in network.links.values()]
    pairs = network.ledger.pairs.values()
    return {
        "made": sum(store.made for store in stores) // key_bits,
        "used": sum(store.used for store in stores) // key_bits,
        "stored": sum(store.stored for store in stores) // key_bits,
        "overflowed": sum(store.overflowed for store in stores) // key_bits,
        "discarded": sum(store.discarded for store in stores) // key_bits,
        "delivered": sum(pair.keys for pair in pairs),
        "relayed": sum(pair.relayed for pair in pairs),
        "refused": sum(pair.refused for pair in pairs),
        "lost": sum(pair.lost for pair in pairs),
        "alarms": sum(link.alarms for link in network.links.values()),
    }


def _node(network: Network, name: str) -> dict[str, Any]:
    learned = network.ledger.node(name)
    return {
        "name": name,
        "up": name not in network.down,
        "relays": network.nodes[name].relays,
        "own_keys": learned.own,
        "learned_keys": learned.whole,
        "learned_shares": learned.shares,
    }


def _link(network: Network, link: Link, key_bits: int) -> dict[str, Any]:
    store = link.reservoir
    traffic = network.relay.traffic.get(link.name, Traffic())
    cv = link.metric != "QBER"
    return {
        "name": link.name,
        "between": list(link.spec.ends),
        "protocol": link.spec.hardware.protocol,
        "state": link.state.value,
        "alarm": link.alarm,
        "alarms": link.alarms,
        "keys_until_alarm": link.keys_until_alarm,
        "key_rate": round(link.key_rate, 3),
        "qber": None if cv else round(link.error, 6),
        "excess_noise": round(link.error, 6) if cv else None,
        "stored_keys": store.stored // key_bits,
        "max_keys": store.capacity // key_bits,
        "messages": {"sent": traffic.sent, "unheard": traffic.unheard, "refused": traffic.refused},
        "bits": {
            "made": store.made,
            "used": store.used,
            "stored": store.stored,
            "overflowed": store.overflowed,
            "discarded": store.discarded,
        },
    }


def _pair(network: Network, pair: Pair, key_bits: int) -> dict[str, Any]:
    count = network.ledger.pair(pair.source, pair.target)
    told: dict[str, Any] = {
        "between": [pair.source, pair.target],
        "disjoint": pair.disjoint,
        "delivered": count.keys,
        "relayed": count.relayed,
        "refused": count.refused,
        "lost": count.lost,
        "stored_keys": 0,
        "key_rate": 0.0,
        "paths": [],
        "problem": None,
    }
    try:
        keys, paths = network.available(pair.source, pair.target, key_bits, pair.disjoint)
    except NoPathError as error:
        return told | {"problem": str(error)}
    rate, _ = network.spread(paths)
    return told | {"stored_keys": keys, "key_rate": round(rate, 3), "paths": [_way(path) for path in paths]}


def _way(path: Path) -> dict[str, Any]:
    return {"nodes": list(path.nodes), "links": list(path.links)}
