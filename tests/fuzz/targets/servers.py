"""What anybody may send to servers of this program: the KME of ETSI GS QKD 014, the control sockets of daemon and
simulator; and what a daemon or a partner may answer."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from qtunnel.control.client import ControlClient
from qtunnel.control.messages import NodeStatus, PeerStatus, Request, Status
from qtunnel.control.server import _parse, _RefusedError
from qtunnel.errors import ConfigError, ControlError, NetworkError
from qtunnel.kme import api
from qtunnel.kme.link import _message, decode_push, encode_push
from qtunnel.page.guard import is_known_host, presented
from qtunnel.simulator.control import _answer
from tests.fuzz.draw import Draw, document
from tests.fuzz.target import Target, say

LIMITS = api.Limits(size=256, min_size=64, max_size=4096, max_per_request=128, max_count=10_000, max_sae_ids=4)
KEY = base64.b64encode(bytes(32)).decode()
ASKED = {
    "number": 3, "size": 512, "additional_slave_SAE_IDs": ["sae-c"], "extension_mandatory": [{"route": "direct"}],
    "extension_optional": [{"a": 1}],
}  # fmt: skip
NAMED = {
    "key_IDs": [{"key_ID": "16fd2706-8baf-433b-82eb-8c7fada847da", "key_ID_extension": {}}],
    "key_IDs_extension": {},
}
PUSHED = {"master_SAE_ID": "sae-a", "slave_SAE_IDs": ["sae-b"], "keys": [{"key_ID": "1", "key": KEY}]}


def key_request(data: bytes) -> None:
    """A request within the limits, or an answer of the standard's form."""
    try:
        asked = api.parse_key_request(api.parse_json(document(data, ASKED)), LIMITS, frozenset({"route"}))
    except api.ApiError as error:
        return _check_refusal(error)
    assert 1 <= asked.number <= LIMITS.max_per_request
    assert LIMITS.min_size <= asked.size <= LIMITS.max_size
    assert asked.size % 8 == 0
    assert len(asked.additional_slaves) <= LIMITS.max_sae_ids
    return None


def _check_refusal(error: api.ApiError) -> None:
    assert 400 <= error.status < 600
    assert len(json.dumps(error.body())) < 5000
    say(error.message)


def key_ids(data: bytes) -> None:
    try:
        found = api.parse_key_ids(api.parse_json(document(data, NAMED)), LIMITS)
        assert 0 < len(found) <= LIMITS.max_per_request
        assert len(set(found)) == len(found)
    except api.ApiError as error:
        _check_refusal(error)


def query(data: bytes) -> None:
    draw = Draw(data)
    pairs = [
        (
            draw.choice(("number", "size", "sizes", "", draw.text(8))),
            draw.choice(("1", "256", "²", "", "9" * 10, draw.text(8))),
        )
        for _ in range(draw.number(0, 4))
    ]
    try:
        fields = api.parse_query(pairs)
        assert all(isinstance(value, int) for value in fields.values())
        api.parse_key_request(fields, LIMITS)
    except api.ApiError as error:
        _check_refusal(error)


def push(data: bytes) -> None:
    """What the partner KME pushes is written as it was read."""
    try:
        keys, master, slaves = decode_push(
            api.parse_json(document(data, PUSHED, (KEY, "AA==", "AA", ["key_ID", "key"])))
        )
    except api.ApiError as error:
        return _check_refusal(error)
    again = decode_push(api.parse_json(encode_push(keys, master=master, slaves=slaves)))
    assert ([one.key_id for one in again[0]], *again[1:]) == ([one.key_id for one in keys], master, slaves)
    assert all(len(one.key) for one in keys)
    return None


def partner_said(data: bytes) -> None:
    say(_message(document(data, {"message": "no"})))


CONTROL = {"version": 1, "request": "rekey", "peer": "bob", "source": "metro", "timeout_s": 30.0, "history": True}
COMMAND = {"request": "command", "target": "alice-bob", "action": "noise", "arguments": ["2%", "5"]}


def control(data: bytes) -> None:
    """A request of the daemon's control socket, or a refusal in words."""
    odd = ("ping", "status", "reload", "events", "clear-source", 300, 301, 0, 1.0, "1", "x" * 257)
    try:
        asked = _parse(document(data, CONTROL, odd))
    except _RefusedError as error:
        say(str(error))
        assert len(str(error)) < 400
        return
    assert 0 < asked.timeout_s <= 300
    assert Request.model_validate_json(asked.model_dump_json()) == asked


def page(data: bytes) -> None:
    """Headers of a browser, or of whoever asks for the page: no other host's name passes, and no token is made up."""
    host, _, given = data.decode("utf-8", "surrogateescape").partition("\n")
    if is_known_host(host, ("gateway.example",)):
        name = host.lower().strip("[").partition("]")[0]
        assert "localhost" in name or "gateway.example" in name or ":" in name or name.startswith("127."), host
    token = presented(given)
    assert token is None or token
    assert token is None or given.lower().startswith(("bearer ", "basic "))


class _Service:
    """In the place of a running network: takes what is asked, and refuses it."""

    happenings: tuple[object, ...] = ()

    def map(self) -> dict[str, object]:
        return {}

    def advance(self) -> None:
        pass

    def command(self, target: str, action: str, *arguments: str) -> list[object]:
        assert all(isinstance(one, str) for one in (target, action, *arguments))
        return []


def simulator(data: bytes) -> None:
    """A request of the simulator's socket, or a refusal; what is answered is JSON."""
    odd = ("map", "happenings", "command", ["a", "b"])
    json.dumps(_answer(_Service(), document(data, COMMAND, odd)))  # type: ignore[arg-type]  # as much of it as is asked


NODE = NodeStatus(name="alice", fingerprint="f", version="1", uptime=1.0, engine="qtunnel", interface="qt0", state="up")
STATUS = Status(node=NODE, peers=[PeerStatus(name="bob", protected=True, protection="qkd+pqc", policy="required")])
ANSWER = {"version": 1, "ok": True, "result": STATUS.model_dump(mode="json"), "event": {"time": 1, "kind": "x"}}
REFUSED = {"version": 1, "ok": False, "error": {"code": "unknown-peer", "message": "no peer"}}


class _Client(ControlClient):
    """Reads an answer that is there already."""

    def __init__(self) -> None:
        pass

    path = Path("/run/x.sock")


CLIENT = _Client()


def answer(data: bytes) -> None:
    """What answers at a control socket: a status, or an error in words."""
    draw = Draw(data[:1])
    body = document(data[1:], draw.choice((ANSWER, REFUSED)), ("config", "stopping", "failed", "up", "blocked"))
    found = CLIENT._decode(body)
    assert found["version"] == 1


JSON = tuple(f'"{name}":'.encode() for name in (*ASKED, *NAMED, *PUSHED, "key_ID", "key"))
ASK = (*(f'"{name}":'.encode() for name in (*CONTROL, *COMMAND)), b'"status"', b'"rekey"', b'"command"')
TARGETS = {
    "key_request": Target(key_request, (), 500, JSON),
    "key_ids": Target(key_ids, (), 500, JSON),
    "query": Target(query, (), 100),
    "push": Target(push, (), 500, JSON),
    "partner_said": Target(partner_said, (), 200),
    "control": Target(control, (), 500, ASK),
    "page": Target(page, (), 100, (b"localhost", b"gateway.example", b"[::1]", b":443", b"Bearer ", b"Basic ", b"\n")),
    "simulator": Target(simulator, (NetworkError,), 400, ASK),
    "answer": Target(answer, (ControlError, ConfigError), 500, (b'"error":', b'"code":', b'"message":')),
}
