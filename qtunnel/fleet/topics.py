"""What a gateway tells a broker: topics and payloads, of its status and of events. docs/fleet.md lists them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from qtunnel.control.messages import KeySourceStatus, PeerStatus, Status
from qtunnel.events import Event

ONLINE, OFFLINE = b"online", b"offline"
DISCOVERY = "homeassistant"
"""The prefix under which Home Assistant, and whoever follows it, looks for discovery messages."""
PASSING = {
    "time", "uptime", "age_s", "next_rekey_s", "expires_in_s", "last_error_age_s", "last_handshake_age_s", "rx_bytes",
    "tx_bytes", "epoch_bytes", "epoch_packets", "config_error_age_s", "keys_used_per_day", "days_left",
}  # fmt: skip
"""What changes from moment to moment: not worth a message by itself."""


MOST_PEERS = 50
"""Peers in the report of one source."""


def state_topic(prefix: str, node: str) -> str:
    """Retained: ``online``, or ``offline``, which is the gateway's last will too."""
    return f"{prefix}/{node}/state"


def reports(status: Status, prefix: str, unix_now: float) -> dict[str, dict[str, Any]]:
    """The retained reports, as JSON will have them, by topic: of the node, of each peer and of each key source."""
    base = f"{prefix}/{status.node.name}"
    found = {f"{base}/node": status.node.model_dump(mode="json")}
    # key_IDs are for the two ends and their auditors: the broker may be somebody else's.
    found |= {f"{base}/peer/{its.name}": its.model_dump(mode="json", exclude={"key_ids"}) for its in status.peers}
    found |= {f"{base}/source/{its.name}": _source(its) for its in status.key_sources}
    return {topic: {"version": 1, "time": round(unix_now, 3), **report} for topic, report in found.items()}


def _source(its: KeySourceStatus) -> dict[str, Any]:
    """Of its peers those alone that there is something to say of: a hub has a thousand."""
    return {**its.model_dump(mode="json"), "towards": [one.model_dump(mode="json") for one in its.doubted[:MOST_PEERS]]}


def lasting(report: Mapping[str, Any]) -> dict[str, Any]:
    """What of a report is worth a message at once when it changes."""
    return {name: value for name, value in report.items() if name not in PASSING}


def payload(report: Mapping[str, Any]) -> bytes:
    return json.dumps(report, separators=(",", ":")).encode()


def event_message(event: Event, prefix: str, node: str) -> tuple[str, bytes]:
    """Topic and payload of an event; not retained. Fields of key_IDs are left out, as in the reports."""
    fields = {name: value for name, value in event.fields.items() if name not in ("key_id", "key_ids")}
    report = {"version": 1, "time": event.time, "kind": event.kind, "peer": event.peer, "fields": fields}
    return f"{prefix}/{node}/event/{event.kind}", payload(report)


def discovery(status: Status, prefix: str) -> dict[str, dict[str, Any]]:
    """Discovery messages by topic: a console that knows them shows the gateway as a device with its values."""
    found: dict[str, dict[str, Any]] = {}
    for component, key, config in _entities(status, prefix):
        node = status.node.name
        unique = _object(f"qtunnel_{node}_{key}")
        found[f"{DISCOVERY}/{component}/{unique}/config"] = {
            "unique_id": unique,
            "object_id": unique,
            "availability_topic": state_topic(prefix, node),
            "payload_available": ONLINE.decode(),
            "payload_not_available": OFFLINE.decode(),
            "device": {
                "identifiers": [_object(f"qtunnel_{node}")], "name": f"qtunnel {node}", "manufacturer": "qtunnel",
                "sw_version": status.node.version,
            },
            **config,
        }  # fmt: skip
    return found


def _object(name: str) -> str:
    """An object ID has letters, digits, ``_`` and ``-`` alone; our names have dots as well."""
    return name.replace(".", "_")


def _entities(status: Status, prefix: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    base = f"{prefix}/{status.node.name}"
    yield "sensor", "state", _sensor("State", f"{base}/node", "state")
    for peer in status.peers:
        yield from _of_peer(peer, f"{base}/peer/{peer.name}")
    for source in status.key_sources:
        yield from _of_source(source, f"{base}/source/{source.name}")


def _of_peer(peer: PeerStatus, topic: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    name, key = peer.name, f"peer_{peer.name}"
    yield "sensor", f"{key}_protection", _sensor(f"{name} protection", topic, "protection")
    yield (
        "binary_sensor",
        f"{key}_unprotected",
        {
            "name": f"{name} not protected as policy asks",
            "state_topic": topic,
            "value_template": "{{ 'OFF' if value_json.protected else 'ON' }}",
            "device_class": "problem",
        },
    )
    yield "sensor", f"{key}_age", _sensor(f"{name} key age", topic, "age_s", unit="s", device_class="duration")


def _of_source(source: KeySourceStatus, topic: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    name, key = source.name, f"source_{source.name}"
    yield "sensor", f"{key}_state", _sensor(f"{name} state", topic, "state")
    yield "sensor", f"{key}_keys", _sensor(f"{name} stored keys", topic, "stored_keys", unit="keys")
    yield "sensor", f"{key}_lost", _sensor(f"{name} lost keys", topic, "keys_lost", unit="keys")
    qber = _sensor(f"{name} QBER", topic, "qber", unit="%")
    qber["value_template"] = "{{ (value_json.qber * 100) | round(2) if value_json.qber is not none else None }}"
    yield "sensor", f"{key}_qber", qber


def _sensor(name: str, topic: str, value: str, *, unit: str = "", device_class: str = "") -> dict[str, Any]:
    config = {"name": name, "state_topic": topic, "value_template": f"{{{{ value_json.{value} }}}}"}
    if unit:
        config |= {"unit_of_measurement": unit}
    if device_class:
        config |= {"device_class": device_class}
    return config
