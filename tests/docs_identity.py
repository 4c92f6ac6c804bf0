"""Key pairs and identities as docs/protocol.md has them: section 2, written again from the document alone."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM1024PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from kyber_py.ml_kem import ML_KEM_768, ML_KEM_1024

from tests.docs_notation import expand, frame, label, sha512

KEMS: dict[str, tuple[type[MLKEM1024PrivateKey] | type[MLKEM768PrivateKey], Any]] = {
    "ml-kem-1024": (MLKEM1024PrivateKey, ML_KEM_1024),
    "ml-kem-768": (MLKEM768PrivateKey, ML_KEM_768),
}


# 2 Identity


@dataclass(frozen=True)
class Pair:
    """A key pair; of the other end's keys only the public half. Both halves as bytes, a KEM's private one as seed."""

    public: bytes
    private: bytes | None = None


def x25519(private: bytes) -> Pair:
    return Pair(X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw(), private)


def kem_pair(kem: str, seed: bytes) -> Pair:
    return Pair(KEMS[kem][0].from_seed_bytes(seed).public_key().public_bytes_raw(), seed)


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
        self.kem = {kem: kem_pair(kem, expand(seed, f"identity/{kem}", b"", 64)) for kem in KEMS}
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
