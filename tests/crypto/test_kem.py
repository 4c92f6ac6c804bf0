"""ML-KEM against another implementation with chosen randomness, and against bad input."""

from __future__ import annotations

import os

import pytest
from kyber_py.ml_kem import ML_KEM_768, ML_KEM_1024

from qtunnel.crypto.kem import KEMS, Kem, KemKeyError
from qtunnel.secret import Secret

OTHER = {"ml-kem-768": ML_KEM_768, "ml-kem-1024": ML_KEM_1024}


@pytest.fixture(params=list(KEMS.values()), ids=lambda kem: kem.name)
def kem(request: pytest.FixtureRequest) -> Kem:
    found: Kem = request.param
    return found


def test_agrees_with_an_independent_implementation(kem: Kem) -> None:
    seed = bytes(range(64))
    pair = kem.key_pair(Secret(seed))
    public, private = OTHER[kem.name]._keygen_internal(seed[:32], seed[32:])
    assert pair.public == public
    shared, ciphertext = OTHER[kem.name]._encaps_internal(public, bytes(32))
    assert pair.decapsulate(ciphertext) == Secret(shared)
    ours, secret = kem.encapsulate(public)
    assert OTHER[kem.name].decaps(private, ours) == bytes(secret.reveal())


def test_sizes(kem: Kem) -> None:
    pair = kem.key_pair(Secret(os.urandom(64)))
    ciphertext, secret = kem.encapsulate(pair.public)
    assert (len(pair.public), len(ciphertext), len(secret)) == (kem.public_key_size, kem.ciphertext_size, 32)


def test_input_checks(kem: Kem) -> None:
    pair = kem.key_pair(Secret(os.urandom(64)))
    for bad in (b"", pair.public[:-1], pair.public + b"\0", b"\xff" * kem.public_key_size):
        with pytest.raises(KemKeyError):
            kem.encapsulate(bad)
    for bad in (b"", bytes(kem.ciphertext_size - 1), bytes(kem.ciphertext_size + 1)):
        with pytest.raises(KemKeyError):
            pair.decapsulate(bad)
    with pytest.raises(KemKeyError):
        kem.key_pair(Secret(bytes(32)))


def test_a_ciphertext_for_another_key_gives_another_secret(kem: Kem) -> None:
    pair, stranger = kem.key_pair(Secret(os.urandom(64))), kem.key_pair(Secret(os.urandom(64)))
    ciphertext, secret = kem.encapsulate(pair.public)
    assert stranger.decapsulate(ciphertext) != secret
