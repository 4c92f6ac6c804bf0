"""The initiator of one exchange. Steps carry the tokens of docs/protocol.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qtunnel.crypto import dh
from qtunnel.crypto.kem import Encapsulate, Kem, KemKeyError
from qtunnel.crypto.noise import SymmetricState
from qtunnel.errors import HandshakeError
from qtunnel.handshake import transcript
from qtunnel.handshake.messages import Answer, Offer, Response, Verdict, decode_answer, encode_offer, parse_response
from qtunnel.handshake.suites import Suite
from qtunnel.handshake.transcript import Sealed, open_or
from qtunnel.identity import Identity, PublicIdentity
from qtunnel.secret import RandomBytes, Secret
from qtunnel.terms import KeyRef

Judge = Callable[[Answer], None]
"""Looks at an authenticated answer; raises ``HandshakeError`` where our policy does not allow it."""

NOT_THEIRS = "message 2 is not from this peer"


class Initiator:
    """Makes message 1, reads message 2. One object per exchange, never used again."""

    def __init__(
        self,
        local: Identity,
        remote: PublicIdentity,
        suite: Suite,
        exchange: bytes,
        offer: Offer,
        random_bytes: RandomBytes,
        *,
        pairing: Secret | None = None,
        encapsulate: Encapsulate | None = None,
    ) -> None:
        self.offer, self.suite, self.exchange = offer, suite, exchange
        self._local, self._remote = local, remote
        state = transcript.begin(suite, exchange, remote)

        with Secret.random(random_bytes, dh.KEY_SIZE) as ephemeral:  # -> e
            self._e = dh.KeyPair(ephemeral)
        state.mix_hash(self._e.public)
        self._ekem = suite.kem.new_ephemeral(random_bytes)  # -> ekem
        state.mix_hash(self._ekem.public)
        try:
            with self._e.exchange(remote.x25519) as shared:  # -> es
                state.mix_key(shared)
            ct1, secrets = suite.kem.encapsulate(remote.kem, encapsulate or Kem.encapsulate)  # -> skem
        except (dh.LowOrderPointError, KemKeyError) as error:
            raise HandshakeError("peer-key", f"the peer's public file holds an unusable key: {error}") from None
        transcript.mix_kem(state, ct1, secrets)
        sealed_id = state.encrypt_and_hash(local.public.id)  # -> {id_i}
        transcript.mix_statics(state, suite, local.public)
        with local.dh.exchange(remote.x25519) as shared:  # -> ss
            state.mix_key(shared)
        if pairing is not None:
            state.mix_key_and_hash(pairing)
        sealed_offer = state.encrypt_and_hash(encode_offer(offer))  # -> {offer}
        self._state = state
        self.message = self._e.public + self._ekem.public + ct1 + sealed_id + sealed_offer

    def read_response(
        self, body: bytes, keys: Mapping[KeyRef, Secret], chains: Mapping[bytes, Secret], judge: Judge
    ) -> tuple[Answer, Sealed | None]:
        """Read message 2 with the QKD keys offered and the chain secrets by id.

        Returns the answer, and the sealed epoch where the offer was accepted. Raises ``HandshakeError``: with reason
        ``authentication`` or ``malformed`` the message may be forged and the exchange goes on waiting; with any other
        it came from the peer and the exchange is over. The state is changed by neither.
        """
        message = parse_response(self.suite, body)
        state, ephemeral = self._state.fork(), transcript.Ephemeral(self.suite)
        try:
            return self._read(state, ephemeral, body, message, keys, chains, judge)
        finally:
            state.wipe()
            ephemeral.wipe()

    def _read(
        self,
        state: SymmetricState,
        ephemeral: transcript.Ephemeral,
        body: bytes,
        message: Response,
        keys: Mapping[KeyRef, Secret],
        chains: Mapping[bytes, Secret],
        judge: Judge,
    ) -> tuple[Answer, Sealed | None]:
        state.mix_hash(message.e)  # <- e
        try:
            with self._e.exchange(message.e) as shared:  # <- ee
                state.mix_key(shared)
                ephemeral.keep(shared)
            with self._local.dh.exchange(message.e) as shared:  # <- se
                state.mix_key(shared)
        except dh.LowOrderPointError:
            raise HandshakeError("authentication", "an ephemeral key of low order") from None
        try:
            secrets = self._ekem.decapsulate(message.ct2)  # <- ekem
            ephemeral.keep(*secrets)
            transcript.mix_kem(state, message.ct2, secrets)
            secrets = self.suite.kem.decapsulate(self._local.kem, message.ct3)  # <- skem_i
        except KemKeyError:
            raise HandshakeError("authentication", NOT_THEIRS) from None
        transcript.mix_kem(state, message.ct3, secrets)
        plain = open_or(state, message.answer, "authentication", NOT_THEIRS)  # <- {answer}
        answer = decode_answer(plain, len(self.offer.keys))
        if answer.verdict is Verdict.ACCEPTED:
            if answer.epoch != self.offer.epoch:
                raise HandshakeError("answer", f"accepts epoch {answer.epoch} instead of {self.offer.epoch}")
            judge(answer)
        accepted = tuple(self.offer.keys[index] for index in answer.keys)
        chain = None
        if answer.chain is not None:
            chain = chains.get(answer.chain)
            if chain is None or answer.chain not in {ref.id for ref in self.offer.chains}:
                raise HandshakeError("answer", "chooses a chain secret that was not offered")
        transcript.mix_psk(state, chain, [(ref, keys[ref]) for ref in accepted])  # <- psk
        # Both ends hold what they say, yet the proof fails: somebody's QKD key is not the other's.
        open_or(
            state, message.proof, "key-mismatch", "the two ends hold different QKD keys under the same key_ID"
        )  # <- {proof}
        if answer.verdict is not Verdict.ACCEPTED:
            return answer, None
        sealed = transcript.finish(
            state, self.suite, answer.epoch, self._local.public, self._remote, accepted, chain is not None, ephemeral,
            (self.message, body),
        )  # fmt: skip
        return answer, sealed

    def wipe(self) -> None:
        """Forget the ephemerals."""
        self._e.wipe()
        self._ekem.wipe()
        self._state.wipe()
