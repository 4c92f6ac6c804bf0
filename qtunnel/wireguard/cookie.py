"""mac1, mac2 and cookies (white paper sections 5.3 and 5.4.7): who may make this end compute a handshake.

Every hash is keyed BLAKE2s. How a cookie is made and sealed is in qtunnel.crypto.cookie.
"""

from __future__ import annotations

import hashlib
import hmac

from qtunnel.addresses import pack_address
from qtunnel.crypto.cookie import CookieMint, HeldCookie
from qtunnel.secret import RandomBytes
from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.messages import MAC_SIZE, Bytes, CookieReply

_LABEL_MAC1 = b"mac1----"
_LABEL_COOKIE = b"cookie--"


def _mac(key: bytes, data: Bytes) -> bytes:
    return hashlib.blake2s(data, key=key, digest_size=MAC_SIZE).digest()


def mac1_key(public: bytes) -> bytes:
    """Key of mac1 in messages to the owner of that public key."""
    return hashlib.blake2s(_LABEL_MAC1 + public).digest()


def cookie_key(public: bytes) -> bytes:
    """Key under which the owner of that public key seals cookies."""
    return hashlib.blake2s(_LABEL_COOKIE + public).digest()


def _source(endpoint: Endpoint) -> bytes:
    return pack_address(endpoint[0]) + endpoint[1].to_bytes(2, "big")


class CookieChecker:
    """The side that is asked: checks mac1 and mac2 and makes cookie replies."""

    __slots__ = ("_mac1_key", "_mint")

    def __init__(self, public: bytes, random_bytes: RandomBytes) -> None:
        self._mac1_key = mac1_key(public)
        self._mint = CookieMint(cookie_key(public), _mac, random_bytes)

    def mac1_is_valid(self, message: Bytes) -> bool:
        expected = _mac(self._mac1_key, message[: -2 * MAC_SIZE])
        return hmac.compare_digest(expected, message[-2 * MAC_SIZE : -MAC_SIZE])

    def mac2_is_valid(self, message: Bytes, endpoint: Endpoint, now: float) -> bool:
        return self._mint.is_valid(_source(endpoint), message[:-MAC_SIZE], message[-MAC_SIZE:], now)

    def reply(self, message: Bytes, sender: int, endpoint: Endpoint, now: float) -> CookieReply:
        """The cookie for whoever sent ``message`` from ``endpoint`` with the index ``sender``."""
        mac1 = bytes(message[-2 * MAC_SIZE : -MAC_SIZE])
        return CookieReply(sender, *self._mint.seal(_source(endpoint), mac1, now))


class CookieJar:
    """The side that asks: adds mac1 and, while it has a cookie, mac2 to the messages for one peer."""

    __slots__ = ("_cookie", "_last_mac1", "_mac1_key")

    def __init__(self, public: bytes) -> None:
        self._mac1_key = mac1_key(public)
        self._cookie = HeldCookie(cookie_key(public), _mac)
        self._last_mac1: bytes | None = None

    def sign(self, message: bytes, now: float) -> bytes:
        """The message with its last 32 bytes, mac1 and mac2, filled in."""
        body = message[: -2 * MAC_SIZE]
        self._last_mac1 = _mac(self._mac1_key, body)
        body += self._last_mac1
        return body + self._cookie.mac2(body, now)

    def accept(self, reply: CookieReply, now: float) -> bool:
        """Take the cookie of a reply to the last message signed; false where it is not one."""
        if self._last_mac1 is None or self._cookie.accept(reply.nonce, reply.cookie, self._last_mac1, now) is None:
            return False
        self._last_mac1 = None  # one reply per message
        return True
