"""MQTT: what a QKD device publishes for our driver, and what ``qtunnel fleet`` reads of all gateways at a broker."""

from __future__ import annotations

import base64

from qtunnel.cli.fleet import _cells, _clean
from qtunnel.drivers import mqtt_wire as wire
from qtunnel.errors import QtunnelError
from qtunnel.fleet.view import Member, take
from tests.fuzz.draw import Draw, document
from tests.fuzz.target import Target, say

KEY = bytes(range(32))
TEXT = base64.b64encode(KEY).decode()
ID, KEY_ID = "6fa459ea-ee8a-3ca4-894e-db77e160355e", "16fd2706-8baf-433b-82eb-8c7fada847da"
ALARM = {"code": "eavesdropping", "message": "somebody is on the line"}
ANSWER = {"v": 1, "request_id": ID, "key_ID": KEY_ID, "key": TEXT, "size": 256}
REFUSAL = {"v": 1, "request_id": ID, "error": {"code": "no-keys", "message": "wait"}}
PRESENCE = {"v": 1, "online": True, "alarm": ALARM}
LINK = {
    "v": 1,
    "link": "up",
    "stored_keys": 4,
    "max_keys": 10,
    "key_size": 256,
    "qber": 0.02,
    "key_rate": 1000.0,
    "alarm": ALARM,
}
ODD = (ID, KEY_ID, KEY_ID.upper(), ID.replace("-", ""), "{" + ID + "}", "urn:uuid:" + ID, TEXT, TEXT[:-1], KEY.hex(),
    256, 256.0,
       "internal", "unknown-code", "a" * 41, ALARM, [ALARM], 2**53, 8192 * 8, 8)  # fmt: skip
WORDS = tuple(f'"{name}":'.encode() for name in (*ANSWER, *REFUSAL, *PRESENCE, *LINK, "code", "message"))


def response(data: bytes) -> None:
    """The key that was asked for, of its size, or a refusal by its name."""
    draw = Draw(data[:2])
    body = document(data[2:], draw.choice((ANSWER, REFUSAL)), ODD)
    correlation = draw.choice((ID.encode(), b"", ID.upper().encode()))
    try:
        found = wire.response(body, correlation, 32)
    except wire.WireError as error:
        say(str(error))
        assert TEXT not in str(error)
        return
    assert correlation == ID.encode()
    if isinstance(found, wire.Answer):
        assert len(found.key) == 32
        assert wire.is_uuid(found.key_id)
    else:
        assert issubclass(found.kind, QtunnelError)
        assert found.lost in (0, 1)
        say(found.detail)
        assert TEXT not in found.detail


def reports(data: bytes) -> None:
    """Presence and link reports: within their bounds, with words that can be shown."""
    try:
        present = wire.presence(document(data, PRESENCE, ODD))
        say(str(present.alarm or ""))
    except wire.WireError as error:
        say(str(error))
    try:
        link = wire.link_report(document(data, LINK, ODD))
    except wire.WireError as error:
        return say(str(error))
    say(str(link.alarm or ""))
    assert all(
        count is None or 0 <= count <= wire.MAX_COUNT for count in (link.stored_keys, link.max_keys, link.key_size)
    )
    assert link.qber is None or 0 <= link.qber <= 1
    assert link.key_rate is None or 0 <= link.key_rate <= 1e15
    return None


NODE = {"version": 1, "time": 1.7e9, "state": "up", "audit_error": None, "name": "alice"}
PEER = {"version": 1, "time": 1.7e9, "protected": True, "protection": "qkd+pqc", "age_s": 12.5}
SOURCE = {"version": 1, "time": 1.7e9, "healthy": True, "state": "well", "days_left": 3.0}


def fleet(data: bytes) -> None:
    """Messages of anybody at the broker: what is no report is passed over, and what is kept can be put into a table."""
    draw, members = Draw(data), dict[str, Member]()
    for _ in range(6):
        kind, template = draw.choice((("node", NODE), ("peer", PEER), ("source", SOURCE), ("state", NODE)))
        name = draw.choice(("alice", "bob", "", "a b", "\x1b[31m", draw.text(8)))
        topic = draw.choice((f"qtunnel/{name}/{kind}", f"qtunnel/{name}/{kind}/x", f"other/{kind}", draw.text(20)))
        body = draw.choice((b"online", b"offline", b"")) if kind == "state" else document(draw.piece(200), template)
        take(members, "qtunnel", topic, draw.choice((body, body, body, None, "text", 5)))
        if not draw.left:
            break
    for name, member in members.items():
        assert member.name == name
        assert isinstance(member.well, bool)
        for cell in _cells(member, 1.7e9):
            say(_clean(cell))


TARGETS = {
    "response": Target(response, (), 600, WORDS),
    "reports": Target(reports, (), 600, WORDS),
    "fleet": Target(fleet, (), 600, tuple(f'"{name}":'.encode() for name in (*NODE, *PEER, *SOURCE))),
}
