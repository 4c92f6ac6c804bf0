"""Cookies (WireGuard's white paper, section 5.4.7): who sends one back does get what is sent to its address.

A cookie is the MAC of the sender's address and port under a secret that nobody else knows and that lasts 120 s, so
there is nothing to be kept for a sender. It travels in XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03, from libsodium),
bound to the mac1 of the message that it answers. The MAC is that of the protocol that uses them: 16 bytes.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from qtunnel.secret import RandomBytes, Secret

Bytes = bytes | bytearray | memoryview
Mac = Callable[[bytes, Bytes], bytes]
"""From key and data to 16 bytes."""

COOKIE_LIFETIME = 120.0
"""Seconds that a secret, and a cookie in hand, lasts (white paper, section 6.1)."""
NONCE_SIZE = 24
COOKIE_SIZE = 16
SEALED_SIZE = COOKIE_SIZE + 16
_SECRET_SIZE = 32


class CookieMint:
    """The side that asks for cookies: makes them, and knows its own. Keeps one secret, and nothing of any sender."""

    __slots__ = ("_key", "_mac", "_random", "_secret", "_until")

    def __init__(self, key: bytes, mac: Mac, random_bytes: RandomBytes) -> None:
        """key: 32 bytes, which everybody has who may know this end; it seals the cookies on their way."""
        self._key, self._mac, self._random = key, mac, random_bytes
        self._secret = Secret(b"")
        self._until = float("-inf")

    def is_valid(self, source: bytes, data: Bytes, mac2: Bytes, now: float) -> bool:
        """Whether ``mac2`` is that of ``data`` under the cookie of ``source``. now: monotonic seconds."""
        if now >= self._until:
            return False
        return hmac.compare_digest(self._mac(self._cookie(source), data), mac2)

    def seal(self, source: bytes, mac1: bytes, now: float) -> tuple[bytes, bytes]:
        """Nonce (24 bytes) and sealed cookie (32 bytes) for ``source``, in answer to a message with that mac1."""
        if now >= self._until:
            self._secret.wipe()
            self._secret = Secret.random(self._random, _SECRET_SIZE)
            self._until = now + COOKIE_LIFETIME
        nonce = self._random(NONCE_SIZE)
        cookie = self._cookie(source)
        return nonce, crypto_aead_xchacha20poly1305_ietf_encrypt(cookie, mac1, nonce, self._key)

    def _cookie(self, source: bytes) -> bytes:
        return self._mac(bytes(self._secret.reveal()), source)


class HeldCookie:
    """The side that was asked: the latest cookie of one peer, and mac2 with it."""

    __slots__ = ("_cookie", "_key", "_mac", "_until")

    def __init__(self, key: bytes, mac: Mac) -> None:
        self._key, self._mac = key, mac
        self._cookie = b""
        self._until = float("-inf")

    def accept(self, nonce: bytes, sealed: bytes, mac1: bytes, now: float) -> bool | None:
        """Take the cookie of a reply to a message with that mac1. False where it is the one in hand, None where the
        reply is not to that message, or forged."""
        try:
            cookie = crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, mac1, nonce, self._key)
        except CryptoError:
            return None
        news = not hmac.compare_digest(cookie, self._cookie) or now >= self._until
        self._cookie, self._until = cookie, now + COOKIE_LIFETIME
        return news

    def mac2(self, data: Bytes, now: float) -> bytes:
        """mac2 of ``data``; 16 zero bytes where there is no cookie in hand."""
        return self._mac(self._cookie, data) if now < self._until else bytes(COOKIE_SIZE)
