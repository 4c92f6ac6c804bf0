"""What both ends of an exchange compute alike: the start of the transcript, the psk token, and the epoch's keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes

from qtunnel.crypto.aead import AuthenticationError
from qtunnel.crypto.catkdf import catkdf, format_context
from qtunnel.crypto.kdf import Label, derive, frame
from qtunnel.crypto.noise import SymmetricState
from qtunnel.errors import HandshakeError
from qtunnel.handshake.fragments import VERSION
from qtunnel.handshake.messages import EPOCH
from qtunnel.handshake.suites import Suite
from qtunnel.identity import PublicIdentity
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef

PSK_SIZE = 32
CHAIN_SIZE = 64


@dataclass(frozen=True, slots=True)
class EpochKeys:
    """What an exchange gives. psk: 32 bytes for WireGuard; chain: 64 bytes for later epochs.

    keys: references of the QKD keys that went in. chained: whether an earlier epoch's chain secret went in.
    """

    epoch: int
    suite: Suite
    psk: Secret
    chain: Secret
    keys: tuple[KeyRef, ...]
    chained: bool


def begin(suite: Suite, exchange: bytes, responder: PublicIdentity) -> SymmetricState:
    """The state before message 1: protocol name, prologue, and the responder's static keys."""
    state = SymmetricState(suite.noise, suite.protocol_name)
    prologue = Label.HANDSHAKE_PROLOGUE.value + bytes([VERSION]) + suite.id.to_bytes(2, "big") + exchange
    state.mix_hash(prologue)
    mix_statics(state, suite, responder)
    return state


def mix_statics(state: SymmetricState, suite: Suite, who: PublicIdentity) -> None:
    """Hash the whole static X25519 and KEM public keys of one end."""
    state.mix_hash(who.x25519)
    try:
        keys = suite.kem.static_of(who.kem)
    except KeyError as missing:
        raise HandshakeError(
            "suite", f"{who.fingerprint} has no {missing.args[0]} key for suite {suite.name}"
        ) from None
    state.mix_hash(keys)


def mix_kem(state: SymmetricState, ciphertext: bytes, secrets: Iterable[Secret]) -> None:
    """Hash the ciphertexts of a suite's KEMs; mix and wipe their secrets, each by a MixKey of its own."""
    state.mix_hash(ciphertext)
    for secret in secrets:
        with secret:
            state.mix_key(secret)


class Ephemeral:
    """What the combiner catkdf needs besides the state: the shared secrets of the ephemeral keys, X25519's first.
    With hkdf it keeps nothing."""

    __slots__ = ("_keeps", "secrets")

    def __init__(self, suite: Suite) -> None:
        self._keeps = suite.combiner == "catkdf"
        self.secrets: list[Secret] = []

    def keep(self, *secrets: Secret) -> None:
        if self._keeps:
            self.secrets += [secret.copy() for secret in secrets]

    def wipe(self) -> None:
        for secret in self.secrets:
            secret.wipe()


def open_or(state: SymmetricState, ciphertext: bytes, reason: str, detail: str) -> bytes:
    """``decrypt_and_hash`` with a failure that is named."""
    try:
        return state.decrypt_and_hash(ciphertext)
    except AuthenticationError:
        raise HandshakeError(reason, detail) from None


def mix_psk(state: SymmetricState, chain: Secret | None, keys: Sequence[tuple[KeyRef, Secret]]) -> None:
    """The ``psk`` token: frames of the chain secret or nothing, then of source, key_ID and key of each QKD key."""
    fields = [Label.HANDSHAKE_PSK_FRAMES.value, b"" if chain is None else bytes(chain.reveal())]
    for ref, key in keys:
        fields += [ref.source.encode(), ref.key_id.encode(), bytes(key.reveal())]
    with Secret(frame(*fields)) as frames:
        state.mix_key_and_hash(frames)


@dataclass(frozen=True, slots=True)
class Sealed:
    """The end of the key schedule: the epoch's keys, and the two confirmations, each ready to be sent or compared."""

    keys: EpochKeys
    commit: bytes
    committed: bytes


def finish(
    state: SymmetricState,
    suite: Suite,
    epoch: int,
    initiator: PublicIdentity,
    responder: PublicIdentity,
    keys: tuple[KeyRef, ...],
    chained: bool,
    ephemeral: Ephemeral,
    messages: tuple[bytes, bytes],
) -> Sealed:
    """Split, derive the epoch's PSK and chain secret, and wipe the state. messages: the bodies of the first two.

    The confirmations are deterministic, so both ends can make both, and a retransmission is the same bytes.
    """
    refs = frame(*(part for key in keys for part in (key.source.encode(), key.key_id.encode())))
    context = suite.id.to_bytes(2, "big") + initiator.id + responder.id + EPOCH.pack(epoch) + state.h + refs
    if suite.combiner == "catkdf":
        formatted = format_context(hashes.SHA512(), context, *messages)

        def make(label: Label, size: int) -> Secret:
            return state.export(lambda ck: catkdf(ck, ephemeral.secrets, label.value, formatted, size, hashes.SHA512()))

    else:

        def make(label: Label, size: int) -> Secret:
            return state.export(lambda ck: derive(ck, label, context, size))

    psk, chain = make(Label.EPOCH_PSK, PSK_SIZE), make(Label.EPOCH_CHAIN, CHAIN_SIZE)
    to_responder, to_initiator = state.split()
    with to_responder, to_initiator:
        commit = suite.aead.seal(to_responder, 0, EPOCH.pack(epoch), state.h)
        committed = suite.aead.seal(to_initiator, 0, EPOCH.pack(epoch), state.h)
    state.wipe()
    ephemeral.wipe()
    return Sealed(EpochKeys(epoch, suite, psk, chain, keys, chained), commit, committed)
