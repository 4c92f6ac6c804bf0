"""Sections 1 and 2 of docs/protocol.md: notation, primitives, suites, labels, identities."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM1024PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

MlKemPrivate = MLKEM768PrivateKey | MLKEM1024PrivateKey


def frame(*fields: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(one)) + one for one in fields)


def label(path: str) -> bytes:
    return b"qtunnel/v1/" + path.encode()


def expand(key: bytes, path: str, context: bytes, size: int) -> bytes:
    return HKDFExpand(hashes.SHA512(), size, label(path) + b"\x00" + context).derive(key)


def hkdf(salt: bytes, material: bytes, size: int, info: bytes = b"") -> bytes:
    return HKDF(hashes.SHA512(), size, salt, info).derive(material)


def sha512(content: bytes) -> bytes:
    return hashlib.sha512(content).digest()


def hmac512(key: bytes, content: bytes) -> bytes:
    return hmac.digest(key, content, "sha512")


def agree(private: X25519PrivateKey, public: bytes) -> bytes:
    return private.exchange(X25519PublicKey.from_public_bytes(public))


@dataclass(frozen=True)
class Suite:
    """Section 1.3, the four suites with numbers of their own."""

    number: int
    name: str
    kem: str
    aead: str
    public_size: int
    ciphertext_size: int

    def opened(self, key: bytes, counter: int, sealed: bytes, associated: bytes) -> bytes:
        """The plaintext; InvalidTag where it is not authentic."""
        return self.cipher(key).decrypt(self.nonce(counter), sealed, associated)

    def cipher(self, key: bytes) -> AESGCM | ChaCha20Poly1305:
        return AESGCM(key) if self.aead == "aes-256-gcm" else ChaCha20Poly1305(key)

    def nonce(self, counter: int) -> bytes:
        return bytes(4) + struct.pack(">Q" if self.aead == "aes-256-gcm" else "<Q", counter)


_NAME = "QTunnel_IKpsk2+pqIK_25519+{}_{}_SHA512"
SUITES = {
    suite.number: suite
    for suite in (
        Suite(1, _NAME.format("MLKEM1024", "ChaChaPoly"), "ml-kem-1024", "chacha20-poly1305", 1568, 1568),
        Suite(2, _NAME.format("MLKEM1024", "AESGCM"), "ml-kem-1024", "aes-256-gcm", 1568, 1568),
        Suite(3, _NAME.format("MLKEM768", "ChaChaPoly"), "ml-kem-768", "chacha20-poly1305", 1184, 1088),
        Suite(4, _NAME.format("MLKEM768", "AESGCM"), "ml-kem-768", "aes-256-gcm", 1184, 1088),
    )
}
KEMS: dict[str, Callable[[bytes], MlKemPrivate]] = {
    "ml-kem-768": MLKEM768PrivateKey.from_seed_bytes,
    "ml-kem-1024": MLKEM1024PrivateKey.from_seed_bytes,
}


class Identity:
    """Section 2: the keys that follow from a seed of 32 bytes, without further KEMs."""

    def __init__(self, name: str, seed: bytes) -> None:
        self.name = name

        def curve(path: str) -> X25519PrivateKey:
            return X25519PrivateKey.from_private_bytes(expand(seed, path, b"", 32))

        self.wireguard, self.x25519 = curve("identity/wireguard"), curve("identity/x25519")
        self.kems = {kem: made(expand(seed, f"identity/{kem}", b"", 64)) for kem, made in KEMS.items()}
        self.public = {kem: key.public_key().public_bytes_raw() for kem, key in self.kems.items()}
        self.public["x25519"] = self.x25519.public_key().public_bytes_raw()
        self.public["wireguard"] = self.wireguard.public_key().public_bytes_raw()
        fields = [(name.encode(), self.public[name]) for name in ("wireguard", "x25519", "ml-kem-1024", "ml-kem-768")]
        self.id = sha512(frame(label("identity/id"), *(part for pair in fields for part in pair)))


@dataclass
class Disclosed:
    """What a decoder has to be told: secrets of tests, in bytes.

    ``drawn`` are the random bytes that the ends drew, of which some are ephemeral keys (32 bytes: of X25519; 64 bytes:
    seeds of ML-KEM); ``qkd_keys`` are by (source, key_ID), ``chains`` chain secrets of before by their ids.
    """

    identities: Sequence[Identity]
    drawn: Sequence[bytes]
    qkd_keys: dict[tuple[str, str], bytes] = field(default_factory=dict)
    pairing: bytes | None = None
    chains: dict[bytes, bytes] = field(default_factory=dict)

    @cached_property
    def curves(self) -> dict[bytes, X25519PrivateKey]:
        """Ephemeral X25519 keys by their public keys."""
        keys = [X25519PrivateKey.from_private_bytes(one) for one in set(self.drawn) if len(one) == 32]
        return {key.public_key().public_bytes_raw(): key for key in keys}

    @cached_property
    def kems(self) -> dict[bytes, MlKemPrivate]:
        """Ephemeral ML-KEM keys by their public keys."""
        keys = [made(one) for one in set(self.drawn) if len(one) == 64 for made in KEMS.values()]
        return {key.public_key().public_bytes_raw(): key for key in keys}
