"""Key encapsulation mechanisms behind one small interface; ML-KEM of FIPS 203 from ``cryptography``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import mlkem

from qtunnel.crypto.kdf import Label
from qtunnel.secret import Secret

SEED_SIZE = 64
"""Bytes of the ML-KEM seed d || z (FIPS 203 section 3.3 and 7.1)."""

SHARED_SECRET_SIZE = 32


class KemKeyError(Exception):
    """A public key or ciphertext that is not of this KEM."""


class _Private(Protocol):
    def decapsulate(self, ciphertext: bytes) -> bytes: ...
    def public_key(self) -> _Public: ...


class _Public(Protocol):
    def encapsulate(self) -> tuple[bytes, bytes]: ...
    def public_bytes_raw(self) -> bytes: ...


Encapsulate = Callable[[bytes], tuple[bytes, Secret]]
"""From a public key: (ciphertext, shared secret). Its randomness is the library's own (FIPS 203 section 3.3)."""


@dataclass(frozen=True, slots=True)
class Kem:
    """One KEM. Sizes in bytes; ``label`` derives its static key from an identity's seed."""

    name: str
    noise_name: str
    public_key_size: int
    ciphertext_size: int
    label: Label
    _private: Callable[[bytes], _Private]
    _public: Callable[[bytes], _Public]

    def key_pair(self, seed: Secret) -> KemKeyPair:
        """The key pair of a 64-byte seed (``ML-KEM.KeyGen_internal``, FIPS 203 algorithm 16)."""
        if len(seed) != SEED_SIZE:
            raise KemKeyError(f"{self.name}: a seed has {SEED_SIZE} bytes, not {len(seed)}")
        return KemKeyPair(self, self._private(bytes(seed.reveal())))

    def encapsulate(self, public: bytes) -> tuple[bytes, Secret]:
        """(ciphertext, 32-byte shared secret); raises ``KemKeyError`` for a key that fails FIPS 203's input check."""
        shared, ciphertext = self._load(public).encapsulate()
        return ciphertext, Secret(shared)

    def check_public_key(self, public: bytes) -> None:
        """Raises ``KemKeyError`` for a key that fails FIPS 203's input check (section 7.2)."""
        self._load(public)

    def _load(self, public: bytes) -> _Public:
        if len(public) != self.public_key_size:
            raise KemKeyError(f"{self.name}: a public key has {self.public_key_size} bytes, not {len(public)}")
        try:
            return self._public(public)
        except ValueError:
            raise KemKeyError(f"{self.name}: not a public key") from None


class KemKeyPair:
    """A KEM key pair; the private half stays inside the library."""

    __slots__ = ("_private", "kem", "public")

    def __init__(self, kem: Kem, private: _Private) -> None:
        self.kem = kem
        self._private = private
        self.public = private.public_key().public_bytes_raw()

    def decapsulate(self, ciphertext: bytes) -> Secret:
        """The 32-byte shared secret. A ciphertext made for another key gives another secret, not an error."""
        if len(ciphertext) != self.kem.ciphertext_size:
            raise KemKeyError(f"{self.kem.name}: a ciphertext has {self.kem.ciphertext_size} bytes")
        return Secret(self._private.decapsulate(ciphertext))

    def __repr__(self) -> str:
        return f"<{self.kem.name} key pair>"


ML_KEM_768 = Kem(
    "ml-kem-768",
    "MLKEM768",
    1184,
    1088,
    Label.IDENTITY_ML_KEM_768,
    mlkem.MLKEM768PrivateKey.from_seed_bytes,
    mlkem.MLKEM768PublicKey.from_public_bytes,
)
ML_KEM_1024 = Kem(
    "ml-kem-1024",
    "MLKEM1024",
    1568,
    1568,
    Label.IDENTITY_ML_KEM_1024,
    mlkem.MLKEM1024PrivateKey.from_seed_bytes,
    mlkem.MLKEM1024PublicKey.from_public_bytes,
)
KEMS: dict[str, Kem] = {kem.name: kem for kem in (ML_KEM_1024, ML_KEM_768)}
"""By the name that the configuration uses; the order is that of public files."""
