"""Notation, labels and suites as docs/protocol.md has them: section 1, written again from the document alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from tests.docs_tables import Document

DOCUMENT = Document(Path(__file__).parent.parent / "docs" / "protocol.md")
_LABELS = DOCUMENT.table("1.4", "path").column("path")


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
KEM_SIZES = {row["KEM"]: (int(row["pk"]), int(row["ct"])) for row in DOCUMENT.table("1.3", "id").rows}


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
    pk, ct = (sum(KEM_SIZES[name][index] for name in names) for index in (0, 1))
    return Suite(number, "+".join(names), aead, name, pk, ct, combiner)
