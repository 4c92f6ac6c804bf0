"""A second implementation of the handshake, made of docs/protocol.md alone: nothing of qtunnel is imported here, nor in
the other docs_*.py beside it.

Suites, labels, layouts and the order of the steps are read from the document's tables and carried out; formulas are
written down again from its text, with the section beside each. ML-KEM's encapsulation with chosen randomness is
kyber-py's, everything else of a cryptographic kind the cryptography library's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.docs_identity import KEMS, Pair, pieces
from tests.docs_notation import DOCUMENT, KEM_SIZES, Suite, expand, frame, hkdf, label, sha512

# 4 The exchange


class State:
    """4.1."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self.h = self.ck = self._k = b""
        self._n = 0

    def initialize(self, name: bytes) -> None:
        self.h = self.ck = name + bytes(64 - len(name)) if len(name) <= 64 else sha512(name)

    def mix_hash(self, data: bytes) -> None:
        self.h = sha512(self.h + data)

    def mix_key(self, data: bytes) -> None:
        stream = hkdf(self.ck, data, 128)
        self.ck, self._k, self._n = stream[:64], stream[64:96], 0

    def mix_key_and_hash(self, data: bytes) -> None:
        stream = hkdf(self.ck, data, 192)
        self.mix_hash(stream[64:128])
        self.ck, self._k, self._n = stream[:64], stream[128:160], 0

    def seal(self, plaintext: bytes) -> bytes:
        made = self._suite.cipher(self._k).encrypt(self._suite.nonce(self._n), plaintext, self.h)
        self._n += 1
        self.mix_hash(made)
        return made

    def open(self, ciphertext: bytes) -> bytes:
        """Raises ``cryptography.exceptions.InvalidTag``."""
        plain = self._suite.cipher(self._k).decrypt(self._suite.nonce(self._n), ciphertext, self.h)
        self._n += 1
        self.mix_hash(ciphertext)
        return plain


STEPS = DOCUMENT.table("4.2", "step").rows
BODIES = DOCUMENT.table("4.3", "message", "field").rows
_SIZES = {
    name.strip(): size.strip()
    for row in DOCUMENT.table("4.2", "value").rows
    for name, size in zip(row["value"].split(","), (row["bytes"] + "," + row["bytes"]).split(","), strict=False)
    if size.strip()
}
"""Bytes of the values as section 4.2 gives them; one number stands for all values of its row."""
_OPERATION = re.compile(r"(Initialize|MixHash|MixKey|MixKeyAndHash|Seal)\((.*)\)(, only where there is one)?")


def psk_token(chain: bytes, keys: Sequence[tuple[str, str, bytes]]) -> bytes:
    """4.6. keys: (source, key_ID, key)."""
    parts = [part for source, key_id, key in keys for part in (source.encode(), key_id.encode(), key)]
    return frame(label("handshake/psk-frames"), chain, *parts)


@dataclass
class End:
    """One end of an exchange: carries out the steps as the document lists them, writing its own message and reading
    the other's.

    pairs: key pairs by the names of section 4.2; one whose private half is missing is the other end's.
    values: everything else that this end knows beforehand, by the same names.
    encapsulations: the m for each ciphertext that this end makes, one for each KEM.
    """

    role: str
    suite: Suite
    pairs: dict[str, Pair]
    values: dict[str, bytes]
    encapsulations: dict[str, list[bytes]]
    steps: Sequence[dict[str, str]] = STEPS
    state: State = field(init=False)
    sealed: dict[str, bytes] = field(default_factory=dict)
    secrets: dict[str, list[bytes]] = field(default_factory=dict)
    """s1, s2, s3: of each KEM."""
    bodies: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.state = State(self.suite)
        self.values["protocol name"] = self.suite.protocol_name
        self.values['""'] = b""

    def writes(self, message: str) -> bool:
        return (message == "1") == (self.role == "initiator")

    def run(self, message: str, body: bytes | None = None) -> bytes:
        """The steps of one message, "" for those before the first. body: that of a message to read. The body, made or
        read; raises ``cryptography.exceptions.InvalidTag``."""
        if body is not None:
            self._cut(message, body)
        elif message:
            self._encapsulate(message)
        for step in self.steps:
            if step["message"] == message:
                self._step(step)
        fields = [row["field"] for row in BODIES if row["message"] == message]
        parts = [self.sealed[name] if name in self.sealed else self._value(name) for name in fields]
        self.bodies[message] = b"".join(parts)
        return self.bodies[message]

    def _cut(self, message: str, body: bytes) -> None:
        """4.3."""
        rows = [row for row in BODIES if row["message"] == message]
        fixed = sum(self.suite.size(row["bytes"]) for row in rows if row["bytes"] != "*")
        at = 0
        for row in rows:
            size = len(body) - fixed if row["bytes"] == "*" else self.suite.size(row["bytes"])
            name, piece = row["field"], body[at : at + size]
            at += size
            if name.startswith("{"):
                self.sealed[name] = piece
            elif name.startswith("ct"):
                self.values[name] = piece
                holder = self._holder(name)
                assert holder.private is not None
                kems = self.suite.kems
                seeds = pieces(holder.private, [64] * len(kems))
                cut = pieces(piece, [KEM_SIZES[kem][1] for kem in kems])
                self.secrets[name.replace("ct", "s")] = [
                    KEMS[kem][0].from_seed_bytes(seed).decapsulate(one)
                    for kem, seed, one in zip(kems, seeds, cut, strict=True)
                ]
            else:
                self.pairs[name] = Pair(piece)
        assert at == len(body)

    def _holder(self, ciphertext: str) -> Pair:
        """Whose key a ciphertext is for."""
        what = DOCUMENT.table("4.2", "value").mapping("value", "what")
        (words,) = [words for value, words in what.items() if value.startswith(f"{ciphertext},")]
        found = re.match(r"Encaps\((\w+)\), by the (initiator|responder)", words)
        assert found
        return self.pairs[found[1]]

    def _encapsulate(self, message: str) -> None:
        for name in [row["field"] for row in BODIES if row["message"] == message and row["field"].startswith("ct")]:
            kems = self.suite.kems
            keys = pieces(self._holder(name).public, [KEM_SIZES[kem][0] for kem in kems])
            made = [
                KEMS[kem][1]._encaps_internal(key, m)
                for kem, key, m in zip(kems, keys, self.encapsulations[name], strict=True)
            ]
            self.values[name] = b"".join(ciphertext for _, ciphertext in made)
            self.secrets[name.replace("ct", "s")] = [secret for secret, _ in made]

    def _step(self, step: dict[str, str]) -> None:
        found = _OPERATION.fullmatch(step["operation"])
        assert found, f"step {step['step']} is no operation of section 4.1"
        operation, argument, optional = found.groups()
        if optional and argument not in self.values:
            return
        state = self.state
        if argument in self.secrets:
            for secret in self.secrets[argument]:  # 4.9: each has a MixKey of its own
                state.mix_key(secret)
        elif operation == "Seal" and not self.writes(step["message"]):
            self.values[argument] = state.open(self.sealed[step["token"]])
        elif operation == "Seal":
            self.sealed[step["token"]] = state.seal(self._value(argument))
        else:
            does: dict[str, Callable[[bytes], None]] = {
                "Initialize": state.initialize,
                "MixHash": state.mix_hash,
                "MixKey": state.mix_key,
                "MixKeyAndHash": state.mix_key_and_hash,
            }
            does[operation](self._value(argument))

    def _value(self, name: str) -> bytes:
        dh = re.fullmatch(r"DH\((\w+), (\w+)\)", name)
        if dh is None:
            value = self.pairs[name].public if name in self.pairs else self.values[name]
            assert name not in _SIZES or len(value) == self.suite.size(_SIZES[name]), f"size of {name}"
            return value
        one, other = self.pairs[dh[1]], self.pairs[dh[2]]
        if one.private is None:
            one, other = other, one
        assert one.private is not None
        return X25519PrivateKey.from_private_bytes(one.private).exchange(
            X25519PublicKey.from_public_bytes(other.public)
        )


@dataclass(frozen=True)
class Epoch:
    psk: bytes
    chain: bytes
    commit: bytes
    committed: bytes


def finish(end: End, id_i: bytes, id_r: bytes, epoch: int, keys: Sequence[tuple[str, str, bytes]]) -> Epoch:
    """4.7."""
    suite, h, ck = end.suite, end.state.h, end.state.ck
    number = epoch.to_bytes(8, "big")
    refs = frame(*(part.encode() for source, key_id, _ in keys for part in (source, key_id)))
    context = suite.id.to_bytes(2, "big") + id_i + id_r + number + h + refs
    stream = hkdf(ck, b"", 128)
    k_ir, k_ri = stream[0:32], stream[64:96]

    def made(path: str, size: int) -> bytes:
        if suite.combiner == "hkdf":
            return expand(ck, path, context, size)
        material = ck + end._value("DH(e_i, e_r)") + b"".join(end.secrets["s2"])
        info = sha512(frame(context, end.bodies["1"], end.bodies["2"]))
        return HKDF(hashes.SHA512(), size, label(path), info).derive(material)

    return Epoch(
        made("epoch/psk", 32),
        made("epoch/chain", 64),
        suite.cipher(k_ir).encrypt(suite.nonce(0), number, h),
        suite.cipher(k_ri).encrypt(suite.nonce(0), number, h),
    )


def chain_id(chain: bytes, epoch: int) -> bytes:
    return expand(chain, "epoch/chain-id", epoch.to_bytes(8, "big"), 16)


def prologue(suite: Suite, exchange: bytes) -> bytes:
    """4.2."""
    return label("handshake/prologue") + bytes([2]) + suite.id.to_bytes(2, "big") + exchange
