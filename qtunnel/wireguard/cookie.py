"""mac1, mac2 and cookies (white paper sections 5.3 and 5.4.7): who may make this end compute a handshake.

Every hash is keyed BLAKE2s; the cookie travels in XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03), from libsodium.
"""

from __future__ import annotations

import hashlib
import hmac

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from qtunnel.addresses import pack_address
from qtunnel.secret import RandomBytes, Secret
from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.limits import COOKIE_LIFETIME
from qtunnel.wireguard.messages import MAC_SIZE, Bytes, CookieReply

_LABEL_MAC1 = b"mac1----"
_LABEL_COOKIE = b"cookie--"
_NONCE_SIZE = 24


def _mac(key: bytes, data: Bytes) -> bytes:
    return hashlib.blake2s(data, key=key, digest_size=MAC_SIZE).digest()


def mac1_key(public: bytes) -> bytes:
    """Key of mac1 in messages to the owner of that public key."""
    return hashlib.blake2s(_LABEL_MAC1 + public).digest()


def cookie_key(public: bytes) -> bytes:
    """Key under which the owner of that public key seals cookies."""
    return hashlib.blake2s(_LABEL_COOKIE + public).digest()


class CookieChecker:
    """The side that is asked: checks mac1 and mac2 and makes cookie replies."""

    __slots__ = ("_cookie_key", "_mac1_key", "_random", "_secret", "_secret_until")

    def __init__(self, public: bytes, random_bytes: RandomBytes) -> None:
        self._mac1_key = mac1_key(public)
        self._cookie_key = cookie_key(public)
        self._random = random_bytes
        self._secret = Secret(b"")
        self._secret_until = float("-inf")

    def mac1_is_valid(self, message: Bytes) -> bool:
        expected = _mac(self._mac1_key, message[: -2 * MAC_SIZE])
        return hmac.compare_digest(expected, message[-2 * MAC_SIZE : -MAC_SIZE])

    def mac2_is_valid(self, message: Bytes, endpoint: Endpoint, now: float) -> bool:
        if now >= self._secret_until:
            return False
        expected = _mac(self._cookie(endpoint), message[:-MAC_SIZE])
        return hmac.compare_digest(expected, message[-MAC_SIZE:])

    def reply(self, message: Bytes, sender: int, endpoint: Endpoint, now: float) -> CookieReply:
        """The cookie for whoever sent ``message`` from ``endpoint`` with the index ``sender``."""
        if now >= self._secret_until:
            self._secret.wipe()
            self._secret = Secret.random(self._random, 32)
            self._secret_until = now + COOKIE_LIFETIME
        nonce = self._random(_NONCE_SIZE)
        mac1 = bytes(message[-2 * MAC_SIZE : -MAC_SIZE])
        sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(self._cookie(endpoint), mac1, nonce, self._cookie_key)
        return CookieReply(sender, nonce, sealed)

    def _cookie(self, endpoint: Endpoint) -> bytes:
        source = pack_address(endpoint[0]) + endpoint[1].to_bytes(2, "big")
        return _mac(bytes(self._secret.reveal()), source)


class CookieJar:
    """The side that asks: adds mac1 and, while it has a cookie, mac2 to the messages for one peer."""

    __slots__ = ("_cookie", "_cookie_key", "_cookie_until", "_last_mac1", "_mac1_key")

    def __init__(self, public: bytes) -> None:
        self._mac1_key = mac1_key(public)
        self._cookie_key = cookie_key(public)
        self._last_mac1: bytes | None = None
        self._cookie = b""
        self._cookie_until = float("-inf")

    def sign(self, message: bytes, now: float) -> bytes:
        """The message with its last 32 bytes, mac1 and mac2, filled in."""
        body = message[: -2 * MAC_SIZE]
        self._last_mac1 = _mac(self._mac1_key, body)
        body += self._last_mac1
        return body + (_mac(self._cookie, body) if now < self._cookie_until else bytes(MAC_SIZE))

    def accept(self, reply: CookieReply, now: float) -> bool:
        """Take the cookie of a reply to the last message signed; false where it is not one."""
        if self._last_mac1 is None:
            return False
        try:
            self._cookie = crypto_aead_xchacha20poly1305_ietf_decrypt(
                reply.cookie, self._last_mac1, reply.nonce, self._cookie_key
            )
        except CryptoError:
            return False
        self._cookie_until = now + COOKIE_LIFETIME
        self._last_mac1 = None  # one reply per message
        return True
