"""The published Noise vectors over SHA-512: the classical half of our own handshake's symmetric state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qtunnel.crypto import dh
from qtunnel.crypto.aead import AES_256_GCM, CHACHA20_POLY1305, AuthenticationError
from qtunnel.crypto.noise import NoiseSuite, SymmetricState
from qtunnel.secret import Secret

FILE = Path(__file__).parent.parent / "vectors" / "noise" / "cacophony-IK-25519-SHA512.json"
VECTORS = json.loads(FILE.read_text())["vectors"]
AEADS = {"ChaChaPoly": CHACHA20_POLY1305, "AESGCM": AES_256_GCM}
TOKENS = {
    "IK": (("e", "es", "s", "ss"), ("e", "ee", "se")),
    "IKpsk2": (("e", "es", "s", "ss"), ("e", "ee", "se", "psk")),
}


def keys(vector: dict[str, Any]) -> dict[str, Secret]:
    names = {"e_i": "init_ephemeral", "s_i": "init_static", "e_r": "resp_ephemeral", "s_r": "resp_static"}
    return {short: Secret(bytes.fromhex(vector[name])) for short, name in names.items()}


DH = {"es": ("e_i", "s_r"), "ss": ("s_i", "s_r"), "ee": ("e_i", "e_r"), "se": ("s_i", "e_r")}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["protocol_name"])
def test_published_vector(vector: dict[str, Any]) -> None:
    name = vector["protocol_name"]
    suite = NoiseSuite("sha512", 64, AEADS[name.split("_")[3]])
    pattern = name.split("_")[1]
    secrets = keys(vector)
    public = {short: dh.public_key(secret) for short, secret in secrets.items()}
    psks = [Secret(bytes.fromhex(psk)) for psk in vector.get("init_psks", [])]
    state = SymmetricState(suite, name.encode())
    state.mix_hash(bytes.fromhex(vector["init_prologue"]))
    state.mix_hash(public["s_r"])
    for index, message in enumerate(vector["messages"][:2]):
        end = "i" if index == 0 else "r"
        wire = b""
        for token in TOKENS[pattern][index]:
            if token == "e":
                wire += public[f"e_{end}"]
                state.mix_hash(public[f"e_{end}"])
                if psks:
                    state.mix_key(public[f"e_{end}"])
            elif token == "s":
                wire += state.encrypt_and_hash(public["s_i"])
            elif token == "psk":
                state.mix_key_and_hash(psks[0])
            else:
                private, other = DH[token]
                state.mix_key(dh.exchange(secrets[private], public[other]))
        wire += state.encrypt_and_hash(bytes.fromhex(message["payload"]))
        assert wire.hex() == message["ciphertext"]
    if "handshake_hash" in vector:
        assert state.h.hex() == vector["handshake_hash"]
    sending = state.split()
    for index, message in enumerate(vector["messages"][2:]):
        sealed = suite.aead.seal(sending[index % 2], index // 2, bytes.fromhex(message["payload"]), b"")
        assert sealed.hex() == message["ciphertext"]


def test_a_failed_decryption_leaves_the_state_as_it_was() -> None:
    suite = NoiseSuite("sha512", 64, CHACHA20_POLY1305)
    one, other = SymmetricState(suite, b"name"), SymmetricState(suite, b"name")
    for state in (one, other):
        state.mix_key(Secret(bytes(32)))
    sealed = one.encrypt_and_hash(b"hello")
    with pytest.raises(AuthenticationError):
        other.decrypt_and_hash(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    assert other.decrypt_and_hash(sealed) == b"hello"
    assert one.h == other.h
