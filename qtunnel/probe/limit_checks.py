"""Clauses 5.3, 6.2 and 6.5: requests that the KME has to refuse, with 400 and a message."""

from __future__ import annotations

from qtunnel.probe.key_checks import NO_SUCH, not_given, wrong_keys
from qtunnel.probe.model import Finding, deviates, passed, untestable
from qtunnel.probe.session import MAX_BITS, Reply, Session
from qtunnel.probe.status_checks import error_finding

SMALL = 8
"""A limit of keys in a request up to which one more is asked for: a KME that gives them costs so many at most."""

EXTENSION = {"qtunnel_probe_unknown": "of no vendor"}


def _refused(session: Session, reply: Reply, means: str, copes: str) -> Finding:
    if reply.ok:
        bits = " and ".join(map(str, sorted(set(reply.bits)))) or "?"
        return deviates(f"HTTP 200 with {len(reply.keys)} keys of {bits} bits", means, copes)
    if reply.answer.status in (401, 403):
        return untestable(f"this gateway gets no keys: {reply.words}")
    if reply.answer.status in (429, 503) and not session.taken:
        return untestable(f"no key to be had now: {reply.words}")  # nor was one for a request without fault
    return error_finding(reply.answer, (400,), "why a request fails is told less clearly")


async def enc_odd_size(session: Session) -> Finding:
    bits = session.bits + 1 if session.limits.allow(session.bits + 1) else session.bits - 1
    return _refused(
        session,
        await session.enc(1, bits),
        "a wrong key_size would be rounded in silence",
        "the driver asks for whole bytes only, and refuses keys of another size; no option is needed",
    )


async def enc_large(session: Session) -> Finding:
    high = session.limits.max_size
    if high is None or high + 8 > MAX_BITS:
        return untestable("the status tells no max_key_size")
    return _refused(
        session,
        await session.enc(1, high + 8),
        "max_key_size is not what it says",
        "the driver refuses keys of another size than it asked for; no option is needed",
    )


def too_many(session: Session) -> int:
    limit = session.limits.per_request
    return limit + 1 if limit is not None and limit <= SMALL else 0


async def enc_many(session: Session) -> Finding:
    number = too_many(session)
    if not number:
        limit = session.limits.per_request
        if limit is None:
            return untestable("the status tells no max_key_per_request")
        return untestable(f"max_key_per_request is {limit}: one more could cost as many keys, so it is not asked for")
    return _refused(
        session,
        await session.enc(number),
        "max_key_per_request is not what it says",
        "the driver never asks for more than it; no option is needed",
    )


async def enc_mandatory(session: Session) -> Finding:
    if not session.posts:
        return untestable("the KME knows no POST")
    return _refused(
        session,
        await session.enc(method="POST", extension_mandatory=[EXTENSION]),
        "a demand such as a route, put into extension_mandatory, may not hold and nobody would know",
        "nothing: do not rely on extension_mandatory at this KME",
    )


async def enc_optional(session: Session) -> Finding:
    if not session.posts:
        return untestable("the KME knows no POST")
    reply = await session.enc(method="POST", extension_optional=[EXTENSION])
    if not reply.ok and reply.answer.status in (400, 422, *NO_SUCH):
        return deviates(
            reply.words,
            "an optional extension that it does not know makes it refuse the request",
            "leave extension_optional away, as by default",
        )
    return not_given(reply) or wrong_keys(reply, 1, session.bits) or passed("one key, as without it")
