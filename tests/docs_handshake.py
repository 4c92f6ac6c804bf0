"""A second implementation of the handshake, made of docs/protocol.md alone: nothing of qtunnel is imported here.

Suites, labels, layouts and the order of the steps are read from the document's tables and carried out; formulas are
written down again from its text, with the section beside each. ML-KEM's encapsulation with chosen randomness is
kyber-py's, everything else of a cryptographic kind the cryptography library's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM1024PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from kyber_py.ml_kem import ML_KEM_768, ML_KEM_1024
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt

from tests.docs_tables import Document, Table

Ref = tuple[str, str, int]
"""source, key_ID, size."""
Inventory = tuple[bytes, Sequence[Ref], Sequence[bytes], Sequence[bytes]]
"""store, announced, marks."""

DOCUMENT = Document(Path(__file__).parent.parent / "docs" / "protocol.md")
_LABELS = DOCUMENT.table("1.4", "path").column("path")
_KEMS: dict[str, tuple[type[MLKEM1024PrivateKey] | type[MLKEM768PrivateKey], Any]] = {
    "ml-kem-1024": (MLKEM1024PrivateKey, ML_KEM_1024),
    "ml-kem-768": (MLKEM768PrivateKey, ML_KEM_768),
}
TAG = 16


# 1.1 Notation


def frame(*fields: bytes) -> bytes:
    return b"".join(len(one).to_bytes(4, "big") + one for one in fields)


def str8(text: str) -> bytes:
    return bytes([len(text.encode())]) + text.encode()


def label(path: str) -> bytes:
    assert path in _LABELS, f"the document has no label {path}"
    return f"qtunnel/v1/{path}".encode("ascii")


def expand(key: bytes, path: str, context: bytes, size: int) -> bytes:
    return HKDFExpand(hashes.SHA512(), size, label(path) + b"\0" + context).derive(key)


def sha512(data: bytes) -> bytes:
    return hashlib.sha512(data).digest()


def hkdf(salt: bytes, material: bytes, size: int) -> bytes:
    return HKDF(hashes.SHA512(), size, salt, b"").derive(material)


# 1.3 Suites


@dataclass(frozen=True)
class Suite:
    id: int
    kem: str
    aead: str
    protocol_name: bytes
    pk: int
    ct: int
    combiner: str = "hkdf"

    @property
    def kems(self) -> list[str]:
        """4.9: in the order of their names."""
        return sorted(self.kem.split("+"))

    def nonce(self, counter: int) -> bytes:
        return bytes(4) + counter.to_bytes(8, "little" if self.aead == "chacha20-poly1305" else "big")

    def cipher(self, key: bytes) -> ChaCha20Poly1305 | AESGCM:
        return ChaCha20Poly1305(key) if self.aead == "chacha20-poly1305" else AESGCM(key)

    def size(self, text: str) -> int:
        """Bytes as the tables give them: a number, pk or ct."""
        return {"pk": self.pk, "ct": self.ct}.get(text) or int(text)


SUITES = {
    int(row["id"]): Suite(
        int(row["id"]), row["KEM"], row["AEAD"], row["protocol name"].encode("ascii"), int(row["pk"]), int(row["ct"])
    )
    for row in DOCUMENT.table("1.3", "id").rows
}


_NOISE_AEADS = {row["AEAD"]: row["protocol name"].split("_")[3] for row in DOCUMENT.table("1.3", "id").rows}
_KEM_SIZES = {row["KEM"]: (int(row["pk"]), int(row["ct"])) for row in DOCUMENT.table("1.3", "id").rows}


def suite_of(kems: Sequence[str], aead: str, combiner: str) -> Suite:
    """A suite of the table, or one whose name and id follow from its parts."""
    names = sorted(kems)
    for suite in SUITES.values():
        if (suite.kem, suite.aead, combiner) == ("+".join(names), aead, "hkdf"):
            return suite
    joined = "+".join(name.upper().replace("-", "") for name in names)  # liboqs's ML-KEM-1024
    end = "_CatKDF" if combiner == "catkdf" else ""
    name = f"QTunnel_IKpsk2+pqIK_25519+{joined}_{_NOISE_AEADS[aead]}_SHA512{end}".encode("ascii")
    number = 0x8000 | (int.from_bytes(sha512(name)[0:2], "big") & 0x7FFF)
    pk, ct = (sum(_KEM_SIZES[name][index] for name in names) for index in (0, 1))
    return Suite(number, "+".join(names), aead, name, pk, ct, combiner)


# 2 Identity


@dataclass(frozen=True)
class Pair:
    """A key pair; of the other end's keys only the public half. Both halves as bytes, a KEM's private one as seed."""

    public: bytes
    private: bytes | None = None


def x25519(private: bytes) -> Pair:
    return Pair(X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw(), private)


def kem_pair(kem: str, seed: bytes) -> Pair:
    return Pair(_KEMS[kem][0].from_seed_bytes(seed).public_key().public_bytes_raw(), seed)


def joined(pairs: Sequence[Pair]) -> Pair:
    """4.9: of several KEMs, one after the other."""
    private = None if any(pair.private is None for pair in pairs) else b"".join(pair.private or b"" for pair in pairs)
    return Pair(b"".join(pair.public for pair in pairs), private)


def pieces(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    ends = [sum(sizes[:index]) for index in range(len(sizes) + 1)]
    assert ends[-1] == len(data)
    return [data[start:end] for start, end in itertools.pairwise(ends)]


class Identity:
    """Keys, id, fingerprint and files of a seed."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self.wireguard = x25519(expand(seed, "identity/wireguard", b"", 32))
        self.x25519 = x25519(expand(seed, "identity/x25519", b"", 32))
        self.kem = {kem: kem_pair(kem, expand(seed, f"identity/{kem}", b"", 64)) for kem in _KEMS}
        self._public = {"wireguard": self.wireguard, "x25519": self.x25519, **self.kem}
        fields = [part for name, pair in self._public.items() for part in (name.encode(), pair.public)]
        self.id = sha512(frame(label("identity/id"), *fields))

    @property
    def fingerprint(self) -> str:
        return "-".join(re.findall("....", base64.b32encode(self.id[0:20]).decode().lower()))

    @property
    def public_file(self) -> str:
        lines = [f"{name}: {base64.b64encode(pair.public).decode()}" for name, pair in self._public.items()]
        return "\n".join(["qtunnel-public-v1", f"# fingerprint {self.fingerprint}", *lines, ""])

    @property
    def secret_file(self) -> str:
        return f"qtunnel-identity-v1\n\n# a comment\n{base64.b64encode(self._seed).decode()}\n"


# Layouts: sections 3.1, 4.4, 4.5

HEADER = DOCUMENT.table("3.1", "offset")
OFFER = DOCUMENT.table("4.4", "offset")
ANSWER = DOCUMENT.table("4.5", "offset")


def pack(layout: Table, values: dict[str, int | bytes]) -> bytes:
    """The fields of a layout, each at its offset; reserved ones are 0."""
    data = b""
    for row in layout.rows:
        assert int(row["offset"]) == len(data), f"field {row['field']} is not where the one before ends"
        value = values.get(row["field"], 0) if row["field"] == "reserved" else values[row["field"]]
        raw = value.to_bytes(int(row["bytes"]), "big") if isinstance(value, int) else value
        assert len(raw) == int(row["bytes"])
        data += raw
    return data


def encode_offer(
    values: dict[str, int | bytes], chains: Sequence[tuple[int, bytes]], keys: Sequence[Ref], inventory: Inventory
) -> bytes:
    """4.4. chains: (epoch, id)."""
    data = pack(OFFER, values) + bytes([len(chains)])
    data += b"".join(epoch.to_bytes(8, "big") + name for epoch, name in chains) + bytes([len(keys)])
    return data + _refs(keys) + encode_inventory(inventory)


def _refs(keys: Sequence[Ref]) -> bytes:
    return b"".join(str8(source) + str8(key_id) + size.to_bytes(2, "big") for source, key_id, size in keys)


def encode_answer(values: dict[str, int | bytes], accepted: Sequence[int], detail: str, inventory: Inventory) -> bytes:
    """4.5."""
    return pack(ANSWER, values) + bytes([len(accepted), *accepted]) + str8(detail) + encode_inventory(inventory)


def encode_inventory(inventory: Inventory) -> bytes:
    """4.8."""
    store, announced, marks, withdrawn = inventory
    held = bytes([len(marks) + (128 if withdrawn else 0)]) + b"".join(marks)
    more = bytes([len(withdrawn)]) + b"".join(withdrawn) if withdrawn else b""
    return store + bytes([len(announced)]) + _refs(announced) + held + more


def mark(ref: Ref) -> bytes:
    """4.8."""
    source, key_id, size = ref
    return sha512(frame(source.encode(), key_id.encode(), size.to_bytes(2, "big")))[0:8]


# 3 Datagrams


def datagrams(
    kind: int, suite: Suite, exchange: bytes, body: bytes, receiver: bytes, cookie: bytes | None = None
) -> list[bytes]:
    key = sha512(label("handshake/mac1") + receiver)[0:32]
    count = -(-len(body) // 1176)
    made = []
    for index in range(count):
        values: dict[str, int | bytes] = {
            "type": kind, "version": 2, "suite": suite.id, "index": index, "count": count, "length": len(body),
            "exchange id": exchange,
        }  # fmt: skip
        data = pack(HEADER, values) + body[1176 * index : 1176 * (index + 1)]
        data += hmac.digest(key, data, "sha512")[0:16]
        made.append(data + (bytes(16) if cookie is None else hmac.digest(cookie, data, "sha512")[0:16]))
    return made


COOKIE_REPLY = DOCUMENT.table("3.4", "offset")


def cookie_of(secret: bytes, source: bytes) -> bytes:
    """3.4."""
    return hmac.digest(secret, source, "sha512")[0:16]


def cookie_reply(datagram: bytes, cookie: bytes, nonce: bytes, responder: bytes) -> bytes:
    """3.4. responder: its id."""
    key = sha512(label("handshake/cookie") + responder)[0:32]
    sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(cookie, datagram[-32:-16], nonce, key)
    values: dict[str, int | bytes] = {
        "type": 5, "version": 2, "suite": datagram[2:4], "index": datagram[4], "exchange id": datagram[8:24],
        "nonce": nonce, "sealed": sealed,
    }  # fmt: skip
    return pack(COOKIE_REPLY, values)


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
                cut = pieces(piece, [_KEM_SIZES[kem][1] for kem in kems])
                self.secrets[name.replace("ct", "s")] = [
                    _KEMS[kem][0].from_seed_bytes(seed).decapsulate(one)
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
            keys = pieces(self._holder(name).public, [_KEM_SIZES[kem][0] for kem in kems])
            made = [
                _KEMS[kem][1]._encaps_internal(key, m)
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
