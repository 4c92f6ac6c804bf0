"""The Noise patterns IK, IKpsk1 and IKpsk2 (Noise Protocol Framework, revision 34, sections 5.3, 7.5 and 9).

WireGuard is IKpsk2 with a prologue of its own; the published vectors of the other patterns run through the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qtunnel.crypto import dh
from qtunnel.crypto.noise import BLAKE2S_CHACHAPOLY, NoiseSuite, SymmetricState
from qtunnel.secret import Secret

INITIATION_TOKENS = ("e", "es", "s", "ss")
RESPONSE_TOKENS = ("e", "ee", "se")
"""Without ``psk``, which the reader may have to try with more than one key."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An X25519 key pair."""

    private: Secret
    public: bytes

    @classmethod
    def of(cls, private: Secret) -> KeyPair:
        return cls(private, dh.public_key(private))


class NoiseHandshake:
    """One side of a handshake in progress: tokens are written or read in the pattern's order.

    ephemeral: makes the ephemeral key pair when ``e`` is written. psks: consumed by the ``psk`` tokens in order.
    Reading raises ``AuthenticationError`` or ``LowOrderPointError``; try on a ``fork`` where the state must survive.
    """

    __slots__ = ("_e", "_ephemeral", "_initiator", "_psks", "_re", "_static", "_symmetric", "_with_psk", "rs")

    def __init__(
        self,
        protocol_name: bytes,
        prologue: bytes,
        *,
        initiator: bool,
        static: KeyPair,
        ephemeral: Callable[[], KeyPair],
        remote_static: bytes | None = None,
        psks: Sequence[Secret] = (),
        suite: NoiseSuite = BLAKE2S_CHACHAPOLY,
    ) -> None:
        self._symmetric = SymmetricState(suite, protocol_name)
        self._symmetric.mix_hash(prologue)
        self._initiator = initiator
        self._static = static
        self._ephemeral = ephemeral
        self._e: KeyPair | None = None
        self._re = b""
        self.rs = remote_static or b""
        self._psks = list(psks)
        self._with_psk = b"psk" in protocol_name
        # the pre-message "<- s" of IK
        self._symmetric.mix_hash(self.rs if initiator else static.public)

    @property
    def hash(self) -> bytes:
        """h, the handshake hash."""
        return self._symmetric.h

    def fork(self) -> NoiseHandshake:
        """A copy whose steps leave this one as it is."""
        other = object.__new__(NoiseHandshake)
        other._symmetric = self._symmetric.fork()
        other._initiator, other._static, other._ephemeral = self._initiator, self._static, self._ephemeral
        other._e, other._re, other.rs = self._e, self._re, self.rs
        other._psks, other._with_psk = list(self._psks), self._with_psk
        return other

    def write(self, tokens: Sequence[str]) -> list[bytes]:
        """Process the tokens; what ``e`` and ``s`` put on the wire, in order."""
        wire: list[bytes] = []
        for step in tokens:
            if step == "e":
                self._e = self._ephemeral()
                wire.append(self._e.public)
                self._mix_ephemeral(self._e.public)
            elif step == "s":
                wire.append(self._symmetric.encrypt_and_hash(self._static.public))
            else:
                self._mix_secret(step)
        return wire

    def write_payload(self, payload: bytes) -> bytes:
        return self._symmetric.encrypt_and_hash(payload)

    def read(self, tokens: Sequence[str], wire: Sequence[bytes]) -> None:
        """Process the tokens with the fields that ``write`` gave."""
        fields = iter(wire)
        for step in tokens:
            if step == "e":
                self._re = next(fields)
                self._mix_ephemeral(self._re)
            elif step == "s":
                self.rs = self._symmetric.decrypt_and_hash(next(fields))
            else:
                self._mix_secret(step)

    def read_payload(self, ciphertext: bytes) -> bytes:
        return self._symmetric.decrypt_and_hash(ciphertext)

    def mix_psk(self, psk: Secret) -> None:
        """The ``psk`` token."""
        self._symmetric.mix_key_and_hash(psk)

    def split(self, label: bytes = b"") -> tuple[Secret, Secret]:
        """The two transport keys: for sending and for receiving, as seen from this side. Other ones under a label."""
        first, second = self._symmetric.split(label)
        return (first, second) if self._initiator else (second, first)

    def wipe(self) -> None:
        """Forget the symmetric state and the ephemeral key."""
        self._symmetric.wipe()
        if self._e is not None:
            self._e.private.wipe()

    def _mix_ephemeral(self, public: bytes) -> None:
        self._symmetric.mix_hash(public)
        if self._with_psk:  # section 9.2: with a PSK the ephemeral also goes into the key
            self._symmetric.mix_key(public)

    def _mix_secret(self, step: str) -> None:
        if step == "psk":
            self.mix_psk(self._psks.pop(0))
            return
        # a DH token names the initiator's key first
        mine, theirs = (step[0], step[1]) if self._initiator else (step[1], step[0])
        pair = self._static if mine == "s" else self._e
        assert pair is not None, "the pattern uses e before it is made"
        with dh.exchange(pair.private, self.rs if theirs == "s" else self._re) as shared:
            self._symmetric.mix_key(shared)
