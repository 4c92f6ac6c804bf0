"""What a datagram must pass before anybody looks for the peer that it may be from."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from qtunnel.crypto.cookie import CookieMint
from qtunnel.errors import HandshakeError
from qtunnel.handshake.cookies import carries_cookie, may_answer, reply_to
from qtunnel.handshake.fragments import Fragment, Message, MessageType, Reassembler
from qtunnel.load import LoadGauge
from qtunnel.rekey.limits import (
    CALM_FRAGMENTS,
    COOKIE_BURST,
    COOKIE_RATE,
    COSTLY,
    FRAGMENT_BURST,
    FRAGMENT_RATE,
    LOAD_FRAGMENTS,
    LOAD_LASTS,
    SOURCE_BURST,
    SOURCE_RATE,
    SOURCES,
    TELL_BURST,
    TELL_RATE,
    UNPROVEN_BURST,
    UNPROVEN_RATE,
    TokenBucket,
    TokenBuckets,
)
from qtunnel.rekey.model import Notice

SourceOf = Callable[[Any], Hashable]
"""From the address of a datagram to what of it a sender cannot change at will: not the port."""
CookieSource = Callable[[Any], bytes]
"""From the address of a datagram to what a cookie is bound to: address and port."""


class Passed(NamedTuple):
    """A whole message. at_home: its sender gets what is sent to its address, as every datagram of it had a cookie."""

    message: Message
    at_home: bool


class Gate:
    """One way in, with bounds of its own: what fills it up leaves the others as they were.

    It keeps nothing of a sender that has not proven its address while it is under load, or once first messages have
    used up what there is for that address: anybody can forge it, so it asks for a cookie then. Who has one shares
    nothing with those who only claim the address, neither bounds nor fragments.
    """

    def __init__(self, cookies: CookieMint, source_of: SourceOf, cookie_source: CookieSource) -> None:
        self.replies: list[tuple[bytes, Hashable]] = []
        """Cookie replies to send, with their addresses. They may go at once, and may be dropped."""
        self._cookies, self._source_of, self._cookie_source = cookies, source_of, cookie_source
        self._reassembler = Reassembler()
        self._gauge = LoadGauge(LOAD_FRAGMENTS, CALM_FRAGMENTS, LOAD_LASTS)
        self._answers = TokenBucket(COOKIE_BURST, COOKIE_RATE)
        self._fragments = TokenBuckets(FRAGMENT_BURST, FRAGMENT_RATE, SOURCES)
        self._sources = TokenBuckets(SOURCE_BURST, SOURCE_RATE, SOURCES)
        self._at_home = TokenBuckets(SOURCE_BURST, SOURCE_RATE, SOURCES)
        self._unproven = TokenBucket(UNPROVEN_BURST, UNPROVEN_RATE)
        self._told = TokenBucket(TELL_BURST, TELL_RATE)
        self._untold = 0

    @property
    def partials(self) -> int:
        """Messages of which some fragments are held."""
        return len(self._reassembler)

    def loaded(self, now: float) -> bool:
        """Whether first messages need a cookie here. now: monotonic seconds."""
        return self._gauge.loaded(now)

    def fragment(self, fragment: Fragment, datagram: bytes, address: Hashable, now: float) -> Passed | None:
        """One fragment, and the datagram that it came in. The message where it is whole now.

        Raises ``HandshakeError``; also for a first message's fragment without a valid cookie where one is asked for,
        before anything is stored. now: monotonic seconds.
        """
        at_home = False
        if fragment.type is MessageType.INIT:
            loaded, source = self._gauge.under_load(now), self._cookie_source(address)
            at_home = carries_cookie(datagram, source, self._cookies, now)
            if not at_home and (loaded or not self._sources.has(self._source_of(address), now)):
                self._ask(fragment, datagram, address, now)
                which = "under load" if loaded else "its source has sent too many"
                raise HandshakeError("cookie", f"{which}: first messages count with a cookie only")
            if loaded and not self._fragments.take(self._source_of(address), now):
                raise HandshakeError("flood", "more datagrams a second than are looked at from one source under load")
        message = self._reassembler.add((address, at_home), fragment, now)
        return None if message is None else Passed(message, at_home)

    def _ask(self, fragment: Fragment, datagram: bytes, address: Hashable, now: float) -> None:
        """Send a cookie to where the datagram came from."""
        # Only what is answered counts: else small datagrams, which are not, would use the answers up.
        if may_answer(datagram) and self._answers.take(now):
            reply = reply_to(datagram, fragment, self._cookie_source(address), self._cookies, now)
            self.replies.append((reply, address))

    def unproven(self, address: Hashable, now: float, *, at_home: bool, costly: bool = False) -> None:
        """A whole first message is about to be read; raises ``HandshakeError`` where there are too many."""
        sources, tokens = self._at_home if at_home else self._sources, COSTLY if costly else 1.0
        if not sources.take(self._source_of(address), now, tokens):
            raise HandshakeError("flood", "more first messages a second than are looked at from one source")
        if not self._unproven.take(now, tokens):
            raise HandshakeError("flood", "more first messages a second than are looked at")

    def tell(self, error: HandshakeError, address: Hashable, now: float) -> Notice | None:
        """What to say of a rejected datagram. None where so much was said of late; the next one then has the count."""
        if not self._told.take(now):
            self._untold += 1
            return None
        fields: dict[str, object] = {"reason": error.reason, "detail": error.detail, "address": str(address)}
        if self._untold:
            fields["more"], self._untold = self._untold, 0
        return Notice("", "message.rejected", fields)
