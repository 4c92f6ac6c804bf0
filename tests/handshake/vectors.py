"""Makes the handshake's own test vectors from fixed seeds: ``python -m tests.handshake.vectors`` writes them.

ML-KEM's encapsulation takes its randomness from the library, so a second implementation with chosen randomness
(kyber-py) makes the ciphertexts here; the library opens them, so the two check each other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kyber_py.ml_kem import ML_KEM_768, ML_KEM_1024

from qtunnel.crypto.kdf import sha512
from qtunnel.crypto.kem import KEMS, Encapsulate, Kem
from qtunnel.handshake.cookies import held, mint, reply_to, stamped
from qtunnel.handshake.fragments import MAC_SIZE, Message, MessageType, cut, mac1_key, parse
from qtunnel.handshake.initiator import Initiator
from qtunnel.handshake.messages import Answer, ChainRef, Offer, Verdict
from qtunnel.handshake.responder import KnownPeer, Responder
from qtunnel.handshake.suites import SUITES, Suite, find_suite
from qtunnel.identity import Identity
from qtunnel.keys.chain import link
from qtunnel.keys.reservoir import mark_of
from qtunnel.secret import Secret
from qtunnel.tai64n import tai64n
from qtunnel.terms import NOTHING, STORE_SIZE, Inventory, KeyRef, Policy, QkdPolicy

FILE = Path(__file__).parent.parent / "vectors" / "handshake" / "handshake.json"
BOTH = list(KEMS.values())
_OTHER = {"ml-kem-768": ML_KEM_768, "ml-kem-1024": ML_KEM_1024}
POLICY = Policy(QkdPolicy.REQUIRED, 1)
SOURCE = bytes([192, 0, 2, 1]) + (51821).to_bytes(2, "big")
UNIX_NS = 1_767_225_600_000_000_000
"""2026-01-01T00:00:00Z."""


def stream(seed: str) -> Callable[[int], bytes]:
    """Bytes that follow from a seed: SHA-512 of ``seed/0``, ``seed/1``, ..., one block or two per call."""
    counter = iter(range(1_000_000))

    def take(size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += sha512(f"{seed}/{next(counter)}".encode())
        return data[:size]

    return take


def encapsulation(taken: Iterator[bytes]) -> Encapsulate:
    """ML-KEM.Encaps_internal (FIPS 203 algorithm 17) with the next of ``taken`` as m."""

    def encapsulate(kem: Kem, public: bytes) -> tuple[bytes, Secret]:
        shared, ciphertext = _OTHER[kem.name]._encaps_internal(public, next(taken))
        return ciphertext, Secret(shared)

    return encapsulate


def inventory(seed: str) -> Inventory:
    """Two keys announced, and marks of two that are held."""
    drawn = stream(seed)
    held = KeyRef("metro", "key-held", 32), KeyRef("reserve", "0b59", 32)
    announced = KeyRef("metro", f"ahead-{seed[-1]}", 32), KeyRef("reserve", "6ad2", 64)
    return Inventory(drawn(STORE_SIZE), announced, tuple(map(mark_of, held)))


def _plain(its: Inventory) -> dict[str, Any]:
    announced = [{"source": ref.source, "key_id": ref.key_id, "size": ref.size} for ref in its.announced]
    return {"store": its.store.hex(), "announced": announced, "held": [mark.hex() for mark in its.held]}


def vector(suite: Suite, *, chained: bool, paired: bool, keys: int) -> dict[str, Any]:
    """One whole exchange with all that goes in and comes out, in hexadecimal."""
    which = suite.id if suite.id in SUITES else suite.name
    name = f"suite {which}, {keys} QKD keys{', chained' if chained else ''}{', paired' if paired else ''}"
    seeds = {end: stream(f"{name}/{end}")(32) for end in ("initiator", "responder")}
    alice, bob = Identity(Secret(seeds["initiator"])), Identity(Secret(seeds["responder"]))
    exchange = stream(f"{name}/exchange")(16)
    kems = len(suite.kem.kems)
    messages = [stream(f"{name}/m{index}")(32) for index in range(1, 1 + 3 * kems)]
    random_i, random_r = stream(f"{name}/random initiator"), stream(f"{name}/random responder")
    drawn_i, drawn_r = stream(f"{name}/random initiator"), stream(f"{name}/random responder")
    chain = link(6, Secret(stream(f"{name}/chain")(64)), qkd=True) if chained else None
    pairing = Secret(stream(f"{name}/pairing")(32)) if paired else None
    qkd = [(KeyRef("metro", f"key-{index}", 32), Secret(stream(f"{name}/qkd {index}")(32))) for index in range(keys)]

    offered, answered = (inventory(f"{name}/inventory {end}") if keys > 1 else NOTHING for end in ("i", "r"))
    offer = Offer(
        tai64n(UNIX_NS),
        7,
        POLICY if keys else Policy(QkdPolicy.OFF),
        0,
        () if chain is None else (ChainRef(chain.epoch, chain.id),),
        tuple(ref for ref, _ in qkd),
        offered,
    )
    taken = iter(messages)
    initiator = Initiator(
        alice, bob.public, suite, exchange, offer, random_i, pairing=pairing, encapsulate=encapsulation(taken)
    )
    responder = Responder(bob, suite, exchange, initiator.message, lambda _: KnownPeer(alice.public, pairing))
    answer = Answer(
        Verdict.ACCEPTED, 7, offer.policy, 0, None if chain is None else chain.id, tuple(range(keys)), "fine",
        answered,
    )  # fmt: skip
    response, theirs = responder.respond(
        answer, None if chain is None else chain.secret, qkd, random_r, encapsulate=encapsulation(taken)
    )
    chains = {} if chain is None else {chain.id: chain.secret}
    _, ours = initiator.read_response(response, dict(qkd), chains, lambda _: None)
    assert ours is not None
    assert theirs is not None
    assert ours.keys.psk == theirs.keys.psk

    def datagrams(kind: MessageType, body: bytes, to: Identity) -> list[str]:
        return [one.hex() for one in cut(Message(kind, suite.id, exchange, body), mac1_key(to.public.id))]

    to_bob = mac1_key(bob.public.id)
    init = cut(Message(MessageType.INIT, suite.id, exchange, initiator.message), to_bob)
    reply = reply_to(init[0], parse(init[0], to_bob), SOURCE, mint(bob.public.id, stream(f"{name}/cookie")), 0.0)
    assert reply is not None
    drawn_c = stream(f"{name}/cookie")
    cookie = held(bob.public.id)
    assert cookie.accept(reply[24:48], reply[48:80], init[0][-2 * MAC_SIZE : -MAC_SIZE], 0.0)

    return {
        "name": name,
        "suite": suite.id,
        "kem": [kem.name for kem in suite.kem.kems],
        "cipher": suite.aead.name,
        "combiner": suite.combiner,
        "exchange_id": exchange.hex(),
        "initiator_seed": seeds["initiator"].hex(),
        "responder_seed": seeds["responder"].hex(),
        "initiator_id": alice.public.id.hex(),
        "responder_id": bob.public.id.hex(),
        "initiator_x25519": alice.public.x25519.hex(),
        "responder_x25519": bob.public.x25519.hex(),
        "initiator_ephemeral": drawn_i(32).hex(),
        "initiator_ephemeral_kem_seed": b"".join(drawn_i(64) for _ in range(kems)).hex(),
        "responder_ephemeral": drawn_r(32).hex(),
        "encapsulation_m": [m.hex() for m in messages],
        "pairing_secret": None if pairing is None else bytes(pairing.reveal()).hex(),
        "chain": None
        if chain is None
        else {"epoch": chain.epoch, "id": chain.id.hex(), "secret": bytes(chain.secret.reveal()).hex()},
        "qkd_keys": [
            {"source": ref.source, "key_id": ref.key_id, "key": bytes(key.reveal()).hex()} for ref, key in qkd
        ],
        "offer_inventory": _plain(offered),
        "answer_inventory": _plain(answered),
        "timestamp": offer.timestamp.hex(),
        "epoch": 7,
        "init": initiator.message.hex(),
        "response": response.hex(),
        "commit": ours.commit.hex(),
        "committed": ours.committed.hex(),
        "init_datagrams": datagrams(MessageType.INIT, initiator.message, bob),
        "commit_datagrams": datagrams(MessageType.COMMIT, ours.commit, bob),
        "cookie_secret": drawn_c(32).hex(),
        "cookie_source": SOURCE.hex(),
        "cookie_nonce": drawn_c(24).hex(),
        "cookie_reply": reply.hex(),
        "init_datagrams_with_cookie": [one.hex() for one in stamped(init, cookie, 0.0)],
        "psk": bytes(ours.keys.psk.reveal()).hex(),
        "chain_out": bytes(ours.keys.chain.reveal()).hex(),
    }


def all_vectors() -> list[dict[str, Any]]:
    """The set in the repository."""
    return [
        vector(SUITES[1], chained=False, paired=False, keys=1),
        vector(SUITES[1], chained=True, paired=True, keys=2),
        vector(SUITES[2], chained=True, paired=False, keys=1),
        vector(SUITES[3], chained=False, paired=False, keys=0),
        vector(SUITES[4], chained=False, paired=True, keys=1),
        vector(find_suite(BOTH, "chacha20-poly1305"), chained=False, paired=False, keys=1),
        vector(find_suite(BOTH, "aes-256-gcm", "catkdf"), chained=True, paired=True, keys=2),
        vector(find_suite([KEMS["ml-kem-1024"]], "chacha20-poly1305", "catkdf"), chained=False, paired=False, keys=0),
    ]


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps({"vectors": all_vectors()}, indent=1) + "\n")
