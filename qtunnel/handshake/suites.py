"""The suites: which KEMs, which AEAD, which combiner. Fixed per peer in the configuration, never negotiated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from qtunnel.crypto.aead import AES_256_GCM, CHACHA20_POLY1305, Aead
from qtunnel.crypto.kdf import sha512
from qtunnel.crypto.kem import KEMS, ML_KEM_768, ML_KEM_1024, Kem
from qtunnel.crypto.kem_set import LARGEST_EPHEMERAL, KemSet
from qtunnel.crypto.noise import NoiseSuite
from qtunnel.errors import ConfigError

Combiner = Literal["hkdf", "catkdf"]
"""What makes the epoch's keys in the end: HKDF of the chaining key, or CatKDF of ETSI TS 103 744."""

AEADS = {aead.name: aead for aead in (CHACHA20_POLY1305, AES_256_GCM)}
NUMBERED_LIMIT = 0x8000
"""Ids below are given by hand; those of all other suites follow from the protocol name."""


@dataclass(frozen=True)
class Suite:
    """One suite; ``id`` is its number on the wire."""

    id: int
    kem: KemSet
    aead: Aead
    combiner: Combiner = "hkdf"

    @property
    def name(self) -> str:
        """For people: ``ml-kem-1024+chacha20-poly1305``."""
        return f"{self.kem.name}+{self.aead.name}" + ("" if self.combiner == "hkdf" else f"+{self.combiner}")

    @cached_property
    def protocol_name(self) -> bytes:
        """What the handshake's first hash is made of."""
        return _protocol_name(self.kem, self.aead, self.combiner)

    @property
    def costly(self) -> bool:
        """Whether it may take many times the computation that ML-KEM takes."""
        return any(kem.name not in KEMS for kem in self.kem.kems)

    @property
    def noise(self) -> NoiseSuite:
        return NoiseSuite("sha512", 64, self.aead)


def _protocol_name(kem: KemSet, aead: Aead, combiner: Combiner) -> bytes:
    end = "" if combiner == "hkdf" else "_CatKDF"
    return f"QTunnel_IKpsk2+pqIK_25519+{kem.noise_name}_{aead.noise_name}_SHA512{end}".encode()


SUITES: dict[int, Suite] = {
    suite.id: suite
    for suite in (
        Suite(1, KemSet((ML_KEM_1024,)), CHACHA20_POLY1305),
        Suite(2, KemSet((ML_KEM_1024,)), AES_256_GCM),
        Suite(3, KemSet((ML_KEM_768,)), CHACHA20_POLY1305),
        Suite(4, KemSet((ML_KEM_768,)), AES_256_GCM),
    )
}
_NUMBERED = {suite.protocol_name: suite for suite in SUITES.values()}


def find_suite(kems: Sequence[Kem], aead: str, combiner: Combiner = "hkdf") -> Suite:
    """The suite of these KEMs and an AEAD of the configuration's name; raises ``KeyError`` for another one.

    Raises ``ConfigError`` for KEMs that make no suite; whether the messages hold them, ``messages.check_fits`` says.
    """
    kem = KemSet.of(kems)
    names = [one.name for one in kem.kems]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"names {twice} twice; a second KEM protects where it is another one")
    if not kem.ephemeral:
        which = min(kem.kems, key=lambda one: one.public_key_size)
        raise ConfigError(
            f"{which.name} has public keys of {which.public_key_size:,} bytes; above {LARGEST_EPHEMERAL:,} they are "
            "not sent, so that it serves with static keys only and needs another KEM beside it: "
            f"[{which.name}, ml-kem-1024]"
        )
    name = _protocol_name(kem, AEADS[aead], combiner)
    number = NUMBERED_LIMIT | (int.from_bytes(sha512(name)[:2], "big") % NUMBERED_LIMIT)
    return _NUMBERED.get(name) or Suite(number, kem, AEADS[aead], combiner)


class SuitesInUse:
    """The suites that first messages may have: the numbered ones, and those of the peers."""

    def __init__(self) -> None:
        self._peers: dict[str, Suite] = {}
        self._by_id = dict(SUITES)

    def set(self, peer: str, suite: Suite) -> None:
        """That peer has that suite. Of two with one id, which the configuration refuses, the first is known."""
        if self._peers.get(peer) is not suite:
            self._peers[peer] = suite
            self._rebuild(suite)

    def forget(self, peer: str) -> None:
        suite = self._peers.pop(peer, None)
        if suite is not None:
            self._rebuild(suite)

    def _rebuild(self, touched: Suite) -> None:
        if touched.id in SUITES and self._by_id.keys() <= SUITES.keys():
            return  # the usual case, also of a thousand peers
        self._by_id = {suite.id: suite for suite in reversed(self._peers.values())} | SUITES

    def get(self, number: int) -> Suite | None:
        return self._by_id.get(number)
