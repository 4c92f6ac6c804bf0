"""Clauses 5.3 and 6.3: keys that are asked for as the standard has it, and how they come."""

from __future__ import annotations

from qtunnel.probe.model import Finding, deviates, passed, untestable
from qtunnel.probe.session import Reply, Session

NO_SUCH = (404, 405, 501)
"""How servers say that they do not know a method."""

POST_IGNORED = "method: post, which is the default"


async def enc_post(session: Session) -> Finding:
    reply = await session.enc(method="POST")
    if reply.answer.status in NO_SUCH:
        session.posts = False
        return deviates(reply.words, "POST of enc_keys is not there; what needs it is not either", "method: get")
    return not_given(reply) or wrong_keys(reply, 1, session.bits) or passed(f"one key of {session.bits} bits")


async def enc_get_plain(session: Session) -> Finding:
    reply = await session.enc(plain=True)
    if reply.answer.status in NO_SUCH:
        return deviates(reply.words, "GET of enc_keys is not there", POST_IGNORED)
    bits = session.limits.size or session.bits
    return not_given(reply) or wrong_keys(reply, 1, bits, POST_IGNORED) or passed(f"one key of {bits} bits")


def other_size(session: Session) -> int | None:
    """A size that the KME has, and that is not its default."""
    limits = session.limits
    sizes = (128, 256, 512, limits.min_size or 0, limits.max_size or 0)
    return next((bits for bits in sizes if bits and bits % 8 == 0 and limits.allow(bits) and bits != limits.size), None)


async def enc_get_size(session: Session) -> Finding:
    bits = other_size(session)
    if bits is None:
        return untestable("the KME has keys of one size only")
    reply = await session.enc(1, bits, method="GET")
    if reply.answer.status in NO_SUCH:
        return deviates(reply.words, "GET of enc_keys is not there", POST_IGNORED)
    return not_given(reply) or wrong_keys(reply, 1, bits, POST_IGNORED) or passed(f"one key of {bits} bits, as asked")


def two_keys(session: Session) -> int:
    return 2 if (session.limits.per_request or 1) >= 2 else 0


async def enc_two(session: Session) -> Finding:
    if not two_keys(session):
        return untestable("the KME gives one key in a request, or does not say how many (max_key_per_request)")
    reply = await session.enc(2)
    found = not_given(reply) or wrong_keys(reply, 2, session.bits)
    if found is not None:
        return found
    (first_id, first), (second_id, second) = reply.keys
    if first == second or first_id.lower() == second_id.lower():
        what = "the same key" if first == second else "the same key_ID"
        return deviates(
            f"both have {what}",
            "one key would protect two epochs",
            "the driver and the daemon refuse such keys; leave reservoir: 0, so that one is asked for at a time",
        )
    return passed("two keys, two key_IDs")


def not_given(reply: Reply) -> Finding | None:
    """What an answer without keys is, where keys were due."""
    if reply.ok:
        return None
    if reply.answer.status in (429, 503):
        return untestable(f"no key to be had now: {reply.words}")
    if reply.answer.status in (401, 403):
        return untestable(f"this gateway gets no keys: {reply.words}")
    return deviates(
        reply.words,
        "a request that the standard allows is refused",
        "nothing, or key_size, method, as the KME's words suggest",
    )


def wrong_keys(reply: Reply, number: int, bits: int, copes: str | None = None) -> Finding | None:
    """Another number of keys, or of another size, than was asked for; copes: with another size."""
    if not reply.keys:
        return deviates(
            "HTTP 200 without a key that can be read", "no key is had", "nothing: the driver refuses such an answer"
        )
    if any(size != bits for size in reply.bits):
        sizes = " and ".join(map(str, sorted(set(reply.bits))))
        return deviates(
            f"keys of {sizes} bits where {bits} are due",
            "the driver refuses a key of another size than it asked for",
            copes or f"key_size: {reply.bits[0]} at both gateways",
        )
    if len(reply.keys) < number:
        return deviates(
            f"{len(reply.keys)} of {number} keys",
            "keys are fetched one at a time, which takes longer",
            "the driver takes what comes; no option is needed",
        )
    if len(reply.keys) > number:
        return deviates(
            f"{len(reply.keys)} keys where {number} {'was' if number == 1 else 'were'} due",
            "keys are lost with every request",
            "nothing: the driver refuses such an answer",
        )
    return None


async def container_fields(session: Session) -> Finding:
    return _odd(session, "fields", "keys, key_ID and key, each spelt so", "strict clients do not find the keys")


async def container_key_ids(session: Session) -> Finding:
    return _odd(session, "key_id", "all of them", "clients that store a key_ID as a UUID refuse it")


async def container_encoding(session: Session) -> Finding:
    return _odd(session, "encoding", "all of them, with padding", "clients may read another key out of it, or none")


def _odd(session: Session, kind: str, good: str, means: str) -> Finding:
    found = session.odd.get(kind)
    if found is not None:
        seen, copes = found
        return deviates(seen, means, copes)
    return passed(good) if session.taken else untestable("there was no key")


async def keys_vary(session: Session) -> Finding:
    if session.defects:
        return deviates(
            f"{len(session.defects)} of {session.seen_keys} keys cannot be random: {session.defects[0]}",
            "such keys protect from nobody",
            "nothing: the daemon refuses them and counts them as lost",
        )
    if not session.seen_keys:
        return untestable("there was no key of 128 bits or more")
    return passed(f"{session.seen_keys} keys, none of them constant, repeating or seen twice")
