"""AEADs with a Noise nonce: a 64-bit counter, encoded as the Noise specification says for each cipher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import aead

from qtunnel.secret import Secret

TAG_SIZE = 16
KEY_SIZE = 32


class _Cipher(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...
    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...
    def encrypt_into(self, nonce: bytes, data: memoryview, associated_data: bytes, buf: bytearray) -> int: ...
    def decrypt_into(self, nonce: bytes, data: bytes, associated_data: bytes, buf: bytearray) -> int: ...


class AuthenticationError(Exception):
    """The tag does not fit: another key, or the message was changed."""


@dataclass(frozen=True, slots=True)
class Aead:
    """One AEAD. ``name`` is what the configuration calls it, ``noise_name`` what protocol names say."""

    name: str
    noise_name: str
    nonce: Callable[[int], bytes]
    cipher: Callable[[bytes], _Cipher]

    def seal(self, key: Secret, counter: int, plaintext: bytes, associated: bytes) -> bytes:
        """Ciphertext and tag, ``len(plaintext) + 16`` bytes."""
        return self.cipher(bytes(key.reveal())).encrypt(self.nonce(counter), plaintext, associated)

    def open(self, key: Secret, counter: int, ciphertext: bytes, associated: bytes) -> bytes:
        """The plaintext; raises ``AuthenticationError``."""
        if len(ciphertext) < TAG_SIZE:
            raise AuthenticationError("shorter than a tag")
        try:
            return self.cipher(bytes(key.reveal())).decrypt(self.nonce(counter), ciphertext, associated)
        except InvalidTag:
            raise AuthenticationError("wrong tag") from None

    def seal_secret(self, key: Secret, counter: int, plain: Secret, associated: bytes) -> bytes:
        """As ``seal``, of a secret."""
        sealed = bytearray(len(plain) + TAG_SIZE)
        self.cipher(bytes(key.reveal())).encrypt_into(self.nonce(counter), plain.reveal(), associated, sealed)
        return bytes(sealed)

    def open_secret(self, key: Secret, counter: int, ciphertext: bytes, associated: bytes) -> Secret:
        """As ``open``, of what ``seal_secret`` gave, without a copy that cannot be wiped."""
        if len(ciphertext) < TAG_SIZE:
            raise AuthenticationError("shorter than a tag")
        plain = bytearray(len(ciphertext) - TAG_SIZE)
        try:
            self.cipher(bytes(key.reveal())).decrypt_into(self.nonce(counter), ciphertext, associated, plain)
            return Secret(plain)
        except InvalidTag:
            raise AuthenticationError("wrong tag") from None
        finally:
            plain[:] = bytes(len(plain))


# Noise specification section 12.3 and 12.4: 4 zero bytes, then little-endian for ChaChaPoly, big-endian for AESGCM
CHACHA20_POLY1305 = Aead(
    "chacha20-poly1305", "ChaChaPoly", lambda n: bytes(4) + n.to_bytes(8, "little"), aead.ChaCha20Poly1305
)
AES_256_GCM = Aead("aes-256-gcm", "AESGCM", lambda n: bytes(4) + n.to_bytes(8, "big"), aead.AESGCM)
