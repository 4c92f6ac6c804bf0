"""The symmetric state of the Noise Protocol Framework, revision 34, section 5.2.

One implementation serves WireGuard (BLAKE2s) and qtunnel's own handshake (SHA-512). Tokens that are not Noise's own,
such as KEM ciphertexts, are the caller's: it hashes what is public and mixes what is secret.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from qtunnel.crypto.aead import CHACHA20_POLY1305, KEY_SIZE, Aead
from qtunnel.secret import Secret

Bytes = bytes | bytearray | memoryview

_ALGORITHMS: dict[str, hashes.HashAlgorithm] = {"sha512": hashes.SHA512(), "blake2s": hashes.BLAKE2s(32)}


@dataclass(frozen=True, slots=True)
class NoiseSuite:
    """Hash and AEAD of one symmetric state. hash_size in bytes."""

    hash_name: str
    hash_size: int
    aead: Aead

    def hash(self, *parts: Bytes) -> bytes:
        state = hashlib.new(self.hash_name)
        for part in parts:
            state.update(part)
        return state.digest()

    def hkdf(self, salt: Secret, material: Bytes, outputs: int) -> list[Secret]:
        """Noise's HKDF (section 4.3): that of RFC 5869 with an empty info, cut into outputs of the hash's size."""
        algorithm = _ALGORITHMS[self.hash_name]
        size = self.hash_size
        stream = HKDF(algorithm, outputs * size, bytes(salt.reveal()), b"").derive(bytes(material))
        return [Secret(stream[at : at + size]) for at in range(0, outputs * size, size)]


BLAKE2S_CHACHAPOLY = NoiseSuite("blake2s", 32, CHACHA20_POLY1305)


class SymmetricState:
    """``h``, ``ck``, ``k`` and ``n`` of a handshake in progress.

    protocol_name is hashed when it is longer than the hash and padded with zeros otherwise (section 5.2,
    InitializeSymmetric).
    """

    __slots__ = ("_ck", "_counter", "_k", "h", "suite")

    def __init__(self, suite: NoiseSuite, protocol_name: bytes) -> None:
        self.suite = suite
        size = suite.hash_size
        self.h = protocol_name.ljust(size, b"\0") if len(protocol_name) <= size else suite.hash(protocol_name)
        self._ck = Secret(self.h)
        self._k: Secret | None = None
        self._counter = 0

    def mix_hash(self, data: Bytes) -> None:
        """h = HASH(h || data)."""
        self.h = self.suite.hash(self.h, data)

    def _set(self, ck: Secret, k: Secret) -> None:
        self._ck.wipe()
        self._ck = ck
        if self._k is not None:
            self._k.wipe()
        self._k = Secret(k.reveal()[:KEY_SIZE])
        k.wipe()
        self._counter = 0

    def mix_key(self, material: Secret | Bytes) -> None:
        """ck, k = HKDF(ck, material, 2); the nonce starts again at 0."""
        ck, k = self.suite.hkdf(self._ck, _view(material), 2)
        self._set(ck, k)

    def mix_key_and_hash(self, material: Secret | Bytes) -> None:
        """ck, temp_h, k = HKDF(ck, material, 3); h = HASH(h || temp_h): the ``psk`` token."""
        ck, temp_h, k = self.suite.hkdf(self._ck, _view(material), 3)
        self.mix_hash(temp_h.reveal())
        temp_h.wipe()
        self._set(ck, k)

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        """Seal with h as associated data and hash the result in; plain where no key is set yet."""
        if self._k is None:
            ciphertext = plaintext
        else:
            ciphertext = self.suite.aead.seal(self._k, self._counter, plaintext, self.h)
            self._counter += 1
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        """The reverse; raises ``AuthenticationError`` and leaves the state as it was."""
        if self._k is None:
            plaintext = ciphertext
        else:
            plaintext = self.suite.aead.open(self._k, self._counter, ciphertext, self.h)
            self._counter += 1
        self.mix_hash(ciphertext)
        return plaintext

    def split(self, label: bytes = b"") -> tuple[Secret, Secret]:
        """Two keys of 32 bytes: initiator to responder, responder to initiator (section 5.2, Split).

        Under a label, which Noise does not have, two further ones.
        """
        first, second = self.suite.hkdf(self._ck, label, 2)
        keys = Secret(first.reveal()[:KEY_SIZE]), Secret(second.reveal()[:KEY_SIZE])
        first.wipe()
        second.wipe()
        return keys

    def export(self, use: Callable[[Secret], Secret]) -> Secret:
        """A further secret made of ck by ``use``, which must not keep ck."""
        return use(self._ck)

    def fork(self) -> SymmetricState:
        """An independent copy, for trying a step that may fail."""
        other = object.__new__(SymmetricState)
        other.suite, other.h, other._ck = self.suite, self.h, self._ck.copy()
        other._k = None if self._k is None else self._k.copy()
        other._counter = self._counter
        return other

    def wipe(self) -> None:
        """Forget ck and k."""
        self._ck.wipe()
        if self._k is not None:
            self._k.wipe()


def _view(material: Secret | Bytes) -> Bytes:
    return material.reveal() if isinstance(material, Secret) else material
