"""The published vectors of Noise IK and its PSK variants run through the code that WireGuard uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qtunnel.crypto.aead import CHACHA20_POLY1305, AuthenticationError
from qtunnel.secret import Secret
from qtunnel.wireguard.noise import INITIATION_TOKENS, RESPONSE_TOKENS, KeyPair, NoiseHandshake

VECTORS = Path(__file__).parent.parent / "vectors" / "noise"

PATTERNS = {
    "IK": (INITIATION_TOKENS, RESPONSE_TOKENS),
    "IKpsk1": ((*INITIATION_TOKENS, "psk"), RESPONSE_TOKENS),
    "IKpsk2": (INITIATION_TOKENS, (*RESPONSE_TOKENS, "psk")),
    "IKpsk0+psk2": (("psk", *INITIATION_TOKENS), (*RESPONSE_TOKENS, "psk")),
}


def load() -> list[Any]:
    return [
        pytest.param(vector, id=f"{path.name.partition('-')[0]}-{vector['protocol_name']}")
        for path in sorted(VECTORS.glob("*BLAKE2s.json"))
        for vector in json.loads(path.read_text())["vectors"]
    ]


def pair(text: str) -> KeyPair:
    return KeyPair.of(Secret(bytes.fromhex(text)))


def party(vector: dict[str, Any], side: str, remote_static: bytes | None) -> NoiseHandshake:
    return NoiseHandshake(
        vector["protocol_name"].encode(),
        bytes.fromhex(vector[f"{side}_prologue"]),
        initiator=side == "init",
        static=pair(vector[f"{side}_static"]),
        ephemeral=lambda: pair(vector[f"{side}_ephemeral"]),
        remote_static=remote_static,
        psks=[Secret(bytes.fromhex(psk)) for psk in vector.get(f"{side}_psks", [])],
    )


def split_fields(message: bytes, tokens: tuple[str, ...]) -> tuple[list[bytes], bytes]:
    fields, offset = [], 0
    for token in tokens:
        size = {"e": 32, "s": 48}.get(token, 0)
        if size:
            fields.append(message[offset : offset + size])
            offset += size
    return fields, message[offset:]


def test_there_are_vectors_of_every_pattern() -> None:
    names = {vector.values[0]["protocol_name"].split("_")[1] for vector in load()}
    assert names == set(PATTERNS)


@pytest.mark.parametrize("vector", load())
def test_published_vector(vector: dict[str, Any]) -> None:
    patterns = PATTERNS[vector["protocol_name"].split("_")[1]]
    initiator = party(vector, "init", bytes.fromhex(vector["init_remote_static"]))
    responder = party(vector, "resp", None)
    sides = [(initiator, responder), (responder, initiator)]
    for (writer, reader), tokens, step in zip(sides, patterns, vector["messages"], strict=False):
        payload, expected = bytes.fromhex(step["payload"]), bytes.fromhex(step["ciphertext"])
        assert b"".join(writer.write(tokens)) + writer.write_payload(payload) == expected
        fields, sealed = split_fields(expected, tokens)
        reader.read(tokens, fields)
        assert reader.read_payload(sealed) == payload
    assert initiator.hash == responder.hash
    if "handshake_hash" in vector:
        assert initiator.hash.hex() == vector["handshake_hash"]
    assert responder.rs == pair(vector["init_static"]).public

    to_responder, to_initiator = initiator.split()
    assert responder.split() == (to_initiator, to_responder)
    for number, step in enumerate(vector["messages"][2:]):
        key = to_initiator if number % 2 else to_responder
        sealed = CHACHA20_POLY1305.seal(key, number // 2, bytes.fromhex(step["payload"]), b"")
        assert sealed.hex() == step["ciphertext"]


def test_a_fork_leaves_the_original_usable() -> None:
    vector = load()[0].values[0]
    initiator = party(vector, "init", bytes.fromhex(vector["init_remote_static"]))
    initiator.write(INITIATION_TOKENS)
    before = initiator.hash
    with pytest.raises(AuthenticationError):
        initiator.fork().read_payload(bytes(16))
    other = initiator.fork()
    other.mix_psk(Secret(bytes(32)))
    other.wipe()
    assert initiator.hash == before
    initiator.write_payload(b"")
