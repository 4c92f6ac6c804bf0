"""The status as metrics: every name, its labels and its help. What the status shows is in force; so it is here.

Names, units and types are by the conventions of Prometheus: base units, ``_total`` for what only grows, ratios for
fractions, and a series with the value 1 for each state that holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from qtunnel.control.messages import (
    FAULT_KINDS,
    KeySourceStatus,
    NodeState,
    NodeStatus,
    PeerStatus,
    PlainPeerStatus,
    Protection,
    SourceStateName,
    Status,
)

DAY = 86_400.0
Samples = Iterable[tuple[Sequence[str], float | None]]
"""Values of the labels, and the value; None where it is not known: then there is no series."""


def gauge(name: str, words: str, labels: Sequence[str], samples: Samples) -> Metric:
    return _filled(GaugeMetricFamily(f"qtunnel_{name}", words, labels=labels), samples)


def counter(name: str, words: str, labels: Sequence[str], samples: Samples) -> Metric:
    """name: without ``_total``, which the format adds."""
    return _filled(CounterMetricFamily(f"qtunnel_{name}", words, labels=labels), samples)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, samples: Samples) -> Metric:
    for labels, value in samples:
        if value is not None:
            family.add_metric(list(labels), value)
    return family


def _states(names: Iterable[str], present: str) -> Iterator[tuple[str, float]]:
    """Each of the names, with 1 for the one that holds."""
    return ((name, float(name == present)) for name in names)


def families(status: Status, unix_now: float) -> Iterator[Metric]:
    """Everything, by one status. unix_now: Unix seconds."""
    yield from _node(status.node, unix_now)
    yield from _peers(status.peers)
    yield from _plain_peers(status.plain_peers)
    yield from _sources(status.key_sources)


def _node(node: NodeStatus, unix_now: float) -> Iterator[Metric]:
    labels, values = ["node", "version", "engine"], [node.name, node.version, node.engine]
    yield gauge("build_info", "Which gateway this is; always 1.", labels, [(values, 1.0)])
    yield gauge("start_time_seconds", "When the daemon started, in Unix seconds.", [], [((), unix_now - node.uptime)])
    states = _states(get_args(NodeState), node.state)
    yield gauge("state", "1 for the state that the gateway is in.", ["state"], (((s,), v) for s, v in states))
    refused = float(node.config_error is not None)
    yield gauge("config_refused", "1 while a newer configuration was refused.", [], [((), refused)])
    yield counter("engine_restarts", "Times that the engine was started again.", [], [((), node.engine_restarts)])
    yield counter(
        "rejected_messages", "Handshake messages and offers that did not count, by reason.", ["reason"],
        (((reason,), number) for reason, number in sorted(node.rejected.items())),
    )  # fmt: skip
    yield counter("audit_records", "Number of the newest record in the audit log.", [], [((), node.audit_records)])
    failing = None if node.audit_records is None else float(node.audit_error is not None)
    yield gauge("audit_failing", "1 while the audit log cannot be written.", [], [((), failing)])


def _peers(peers: list[PeerStatus]) -> Iterator[Metric]:
    peer = ["peer"]
    levels = get_args(Protection)
    yield gauge("peer_protected", "1 where the peer is protected as its policy asks.", peer,
                (((its.name,), float(its.protected)) for its in peers))  # fmt: skip
    yield gauge("peer_protection", "1 for the protection of the traffic now.", ["peer", "level"],
                (((its.name, level), v) for its in peers for level, v in _states(levels, its.protection)))  # fmt: skip
    yield gauge("peer_policy_info", "What policy demands of QKD; always 1.", ["peer", "policy"],
                (((its.name, its.policy), 1.0) for its in peers))  # fmt: skip
    yield gauge("peer_epoch", "Number of the epoch in force.", peer,
                (((its.name,), its.epoch_in_force) for its in peers))  # fmt: skip
    yield gauge("peer_epoch_age_seconds", "Age of the epoch in force.", peer,
                (((its.name,), its.age_s) for its in peers))  # fmt: skip
    yield gauge("peer_epoch_max_age_seconds", "Age after which policy acts.", peer,
                (((its.name,), its.max_age_s) for its in peers))  # fmt: skip
    yield gauge("peer_epoch_qkd_keys", "QKD keys in the epoch in force.", peer,
                (((its.name,), len(its.key_ids)) for its in peers))  # fmt: skip
    yield gauge("peer_epoch_chained", "1 where the epoch in force builds on those before.", peer,
                (((its.name,), float(its.chained)) for its in peers))  # fmt: skip
    yield gauge("peer_rekey_interval_seconds", "Time between rekeys, as the supply of keys allows.", peer,
                (((its.name,), its.interval_s) for its in peers))  # fmt: skip
    yield gauge("peer_wireguard_handshake_age_seconds", "Age of WireGuard's newest handshake.", peer,
                (((its.name,), its.last_handshake_age_s) for its in peers))  # fmt: skip
    yield gauge("peer_record_mode", "1 where large packets go in records.", peer,
                (((its.name,), float(its.record_mode is not None)) for its in peers))  # fmt: skip
    yield counter("peer_received_bytes", "UDP payload from the peer, since the engine's start.", peer,
                  (((its.name,), its.rx_bytes) for its in peers))  # fmt: skip
    yield counter("peer_sent_bytes", "UDP payload to the peer, since the engine's start.", peer,
                  (((its.name,), its.tx_bytes) for its in peers))  # fmt: skip
    outcomes = [(its.name, word, n) for its in peers for word, n in _outcomes(its)]
    yield counter("rekeys", "Rekeys by outcome.", ["peer", "outcome"], (((n, word), v) for n, word, v in outcomes))
    reservoirs = [(its.name, of) for its in peers for of in its.reservoir]
    yield gauge("reservoir_keys", "Keys agreed ahead that both ends hold.", ["peer", "source"],
                (((name, of.source), of.keys) for name, of in reservoirs))  # fmt: skip
    yield gauge("reservoir_depth_keys", "Keys that the reservoir is to hold.", ["peer", "source"],
                (((name, of.source), of.depth) for name, of in reservoirs))  # fmt: skip


def _outcomes(peer: PeerStatus) -> tuple[tuple[str, int], ...]:
    return ("done", peer.rekeys_ok), ("failed", peer.rekeys_failed)


def _plain_peers(peers: list[PlainPeerStatus]) -> Iterator[Metric]:
    yield counter("plain_peer_received_bytes", "UDP payload from a peer that runs WireGuard alone.", ["peer"],
                  (((its.name,), its.rx_bytes) for its in peers))  # fmt: skip
    yield counter("plain_peer_sent_bytes", "UDP payload to a peer that runs WireGuard alone.", ["peer"],
                  (((its.name,), its.tx_bytes) for its in peers))  # fmt: skip


def _sources(sources: list[KeySourceStatus]) -> Iterator[Metric]:
    source = ["source"]
    states = get_args(SourceStateName)
    yield gauge("source_up", "1 where the key source delivers; none before it was asked.", source,
                (((its.name,), None if its.healthy is None else float(its.healthy)) for its in sources))  # fmt: skip
    yield gauge("source_state", "1 for the state that the key source is in.", ["source", "state"],
                (((its.name, state), v) for its in sources for state, v in _states(states, its.state)))  # fmt: skip
    yield gauge("source_stored_keys", "Keys that it has in store.", source,
                (((its.name,), its.stored_keys) for its in sources))  # fmt: skip
    yield gauge("source_max_keys", "Keys that it can store.", source,
                (((its.name,), its.max_keys) for its in sources))  # fmt: skip
    yield gauge("source_qber_ratio", "Quantum bit error rate.", source,
                (((its.name,), its.qber) for its in sources))  # fmt: skip
    yield gauge("source_qber_limit_ratio", "Quantum bit error rate above which no key is used.", source,
                (((its.name,), its.qber_limit) for its in sources))  # fmt: skip
    pairs = [(its.name, one) for its in sources for one in its.towards]
    yield gauge("source_peer_state", "1 for the state of its keys with that peer; other states have none.",
                ["source", "peer", "state"], (((name, one.peer, one.state), 1.0) for name, one in pairs))  # fmt: skip
    yield gauge("source_peer_qber_ratio", "Quantum bit error rate of the keys with that peer.", ["source", "peer"],
                (((name, one.peer), one.qber) for name, one in pairs))  # fmt: skip
    yield gauge("source_key_rate_bytes_per_second", "Secret key that it makes.", source,
                (((its.name,), None if its.key_rate is None else its.key_rate / 8) for its in sources))  # fmt: skip
    yield gauge("source_used_keys_per_day", "Keys used, at the rate of the last hour.", source,
                (((its.name,), its.keys_used_per_day) for its in sources))  # fmt: skip
    yield gauge("source_remaining_seconds", "Until it is empty at this rate; +Inf where no less is made than used.",
                source, (((its.name,), _remaining(its)) for its in sources))  # fmt: skip
    yield counter("source_keys_taken", "Keys that it gave.", source,
                  (((its.name,), its.keys_taken) for its in sources))  # fmt: skip
    yield counter("source_keys_lost", "Keys that it may have given, and that nobody holds.", source,
                  (((its.name,), its.keys_lost) for its in sources))  # fmt: skip
    yield counter("source_faults", "Calls that failed, by kind.", ["source", "kind"],
                  (((its.name, kind), its.faults.get(kind, 0)) for its in sources for kind in FAULT_KINDS))  # fmt: skip


def _remaining(source: KeySourceStatus) -> float | None:
    if source.lasts:
        return math.inf
    return None if source.days_left is None else source.days_left * DAY
