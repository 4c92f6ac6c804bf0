"""NIST's vectors of ML-KEM, by both libraries that have it.

``cryptography`` takes private keys as seeds alone, so the vectors of decapsulation, whose keys have none, go through
liboqs; and what ``cryptography`` encapsulates to their public keys is opened with their private keys there. ML-KEM-512
is liboqs's alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qtunnel.crypto import kem_liboqs
from qtunnel.crypto.kem import KEMS, Kem, KemKeyError, KemKeyPair
from qtunnel.secret import Secret

VECTORS = Path(__file__).parents[1] / "vectors" / "acvp"
PROVIDERS = ["cryptography", "liboqs"]


def groups(mode: str, function: str = "") -> list[Any]:
    document = json.loads((VECTORS / f"ML-KEM-{mode}-FIPS203.json").read_text())
    found = [group for group in document["testGroups"] if group.get("function", "") == function]
    assert {group["parameterSet"] for group in found} == {"ML-KEM-512", "ML-KEM-768", "ML-KEM-1024"}
    return [pytest.param(group, id=group["parameterSet"]) for group in found]


def by_provider(mode: str, function: str = "") -> list[Any]:
    """Each group with each library that has its KEM."""
    return [
        pytest.param(found.values[0], provider, id=f"{found.id}-{provider}")
        for found in groups(mode, function)
        for provider in PROVIDERS
        if provider == "liboqs" or str(found.id).lower() in KEMS
    ]


def kem_of(group: dict[str, Any], provider: str, request: pytest.FixtureRequest) -> Kem:
    name = group["parameterSet"].lower()
    if provider == "cryptography":
        return KEMS[name]
    request.getfixturevalue("liboqs")
    return kem_liboqs.find(name)


def raw(test: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(test[name])


def private_key(kem: Kem, where: dict[str, Any]) -> KemKeyPair:
    return KemKeyPair(kem, kem.library.restore(raw(where, "ek"), raw(where, "dk")))


@pytest.mark.parametrize("group,provider", by_provider("keyGen"))
def test_key_generation(group: dict[str, Any], provider: str, request: pytest.FixtureRequest) -> None:
    kem = kem_of(group, provider, request)
    assert len(group["tests"]) == 25
    for test in group["tests"]:
        pair = kem.key_pair(Secret(raw(test, "d") + raw(test, "z")))
        assert pair.public == raw(test, "ek")
        if provider == "liboqs":
            assert pair.export() == Secret(raw(test, "dk"))


@pytest.mark.parametrize("group,provider", by_provider("encapDecap", "encapsulation"))
def test_encapsulation(group: dict[str, Any], provider: str, request: pytest.FixtureRequest, liboqs: None) -> None:
    """The libraries draw m by themselves; so what they make is opened, and what was made with m as well."""
    kem, other = kem_of(group, provider, request), kem_of(group, "liboqs", request)
    for test in group["tests"]:
        pair = private_key(other, test)
        assert pair.decapsulate(raw(test, "c")) == Secret(raw(test, "k"))
        ciphertext, secret = kem.encapsulate(raw(test, "ek"))
        assert pair.decapsulate(ciphertext) == secret


@pytest.mark.parametrize("group", groups("encapDecap", "decapsulation"))
def test_decapsulation(group: dict[str, Any], request: pytest.FixtureRequest) -> None:
    """Also of changed ciphertexts, which give the secret of implicit rejection."""
    pair = private_key(kem_of(group, "liboqs", request), group)
    assert {test["reason"] for test in group["tests"]} == {"no modification", "modify ciphertext"}
    for test in group["tests"]:
        assert pair.decapsulate(raw(test, "c")) == Secret(raw(test, "k"))


@pytest.mark.parametrize("name", KEMS)
@pytest.mark.parametrize("ours,theirs", [PROVIDERS, PROVIDERS[::-1]])
def test_each_opens_what_the_other_makes(name: str, ours: str, theirs: str, request: pytest.FixtureRequest) -> None:
    one, other = (kem_of({"parameterSet": name}, provider, request) for provider in (ours, theirs))
    seed = Secret(bytes(range(64)))
    pair = one.key_pair(seed)
    assert other.key_pair(seed).public == pair.public
    for _ in range(20):
        ciphertext, secret = other.encapsulate(pair.public)
        assert pair.decapsulate(ciphertext) == secret
    changed = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    assert pair.decapsulate(changed) == other.key_pair(seed).decapsulate(changed) != secret


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name", KEMS)
def test_the_input_check_of_the_standard(name: str, provider: str, request: pytest.FixtureRequest) -> None:
    """FIPS 203 section 7.2: every coefficient is less than 3329."""
    kem = kem_of({"parameterSet": name}, provider, request)
    key = bytearray(kem.key_pair(Secret(bytes(64))).public)
    key[0], key[1] = 0x01, key[1] & 0xF0 | 0x0D  # 0xD01 is 3329
    for action in (kem.check_public_key, kem.encapsulate):
        with pytest.raises(KemKeyError, match="not a public key"):
            action(bytes(key))
