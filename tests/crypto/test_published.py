"""The primitives that all else stands on, by published vectors, through the code that uses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey
from kyber_py.ml_kem import ML_KEM_768, ML_KEM_1024
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt, crypto_aead_xchacha20poly1305_ietf_encrypt

from qtunnel.crypto import dh
from qtunnel.crypto.aead import AES_256_GCM, CHACHA20_POLY1305, Aead, AuthenticationError
from qtunnel.crypto.kem import KEMS, KemKeyError
from qtunnel.crypto.noise import BLAKE2S_CHACHAPOLY, NoiseSuite
from qtunnel.crypto.signature import SigningKey, is_signature
from qtunnel.secret import Secret

VECTORS = Path(__file__).parents[1] / "vectors"
AEADS = {"chacha20-poly1305": CHACHA20_POLY1305, "aes-256-gcm": AES_256_GCM}


def load(name: str) -> list[Any]:
    return [pytest.param(row, id=row["name"]) for row in json.loads((VECTORS / name).read_text())]


def counter_of(aead: Aead, nonce: bytes) -> int | None:
    """The Noise nonce that is encoded so; ``None`` where there is none, as it begins with 4 zero bytes."""
    return next(
        (n for order in ("little", "big") if aead.nonce(n := int.from_bytes(nonce[4:], order)) == nonce),
        None,
    )


@pytest.mark.parametrize("vector", load("aead/published.json"))
def test_aead(vector: dict[str, str]) -> None:
    its = {name: bytes.fromhex(vector[name]) for name in ("key", "nonce", "associated", "plaintext", "sealed")}
    key, nonce, associated, plaintext, sealed = its.values()
    if vector["cipher"] == "xchacha20-poly1305":  # of cookies, as qtunnel/crypto/cookie.py calls it
        assert crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, associated, nonce, key) == sealed
        assert crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, associated, nonce, key) == plaintext
        return
    aead = AEADS[vector["cipher"]]
    assert aead.cipher(key).encrypt(nonce, plaintext, associated) == sealed
    assert aead.cipher(key).decrypt(nonce, sealed, associated) == plaintext
    counter = counter_of(aead, nonce)
    if counter is not None:
        assert aead.seal(Secret(key), counter, plaintext, associated) == sealed
        assert aead.open(Secret(key), counter, sealed, associated) == plaintext
        with pytest.raises(AuthenticationError):
            aead.open(Secret(key), counter + 1, sealed, associated)


def test_both_ciphers_have_vectors_with_a_nonce_of_noise() -> None:
    rows = [param.values[0] for param in load("aead/published.json")]
    found = {
        row["cipher"] for row in rows
        if row["cipher"] in AEADS and counter_of(AEADS[row["cipher"]], bytes.fromhex(row["nonce"])) is not None
    }  # fmt: skip
    assert found == set(AEADS)


@pytest.mark.parametrize("vector", load("dh/x25519.json"))
def test_x25519(vector: dict[str, str]) -> None:
    private = Secret(bytes.fromhex(vector["private"]))
    if "public" in vector:
        assert dh.public_key(private).hex() == vector["public"]
    assert dh.exchange(private, bytes.fromhex(vector["peer"])) == Secret(bytes.fromhex(vector["shared"]))


@pytest.mark.parametrize("vector", load("kdf/wireguard.json"))
def test_the_kdf_of_wireguard(vector: dict[str, Any]) -> None:
    outputs = [Secret(bytes.fromhex(output)) for output in vector["outputs"]]
    key, material = Secret(bytes.fromhex(vector["key"])), bytes.fromhex(vector["input"])
    for number in (1, 2, 3):
        assert BLAKE2S_CHACHAPOLY.hkdf(key, material, number) == outputs[:number]


@pytest.mark.parametrize("vector", load("hash/published.json"))
def test_hashes(vector: dict[str, str]) -> None:
    """BLAKE2s is WireGuard's, SHA-512 the handshake's; each in two pieces, as the symmetric state hashes."""
    suite = NoiseSuite(vector["hash"], len(vector["digest"]) // 2, CHACHA20_POLY1305)
    data = bytes.fromhex(vector["data"])
    assert suite.hash(data).hex() == suite.hash(data[:1], data[1:]).hex() == vector["digest"]


@pytest.mark.parametrize("vector", load("kat/ml-kem.json"))
def test_ml_kem_from_seeds(vector: dict[str, str]) -> None:
    """The library that the program uses, from seeds as the program makes its keys; ``ct_n`` is a ciphertext that nobody
    made for this key, which gives the secret of implicit rejection (FIPS 203 algorithm 18)."""
    kem, its = (
        KEMS[vector["kem"]],
        {name: bytes.fromhex(vector[name]) for name in ("d", "z", "pk", "ct", "ct_n", "msg")},
    )
    pair = kem.key_pair(Secret(its["d"] + its["z"]))
    assert pair.public == its["pk"]
    assert pair.decapsulate(its["ct"]) == Secret(bytes.fromhex(vector["ss"]))
    assert pair.decapsulate(its["ct_n"]) == Secret(bytes.fromhex(vector["ss_n"]))
    for size in (0, len(its["ct"]) - 1, len(its["ct"]) + 1):
        with pytest.raises(KemKeyError):
            pair.decapsulate((its["ct"] + b"x")[:size])
    shared, ciphertext = {"ml-kem-768": ML_KEM_768, "ml-kem-1024": ML_KEM_1024}[vector["kem"]]._encaps_internal(
        its["pk"], its["msg"]
    )
    assert (ciphertext, shared.hex()) == (its["ct"], vector["ss"])


@pytest.mark.parametrize("vector", load("kat/ml-dsa-65.json"))
def test_ml_dsa_from_seeds(vector: dict[str, str]) -> None:
    """Of the audit log. The published signatures have a context, ours have none: with none they are no signatures."""
    public, message, signature = (bytes.fromhex(vector[name]) for name in ("public", "message", "signature"))
    assert SigningKey(Secret(bytes.fromhex(vector["xi"]))).public == public
    MLDSA65PublicKey.from_public_bytes(public).verify(signature, message, bytes.fromhex(vector["context"]))
    assert not is_signature(public, message, signature)


def test_every_file_of_vectors_has_its_source_and_licence_and_a_test() -> None:
    tests = "".join(path.read_text() for path in VECTORS.parent.rglob("*.py"))
    found = [path for path in VECTORS.rglob("*") if path.is_file() and path.name != "SOURCES.md"]
    assert len(found) >= 15
    for path in found:
        said = (path.parent / "SOURCES.md").read_text().splitlines()
        row = next((line for line in said if path.name in line), "")
        assert row.count("|") == 5 or path.parent.name in ("handshake", "record"), path  # ours have a paragraph
        assert path.name in tests or path.parent.name in ("acvp", "noise"), path  # which are read by a pattern
