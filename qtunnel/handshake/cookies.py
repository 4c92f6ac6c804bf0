"""The handshake's use of cookies: the reply that carries one, and mac2 on the datagrams of a first message.

Layouts are those of docs/protocol.md, section 3.4; how a cookie is made and sealed is in qtunnel.crypto.cookie.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from qtunnel.crypto.cookie import NONCE_SIZE, SEALED_SIZE, CookieMint, HeldCookie
from qtunnel.crypto.kdf import Label, sha512
from qtunnel.errors import HandshakeError
from qtunnel.handshake.fragments import MAC_SIZE, MAX_DATAGRAM, NO_COOKIE, VERSION, Fragment, mac
from qtunnel.secret import RandomBytes

COOKIE_TYPE = 5
"""In the place where a message's datagrams have the type."""
_REPLY = struct.Struct(f"!BBHB3x16s{NONCE_SIZE}s{SEALED_SIZE}s")
# type, version, suite, index of the fragment answered, exchange id, nonce, sealed cookie
REPLY_SIZE = _REPLY.size
"""80 bytes: a fifteenth of the datagram that it answers."""


@dataclass(frozen=True, slots=True)
class CookieReply:
    """The answer to one datagram of a first message; suite, index and exchange are those of the datagram."""

    suite: int
    index: int
    exchange: bytes
    nonce: bytes
    sealed: bytes

    def pack(self) -> bytes:
        return _REPLY.pack(COOKIE_TYPE, VERSION, self.suite, self.index, self.exchange, self.nonce, self.sealed)

    @classmethod
    def unpack(cls, datagram: bytes) -> CookieReply:
        """Raises ``HandshakeError`` where it is none of this version."""
        if len(datagram) != REPLY_SIZE or datagram[0] != COOKIE_TYPE or datagram[1] != VERSION or any(datagram[5:8]):
            raise HandshakeError("malformed", "not a cookie reply of this version")
        _, _, suite, index, exchange, nonce, sealed = _REPLY.unpack(datagram)
        return cls(suite, index, exchange, nonce, sealed)


def cookie_key(identity_id: bytes) -> bytes:
    """The key that seals cookies of the owner of that identity: 32 bytes, for everybody who knows the identity."""
    return sha512(Label.HANDSHAKE_COOKIE.value, identity_id)[:32]


def mint(identity_id: bytes, random_bytes: RandomBytes) -> CookieMint:
    """Makes and checks the cookies of the owner of that identity."""
    return CookieMint(cookie_key(identity_id), mac, random_bytes)


def held(identity_id: bytes) -> HeldCookie:
    """For a cookie of the owner of that identity; none yet."""
    return HeldCookie(cookie_key(identity_id), mac)


def carries_cookie(datagram: bytes, source: bytes, its: CookieMint, now: float) -> bool:
    """Whether mac2 is made with the cookie of ``source``. now: monotonic seconds."""
    mac2 = datagram[-MAC_SIZE:]
    return mac2 != NO_COOKIE and its.is_valid(source, datagram[:-MAC_SIZE], mac2, now)


def may_answer(datagram: bytes) -> bool:
    """Whether it is of full size. Every first message has one that is, and what is answered is never smaller than its
    answer."""
    return len(datagram) == MAX_DATAGRAM


def reply_to(datagram: bytes, fragment: Fragment, source: bytes, its: CookieMint, now: float) -> bytes:
    """The reply with the cookie of ``source``, to a datagram that ``may_answer``."""
    nonce, sealed = its.seal(source, datagram[-2 * MAC_SIZE : -MAC_SIZE], now)
    return CookieReply(fragment.suite, fragment.index, fragment.exchange, nonce, sealed).pack()


def stamped(datagrams: Iterable[bytes], cookie: HeldCookie, now: float) -> tuple[bytes, ...]:
    """The datagrams with mac2 under the cookie in hand; with zeros where there is none."""
    return tuple(data + cookie.mac2(data, now) for data in (one[:-MAC_SIZE] for one in datagrams))
