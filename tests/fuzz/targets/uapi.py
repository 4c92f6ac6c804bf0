"""WireGuard's configuration protocol: what a client may write to the engine, and what an engine may answer."""

from __future__ import annotations

from qtunnel.engines.uapi_client import _parse_device, _split, parse_endpoint
from qtunnel.wireguard.configuration import UapiConversation
from qtunnel.wireguard.limits import MAX_PEERS
from qtunnel.wireguard.uapi import KEYS, UapiError, parse_assignment
from tests.fuzz.draw import Draw, spoiled
from tests.fuzz.target import Target, say
from tests.wireguard.world import End, World

KEYS_HEX = ("11" * 32, "00" * 32, "22" * 32, "ff" * 32, "zz" * 32, "11" * 31)
VALUES = (
    *KEYS_HEX, "true", "false", "now", "", "0", "1", "25", "51820", "65535", "65536", str(2**64 - 1), str(2**64),
    "-1", "+1",
    "1 ", "²", "10.0.0.1:51820", "[fe80::1%eth0]:1", "[::1]:65535", "[::1]:0", "1.2.3.4", "10.77.0.0/24",
    "-10.77.0.2/32",
    "0.0.0.0/0", "::/0", "fd77::/129", "10.77.0.1/33", "10.77.0.1", "::ffff:1.2.3.4/100", "/", "off", "aes-256-gcm",
    "chacha20-poly1305", "a note", "x" * 901, "\x7f", "a=b",
)  # fmt: skip


def index(name: str) -> int:
    if name != "eth0":
        raise OSError(19, "no such device")
    return 2


def _line(draw: Draw) -> bytes:
    key = draw.choice((*KEYS, "get", "set", "brief", "unknown", ""))
    value = draw.choice(VALUES).encode() if not draw.flag(8) else draw.piece(40)
    return key.encode() + draw.choice((b"=", b"=", b"=", b"", b" = ")) + value + b"\n"


def _request(data: bytes) -> bytes:
    """From an input: itself, or operations with lines that mostly belong there."""
    if data[:1] < b"\x40":
        return data[1:]
    draw, text = Draw(data[1:]), b""
    while draw.left:
        text += draw.choice((b"set=1\n", b"get=1\n", b"get=1\nbrief=true\n", b"\n", b""))
        if draw.flag():
            text += f"public_key={draw.choice(KEYS_HEX)}\n".encode()
        text += b"".join(_line(draw) for _ in range(draw.number(0, 6))) + b"\n"
    return text


def _end() -> End:
    """The same one each time."""
    world = World()
    return world.end(("10.99.0.1", 51820), "10.77.0.1")


def _answers(end: End, pieces: list[bytes]) -> tuple[bytes, bool]:
    conversation, answer = UapiConversation(end.device), b""
    for piece in pieces:
        for one in conversation.feed(piece, end.world.now):
            answer += b"".join(one)
        if conversation.closed:
            break
    last = conversation.end(end.world.now)
    return answer + (b"".join(last) if last else b""), conversation.closed


def conversation(data: bytes) -> None:
    """However a request is cut into pieces, the answer is the same; each ends with errno, and is one that our own
    client
    reads; peers are bounded, and what a session says stays readable."""
    text = _request(data)
    step = 1 + (data[1] if len(data) > 1 else 0)
    pieces = [text[at : at + step] for at in range(0, len(text), step)]
    end = _end()
    answer, closed = _answers(end, [text])
    assert (answer, closed) == _answers(_end(), pieces)
    assert answer == b"" or answer.endswith(b"\n\n")
    assert len(end.device.state.peers) <= MAX_PEERS
    whole = end.uapi("get=1\n\n").encode()
    lines, number = _split(bytearray(whole))
    assert number == 0
    assert _parse_device(lines).peers.keys() == end.device.state.peers.keys()
    end.world.advance(10)
    end.device.close()
    assert not end.sessions


def assignment(data: bytes) -> None:
    """One line; what is wrong with it is said without what it says of a key."""
    if data[:1] >= b"\x40":
        data = _line(Draw(data[1:]))
    try:
        parse_assignment(data, index)
    except UapiError as error:
        say(str(error))
        assert 0 < error.code < 200
        key, _, value = data.partition(b"=")
        secret = key in (b"private_key", b"preshared_key", b"previous_preshared_key") and len(value) > 8
        assert not secret or value.decode("latin-1") not in str(error)


ANSWER = (
    f"private_key={'77' * 32}\nlisten_port=51820\nfwmark=7\npublic_key={'11' * 32}\npreshared_key={'5a' * 32}\n"
    "protocol_version=1\nendpoint=10.99.0.2:51820\nlast_handshake_time_sec=1700000000\nlast_handshake_time_nsec=5\n"
    "tx_bytes=1\nrx_bytes=2\npersistent_keepalive_interval=25\npackets=3\nepoch=1\nepoch_time_sec=1700000000.000000001\n"
    "epoch_note=a note\nallowed_ip=10.77.0.0/24\nrecord_mode=aes-256-gcm\nerrno=0\n\n"
).encode()  # fmt: skip


def answer(data: bytes) -> None:
    """What an engine answers, ours or another's: read, or refused in words; no secret comes out."""
    text = data[1:]
    if data[:1] >= b"\x40":
        draw = Draw(data[1:])
        lines = ANSWER.split(b"\n")
        for _ in range(draw.number(0, 4)):
            at = draw.number(0, 255) % len(lines)
            match draw.number(0, 2):
                case 0:
                    lines.insert(at, draw.choice(lines))
                case 1:
                    key = lines[at].partition(b"=")[0]
                    lines[at] = key + b"=" + (draw.choice(VALUES).encode() if draw.flag() else draw.piece(20))
                case _:
                    lines.pop(at) if len(lines) > 1 else None
        text = spoiled(draw, b"\n".join(lines), 2)
    if not text.endswith(b"\n\n"):  # read until there is
        text += b"\n\n"
    found, _ = _split(bytearray(text), marks=data[:1] < b"\x80")
    assert not any(key in ("private_key", "preshared_key") for key, _ in found)
    _parse_device(found)


def endpoint(data: bytes) -> None:
    host, port = parse_endpoint(data.decode("ascii", "replace"))
    assert host
    assert 0 <= port < 65536


WORDS = tuple(f"{key}=".encode() for key in KEYS)
TARGETS = {
    "conversation": Target(conversation, (), 600, (*WORDS, b"set=1\n", b"get=1\n\n")),
    "assignment": Target(assignment, (), 200, WORDS),
    "answer": Target(answer, (ValueError,), 600, WORDS),
    "endpoint": Target(endpoint, (ValueError,), 60),
}
