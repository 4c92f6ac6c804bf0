"""What a network tells of its links to whoever listens, in JSON: the same by MQTT and as server-sent events.

A report has the form in which a device tells of a link to the driver ``mqtt`` (docs/sources/mqtt.md, version 1), with a
link of the network in the place of a peer, so that whoever reads these reads those.
"""

from __future__ import annotations

import json
from typing import Any

from qtunnel.events import Event
from qtunnel.qkdnet.link import Link, LinkState

VERSION = 1
"""Of the driver's wire format."""

Json = dict[str, Any]

LASTING = ("link", "alarm")
"""Members of a report that are worth a message at once when they change; the others change all the time."""


def alarm(link: Link) -> Json | None:
    """Why a link warns. A QBER above the threshold is eavesdropping, whatever it was: nobody can tell them apart."""
    if link.alarm is None:
        return None
    return {"code": "blinding" if link.dazzled else "eavesdropping", "message": link.alarm}


def report(link: Link, key_bits: int) -> Json:
    """How a link is now; keys of ``key_bits`` bits. It is up while it makes keys."""
    store = link.reservoir
    return {
        "v": VERSION,
        "link": "up" if link.state is LinkState.UP else "down",
        "stored_keys": store.stored // key_bits,
        "max_keys": store.capacity // key_bits,
        "key_size": key_bits,
        "qber": round(link.error, 6) if link.metric == "QBER" else None,
        "key_rate": round(link.key_rate, 3),
        "alarm": alarm(link),
    }


def presence(*, online: bool) -> Json:
    """Whether the network runs. Alarms are the links', so that one under attack says nothing of the others."""
    return {"v": VERSION, "online": online, "alarm": None}


def happening(event: Event) -> Json:
    """Something that happened to a link or a node; ``at`` in seconds of the network, ``time`` of the clock."""
    fields = event.fields
    told = {"v": VERSION, "time": round(event.time, 3), "what": event.kind, "at": fields["at"]}
    return told | {"place": fields["place"], "detail": fields["detail"]}


def payload(told: Json) -> bytes:
    return json.dumps(told, separators=(",", ":"), allow_nan=False).encode()
