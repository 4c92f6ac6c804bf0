"""The responder of one exchange. Steps carry the tokens of docs/protocol.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qtunnel.crypto import dh
from qtunnel.crypto.kem import Encapsulate, Kem, KemKeyError
from qtunnel.crypto.noise import SymmetricState
from qtunnel.errors import HandshakeError
from qtunnel.handshake import transcript
from qtunnel.handshake.messages import Answer, Offer, Verdict, decode_offer, encode_answer, parse_init
from qtunnel.handshake.suites import Suite
from qtunnel.handshake.transcript import Sealed, open_or
from qtunnel.identity import Identity, PublicIdentity, fingerprint_of
from qtunnel.secret import RandomBytes, Secret
from qtunnel.terms import KeyRef

NOT_OURS = "message 1 was not made for this identity"


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """What the responder must know of whoever speaks: the public identity, and the pairing secret if there is one."""

    public: PublicIdentity
    pairing: Secret | None = None


FindPeer = Callable[[bytes], KnownPeer | None]
"""From the id in message 1 to the peer, or None."""


class Responder:
    """Reads message 1, makes message 2. One object per exchange, never used again.

    Once constructed, message 1 is authenticated: ``peer`` made it (by X25519, and the pairing secret if there is one).
    Raises ``HandshakeError``: ``authentication``, ``unknown-peer``, ``malformed``.
    """

    def __init__(self, local: Identity, suite: Suite, exchange: bytes, body: bytes, find_peer: FindPeer) -> None:
        self.suite, self.exchange = suite, exchange
        self._local = local
        message = parse_init(suite, body)
        state = transcript.begin(suite, exchange, local.public)
        try:
            self.peer, self.offer = self._read(state, message.e, message.ekem, message.ct1, message.id, message.offer,
                                               find_peer)  # fmt: skip
        except BaseException:
            state.wipe()
            raise
        self._state = state
        self._e_initiator, self._ekem, self._body = message.e, message.ekem, body

    def _read(
        self,
        state: SymmetricState,
        e: bytes,
        ekem: bytes,
        ct1: bytes,
        sealed_id: bytes,
        sealed_offer: bytes,
        find_peer: FindPeer,
    ) -> tuple[PublicIdentity, Offer]:
        suite, local = self.suite, self._local
        state.mix_hash(e)  # -> e
        state.mix_hash(ekem)  # -> ekem
        try:
            with local.dh.exchange(e) as shared:  # -> es
                state.mix_key(shared)
        except dh.LowOrderPointError:
            raise HandshakeError("authentication", "an ephemeral key of low order") from None
        try:
            secrets = suite.kem.decapsulate(local.kem, ct1)  # -> skem
        except KemKeyError:
            raise HandshakeError("authentication", NOT_OURS) from None
        transcript.mix_kem(state, ct1, secrets)
        identity = open_or(state, sealed_id, "authentication", NOT_OURS)  # -> {id_i}
        known = find_peer(identity)
        if known is None:
            raise HandshakeError("unknown-peer", f"no peer here has the fingerprint {fingerprint_of(identity)}")
        transcript.mix_statics(state, suite, known.public)
        try:
            with local.dh.exchange(known.public.x25519) as shared:  # -> ss
                state.mix_key(shared)
        except dh.LowOrderPointError:
            raise HandshakeError("peer-key", "the peer's public file holds a key of low order") from None
        if known.pairing is not None:
            state.mix_key_and_hash(known.pairing)
        plain = open_or(
            state,
            sealed_offer,
            "authentication",
            "message 1 is not from the peer it names, or the pairing secrets differ",
        )  # -> {offer}
        return known.public, decode_offer(plain)

    def respond(
        self,
        answer: Answer,
        chain: Secret | None,
        keys: Sequence[tuple[KeyRef, Secret]],
        random_bytes: RandomBytes,
        *,
        encapsulate: Encapsulate | None = None,
    ) -> tuple[bytes, Sealed | None]:
        """Message 2, and the sealed epoch where the answer accepts. keys: those the answer names, in its order."""
        suite, state, ephemeral = self.suite, self._state, transcript.Ephemeral(self.suite)
        encapsulate = encapsulate or Kem.encapsulate
        with Secret.random(random_bytes, dh.KEY_SIZE) as private:  # <- e
            e = dh.KeyPair(private)
        state.mix_hash(e.public)
        with e.exchange(self._e_initiator) as shared:  # <- ee
            state.mix_key(shared)
            ephemeral.keep(shared)
        with e.exchange(self.peer.x25519) as shared:  # <- se
            state.mix_key(shared)
        e.wipe()
        try:
            ct2, secrets = suite.kem.encapsulate_ephemeral(self._ekem, encapsulate)  # <- ekem
            ephemeral.keep(*secrets)
            transcript.mix_kem(state, ct2, secrets)
            ct3, secrets = suite.kem.encapsulate(self.peer.kem, encapsulate)  # <- skem_i
        except KemKeyError as error:
            raise HandshakeError("malformed", f"message 1 holds an unusable KEM key: {error}") from None
        transcript.mix_kem(state, ct3, secrets)
        sealed_answer = state.encrypt_and_hash(encode_answer(answer))  # <- {answer}
        transcript.mix_psk(state, chain, keys)  # <- psk
        proof = state.encrypt_and_hash(b"")  # <- {proof}
        message = e.public + ct2 + ct3 + sealed_answer + proof
        if answer.verdict is not Verdict.ACCEPTED:
            state.wipe()
            ephemeral.wipe()
            return message, None
        refs = tuple(ref for ref, _ in keys)
        return message, transcript.finish(
            state, suite, answer.epoch, self.peer, self._local.public, refs, chain is not None, ephemeral,
            (self._body, message),
        )  # fmt: skip

    def wipe(self) -> None:
        """Forget the state of an exchange that is not answered."""
        self._state.wipe()
