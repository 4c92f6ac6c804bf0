"""KEMs by name, and several of them at once: as long as one of them holds, so does what they protect.

A set has the public keys and the ciphertexts of its KEMs one after the other, and gives their shared secrets one by
one, each to be mixed in by a MixKey of its own, so that each alone protects (docs/protocol.md, section 4.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from qtunnel.crypto import kem_liboqs
from qtunnel.crypto.kem import KEMS, Encapsulate, Kem, KemKeyPair
from qtunnel.errors import KemUnavailableError
from qtunnel.secret import RandomBytes, Secret

LARGEST_EPHEMERAL = 32 * 1024
"""Bytes of a public key that is made anew for every exchange and sent: half of the longest message. FrodoKEM's largest
has 21,520; Classic McEliece's have 261,120 and more, so its keys are static only."""


def find_kem(name: str) -> Kem:
    """The KEM of that name, of ``cryptography`` if it has it, else of liboqs; raises ``KemUnavailableError``."""
    if name in KEMS:
        return KEMS[name]
    try:
        return kem_liboqs.find(name)
    except KemUnavailableError as error:
        raise KemUnavailableError(f"must be one of: {', '.join(KEMS)}, or of liboqs's: {error}") from None


@dataclass(frozen=True)
class KemSet:
    """One KEM or several different ones, in the order of their names. Sizes in bytes."""

    kems: tuple[Kem, ...]

    @classmethod
    def of(cls, kems: Iterable[Kem]) -> KemSet:
        return cls(tuple(sorted(kems, key=lambda kem: kem.name)))

    @property
    def name(self) -> str:
        """For people: ``hqc-256+ml-kem-1024``."""
        return "+".join(kem.name for kem in self.kems)

    @property
    def noise_name(self) -> str:
        return "+".join(kem.noise_name for kem in self.kems)

    @cached_property
    def ephemeral(self) -> tuple[Kem, ...]:
        """Those whose public keys are small enough to be sent in every exchange."""
        return tuple(kem for kem in self.kems if kem.public_key_size <= LARGEST_EPHEMERAL)

    @cached_property
    def public_key_size(self) -> int:
        """Of an ephemeral key."""
        return sum(kem.public_key_size for kem in self.ephemeral)

    @cached_property
    def ciphertext_size(self) -> int:
        """Of what is encapsulated to static keys."""
        return sum(kem.ciphertext_size for kem in self.kems)

    @cached_property
    def ephemeral_ciphertext_size(self) -> int:
        """Of what is encapsulated to an ephemeral key."""
        return sum(kem.ciphertext_size for kem in self.ephemeral)

    def new_ephemeral(self, random_bytes: RandomBytes) -> EphemeralKeys:
        """New keys for one exchange."""
        return EphemeralKeys([kem.new_key_pair(random_bytes) for kem in self.ephemeral])

    def static_of(self, keys: Mapping[str, bytes]) -> bytes:
        """Of an identity's public keys by KEM name those of this set, one after the other."""
        return b"".join(keys[kem.name] for kem in self.kems)

    def encapsulate(self, keys: Mapping[str, bytes], encapsulate: Encapsulate) -> tuple[bytes, list[Secret]]:
        """Ciphertexts and secrets for an identity's public keys; raises ``KemKeyError``."""
        return _encapsulate([(kem, keys[kem.name]) for kem in self.kems], encapsulate)

    def encapsulate_ephemeral(self, public: bytes, encapsulate: Encapsulate) -> tuple[bytes, list[Secret]]:
        """Ciphertexts and secrets for ``EphemeralKeys.public``; raises ``KemKeyError``."""
        pieces = cut(public, [kem.public_key_size for kem in self.ephemeral])
        return _encapsulate(list(zip(self.ephemeral, pieces, strict=True)), encapsulate)

    def decapsulate(self, pairs: Mapping[str, KemKeyPair], ciphertext: bytes) -> list[Secret]:
        """The secrets of a ciphertext for static keys, by an identity's key pairs; raises ``KemKeyError`` where a KEM
        tells that it was made for another key."""
        return _decapsulate([pairs[kem.name] for kem in self.kems], ciphertext)


class EphemeralKeys:
    """The key pairs of a set for one exchange."""

    __slots__ = ("_pairs", "public")

    def __init__(self, pairs: Sequence[KemKeyPair]) -> None:
        self._pairs = list(pairs)
        self.public = b"".join(pair.public for pair in pairs)

    def decapsulate(self, ciphertext: bytes) -> list[Secret]:
        """The secrets of the ciphertexts; raises ``KemKeyError`` as ``KemSet.decapsulate``."""
        return _decapsulate(self._pairs, ciphertext)

    def wipe(self) -> None:
        for pair in self._pairs:
            pair.wipe()


def cut(data: bytes, sizes: Iterable[int]) -> list[bytes]:
    """Pieces of these sizes, one after the other; the last is shorter or longer where ``data`` is."""
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    ends[-1] = max(len(data), ends[-1])
    return [data[start:end] for start, end in pairwise(ends)]


def _encapsulate(to: Sequence[tuple[Kem, bytes]], encapsulate: Encapsulate) -> tuple[bytes, list[Secret]]:
    made = [encapsulate(kem, public) for kem, public in to]
    return b"".join(ciphertext for ciphertext, _ in made), [secret for _, secret in made]


def _decapsulate(pairs: Sequence[KemKeyPair], ciphertext: bytes) -> list[Secret]:
    pieces = cut(ciphertext, [pair.kem.ciphertext_size for pair in pairs])
    return [pair.decapsulate(piece) for pair, piece in zip(pairs, pieces, strict=True)]
