"""Clauses 5.4 and 6.4: keys by their key_IDs, at the other gateway's KME."""

from __future__ import annotations

import uuid

from qtunnel.probe.key_checks import NO_SUCH, not_given, wrong_keys
from qtunnel.probe.model import Finding, deviates, passed, untestable
from qtunnel.probe.session import Reply, Session
from qtunnel.probe.status_checks import error_finding
from qtunnel.secret import Secret

NEEDS_PEER = "needs the other gateway's configuration (--peer-config)"


async def dec_unknown(session: Session) -> Finding:
    """At our own KME, which has to know that there is no such key."""
    key_id = str(uuid.UUID(bytes=bytes(session.random_bytes(16)), version=4))
    for method in ("POST", "GET"):
        reply = await session.dec(session.master, session.target.slave_sae, key_id, method=method)
        if reply.answer.status != 405:
            break
    if reply.ok:
        return deviates(
            "HTTP 200 for a key_ID that nobody has",
            "the two gateways may be given keys that are not the same",
            "the driver checks the key_ID that comes back, and the handshake confirms the key",
        )
    if reply.answer.status in (401, 403):
        return untestable(f"this gateway gets no keys: {reply.words}")
    return error_finding(reply.answer, (400,), "a key that is not there is taken for another failure")


async def dec_same(session: Session) -> Finding:
    got = await _given(session)
    if isinstance(got, Finding):
        return got
    key_id, key = got
    reply = await _fetch(session, key_id, method="POST")
    if reply.answer.status in NO_SUCH:
        other = await _fetch(session, key_id, method="GET")
        if other.ok:
            session.dec_posts = False
            return deviates(reply.words, "POST of dec_keys is not there, GET is", "method: get")
    return _differs(reply, key_id, key) or passed("the same key under the same key_ID")


async def dec_get(session: Session) -> Finding:
    got = await _given(session)
    if isinstance(got, Finding):
        return got
    key_id, key = got
    reply = await _fetch(session, key_id, method="GET")
    if reply.answer.status in NO_SUCH:
        return deviates(reply.words, "GET of dec_keys is not there", "method: post, which is the default")
    return _differs(reply, key_id, key) or passed("the same key under the same key_ID")


async def dec_order(session: Session) -> Finding:
    got: list[tuple[str, Secret]] = []
    for _ in range(3):
        one = await _given(session)
        if isinstance(one, Finding):
            return one
        got.append(one)
    for number, (key_id, key) in enumerate(got):
        reply = await _fetch(session, key_id)
        if not reply.ok and number < len(got) - 1:
            return deviates(
                f"a key is gone once enc_keys gave out others: {reply.words}",
                "rekeys that begin at both ends at once fail now and then, and keys agreed ahead are not had",
                "reservoir: 0, which is the default; a rekey that fails so is tried again with another key",
            )
        differs = _differs(reply, key_id, key)
        if differs is not None:
            return differs
    return passed("three keys, the oldest first")


async def dec_again(session: Session) -> Finding:
    got = await _given(session)
    if isinstance(got, Finding):
        return got
    key_id, key = got
    first = await _fetch(session, key_id)
    if _differs(first, key_id, key) is not None:
        return untestable(f"the key could not be fetched once: {first.words}")
    again = await _fetch(session, key_id)
    if not again.ok:
        return error_finding(again.answer, (400,), "a key that was fetched before is taken for another failure")
    if any(other != key for _, other in again.keys):
        return deviates(
            "another key under the same key_ID",
            "the two gateways may be given keys that are not the same",
            "nothing: the handshake confirms the key, and fails",
        )
    return deviates(
        "the same key is given out again",
        "the KME keeps delivered keys: whoever gets hold of this gateway's certificate later can fetch them, too",
        "the driver asks once, and takes it for the same key; no option is needed",
    )


async def _fetch(session: Session, key_id: str, method: str | None = None) -> Reply:
    assert session.slave is not None
    return await session.dec(session.slave, session.target.master_sae, key_id, method=method)


async def _given(session: Session) -> tuple[str, Secret] | Finding:
    """A fresh key for the peer to fetch, or why there is none; what is wrong with enc_keys itself is found by other
    checks."""
    if session.slave is None:
        return untestable(NEEDS_PEER)
    reply = await session.enc()
    if not_given(reply) is not None or not reply.keys:
        return untestable(f"no key to fetch: enc_keys: {reply.words}")
    return reply.keys[0]


def _differs(reply: Reply, key_id: str, key: Secret) -> Finding | None:
    if not reply.ok:
        if reply.answer.status in (401, 403):
            return deviates(
                reply.words,
                "the other KME does not give the peer its key",
                "peer_sae_id, sae_id: as the vendor has them",
            )
        return deviates(
            reply.words, "the other gateway cannot fetch the key", "nothing: do the two KMEs share the link?"
        )
    found = wrong_keys(reply, 1, 8 * len(key))
    if found is not None:
        return found
    its_id, its = reply.keys[0]
    if its_id.lower() != key_id.lower():
        return deviates(
            "the key under another key_ID", "the gateway cannot tell which key it is", "nothing: the driver refuses it"
        )
    if its != key:
        return deviates(
            "another key under the same key_ID",
            "the two gateways have different keys, and every rekey fails",
            "nothing: the handshake confirms the key, and fails",
        )
    return None
