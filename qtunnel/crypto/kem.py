"""Key encapsulation mechanisms behind one small interface, whichever library they come from.

ML-KEM (FIPS 203) is here, from ``cryptography``; others are liboqs's (kem_liboqs.py). kem_set.py finds them by name,
and puts several together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import mlkem

from qtunnel.crypto.kdf import Label
from qtunnel.errors import SecretWipedError
from qtunnel.secret import RandomBytes, Secret

SEED_SIZE = 64
"""Bytes of the ML-KEM seed d || z (FIPS 203 section 3.3 and 7.1)."""


class KemKeyError(Exception):
    """A public key or ciphertext that is not of this KEM."""


class PrivateKey(Protocol):
    """A private key inside its library."""

    @property
    def public(self) -> bytes: ...
    def decapsulate(self, ciphertext: bytes) -> bytes: ...
    def export(self) -> Secret:
        """In the library's own format; for KEMs without a seed."""

    def wipe(self) -> None: ...


class Library(Protocol):
    """What a library does for one KEM. Sizes are right already; ``ValueError`` for what it cannot use."""

    def from_seed(self, seed: bytes) -> PrivateKey:
        """For KEMs with a seed."""

    def draw(self) -> PrivateKey:
        """A new key by the library's own randomness; for KEMs without a seed."""

    def restore(self, public: bytes, private: bytes) -> PrivateKey:
        """What ``export`` gave; for KEMs without a seed."""

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """(ciphertext, shared secret)."""

    def check(self, public: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Kem:
    """One KEM. Sizes in bytes.

    seed_size: of what a key pair follows from; 0 where the library makes keys by its own randomness alone. label
    derives the static key's seed from an identity's. version: of the scheme, as the library names it.
    """

    name: str
    noise_name: str
    public_key_size: int
    ciphertext_size: int
    seed_size: int
    label: Label
    version: str
    library: Library

    def key_pair(self, seed: Secret) -> KemKeyPair:
        """The key pair of a seed (of ML-KEM: ``ML-KEM.KeyGen_internal``, FIPS 203 algorithm 16)."""
        if not self.seed_size:
            raise KemKeyError(f"{self.name}: its keys follow from no seed")
        if len(seed) != self.seed_size:
            raise KemKeyError(f"{self.name}: a seed has {self.seed_size} bytes, not {len(seed)}")
        return KemKeyPair(self, self.library.from_seed(bytes(seed.reveal())))

    def new_key_pair(self, random_bytes: RandomBytes) -> KemKeyPair:
        """A new key pair, by ``random_bytes`` where the KEM has a seed, else by the library's own randomness."""
        if not self.seed_size:
            return KemKeyPair(self, self.library.draw())
        with Secret.random(random_bytes, self.seed_size) as seed:
            return self.key_pair(seed)

    def stored_key_pair(self, public: bytes, private: Secret) -> KemKeyPair:
        """The key pair of what ``KemKeyPair.export`` gave; raises ``KemKeyError`` where the halves do not fit, or
        another version of the scheme wrote them."""
        self._check_size(public)
        try:
            pair = KemKeyPair(self, self.library.restore(public, bytes(private.reveal())))
            ciphertext, secret = self.encapsulate(public)
            with secret, pair.decapsulate(ciphertext) as opened:
                if secret == opened:
                    return pair
        except (ValueError, KemKeyError):
            pass
        raise KemKeyError(f"{self.name}: not a key pair of this version of the KEM ({self.version})")

    def encapsulate(self, public: bytes) -> tuple[bytes, Secret]:
        """(ciphertext, shared secret); raises ``KemKeyError`` for a key that the KEM refuses, which for ML-KEM is one
        that fails FIPS 203's input check (section 7.2)."""
        self._check_size(public)
        try:
            ciphertext, shared = self.library.encapsulate(public)
        except ValueError:
            raise KemKeyError(f"{self.name}: not a public key") from None
        return ciphertext, Secret(shared)

    def check_public_key(self, public: bytes) -> None:
        """Raises ``KemKeyError`` for a key that the KEM refuses: for ML-KEM, FIPS 203's input check (section 7.2)."""
        self._check_size(public)
        try:
            self.library.check(public)
        except ValueError:
            raise KemKeyError(f"{self.name}: not a public key") from None

    def _check_size(self, public: bytes) -> None:
        if len(public) != self.public_key_size:
            raise KemKeyError(f"{self.name}: a public key has {self.public_key_size} bytes, not {len(public)}")


Encapsulate = Callable[[Kem, bytes], tuple[bytes, Secret]]
"""From a KEM and a public key of it: (ciphertext, shared secret). ``Kem.encapsulate`` is one, whose randomness is the
library's own (FIPS 203 section 3.3); the vectors have another."""


class KemKeyPair:
    """A KEM key pair; the private half stays inside the library."""

    __slots__ = ("_private", "kem", "public")

    def __init__(self, kem: Kem, private: PrivateKey) -> None:
        self.kem = kem
        self._private: PrivateKey | None = private
        self.public = private.public

    def _held(self) -> PrivateKey:
        if self._private is None:
            raise SecretWipedError("this key pair was wiped; it must not be used again")
        return self._private

    def decapsulate(self, ciphertext: bytes) -> Secret:
        """The shared secret. A ciphertext made for another key gives another secret or, of some KEMs, ``KemKeyError``:
        ML-KEM rejects implicitly, HQC in liboqs 0.13 says so."""
        if len(ciphertext) != self.kem.ciphertext_size:
            raise KemKeyError(f"{self.kem.name}: a ciphertext has {self.kem.ciphertext_size} bytes")
        try:
            return Secret(self._held().decapsulate(ciphertext))
        except ValueError:
            raise KemKeyError(f"{self.kem.name}: not a ciphertext for this key") from None

    def export(self) -> Secret:
        """The private half as the library has it, to be stored; for KEMs without a seed."""
        return self._held().export()

    def wipe(self) -> None:
        """Forget the private half. Idempotent."""
        if self._private is not None:
            self._private.wipe()
            self._private = None

    def __repr__(self) -> str:
        return f"<{self.kem.name} key pair>"


class _MlPrivate(Protocol):
    def decapsulate(self, ciphertext: bytes) -> bytes: ...
    def public_key(self) -> _MlPublic: ...


class _MlPublic(Protocol):
    def encapsulate(self) -> tuple[bytes, bytes]: ...
    def public_bytes_raw(self) -> bytes: ...


class _MlKemKey:
    """A private key of ``cryptography``, which overwrites it once it is forgotten."""

    __slots__ = ("_private", "public")

    def __init__(self, private: _MlPrivate) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        return self._private.decapsulate(ciphertext)

    def export(self) -> Secret:
        raise NotImplementedError("ML-KEM keys follow from a seed")

    def wipe(self) -> None:
        """Nothing to do: the owner forgets it."""


@dataclass(frozen=True, slots=True)
class _MlKem:
    private: Callable[[bytes], _MlPrivate]
    public: Callable[[bytes], _MlPublic]

    def from_seed(self, seed: bytes) -> PrivateKey:
        return _MlKemKey(self.private(seed))

    def draw(self) -> PrivateKey:
        raise NotImplementedError("ML-KEM keys follow from a seed")

    def restore(self, public: bytes, private: bytes) -> PrivateKey:
        raise NotImplementedError("ML-KEM keys follow from a seed")

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        shared, ciphertext = self.public(public).encapsulate()
        return ciphertext, shared

    def check(self, public: bytes) -> None:
        self.public(public)


_FIPS203 = "FIPS203"
ML_KEM_768 = Kem(
    "ml-kem-768", "MLKEM768", 1184, 1088, SEED_SIZE, Label.IDENTITY_ML_KEM_768, _FIPS203,
    _MlKem(mlkem.MLKEM768PrivateKey.from_seed_bytes, mlkem.MLKEM768PublicKey.from_public_bytes),
)  # fmt: skip
ML_KEM_1024 = Kem(
    "ml-kem-1024", "MLKEM1024", 1568, 1568, SEED_SIZE, Label.IDENTITY_ML_KEM_1024, _FIPS203,
    _MlKem(mlkem.MLKEM1024PrivateKey.from_seed_bytes, mlkem.MLKEM1024PublicKey.from_public_bytes),
)  # fmt: skip
KEMS: dict[str, Kem] = {kem.name: kem for kem in (ML_KEM_1024, ML_KEM_768)}
"""Those that are always there, and of which every identity has a key, by the name that the configuration uses; the
order is that of public files."""
