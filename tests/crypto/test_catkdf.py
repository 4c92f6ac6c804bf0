"""The combiner of ETSI TS 103 744, and the primitives below it, by published vectors."""

from __future__ import annotations

import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from qtunnel.crypto.catkdf import Kdf, catkdf, format_context
from qtunnel.secret import Secret

VECTORS = Path(__file__).parents[1] / "vectors" / "kdf"
TS: dict[str, list[str]] = json.loads((VECTORS / "ts103744-v1.2.json").read_text())
RFC: dict[str, list[dict[str, str]]] = json.loads((VECTORS / "rfc.json").read_text())
INFO = b"ETSI_QSHKE_TEST_VECTORS_V_1_2"
SHA512 = hashes.SHA512()


def raw(name: str, row: int) -> bytes:
    return bytes.fromhex(TS[name][row])


def message(end: str, kdf: Kdf, row: int) -> bytes:
    """MA or MB, whose lengths count hexadecimal digits in these vectors."""
    fields = [raw(name, row) for name in (f"strL{end}1", f"strP{end}1", f"strP{end}2")]
    lengths = [(2 * len(field)).to_bytes(4, "big") for field in fields]
    pairs = zip(lengths, fields, strict=True)
    return raw(f"cids_concatenate_{kdf}", row) + b"".join(part for pair in pairs for part in pair)


@pytest.mark.parametrize("kdf", ["hkdf", "hmac"])
@pytest.mark.parametrize("row", range(12))
def test_every_published_vector(kdf: Kdf, row: int) -> None:
    algorithm: Any = hashes.SHA256() if row < 6 else hashes.SHA384()
    label = bytes(a ^ b for a, b in zip(raw("strLA1", row), raw("strLB1", row), strict=True))
    context = format_context(algorithm, INFO, message("A", kdf, row), message("B", kdf, row))
    secrets = [Secret(raw("strk1", row)), Secret(raw("strk2", row))]
    expected = raw(f"strkmcat_{kdf}", row)
    assert len(expected) == (16 if row < 6 else 24)
    assert catkdf(None, secrets, label, context, len(expected), algorithm, kdf) == Secret(expected)


def test_each_input_counts() -> None:
    def made(
        psk: bytes = b"p" * 64, one: bytes = b"1" * 32, two: bytes = b"2" * 32, label: bytes = b"label",
        context: tuple[bytes, bytes, bytes] = (b"info", b"a", b"b"),
    ) -> bytes:  # fmt: skip
        formatted = format_context(SHA512, *context)
        key = catkdf(Secret(psk), [Secret(one), Secret(two)], label, formatted, 32, SHA512)
        return bytes(key.reveal())

    variants = [
        made(), made(psk=b"q" * 64), made(one=b"0" * 32), made(two=b"0" * 32), made(label=b"other"),
        made(context=(b"info", b"ab", b"")), made(context=(b"infoa", b"", b"b")), made(context=(b"info", b"a", b"")),
    ]  # fmt: skip
    assert len(set(variants)) == len(variants)


@pytest.mark.parametrize("vector", RFC["hkdf"], ids=lambda vector: vector["name"])
def test_hkdf(vector: dict[str, str]) -> None:
    its = {name: bytes.fromhex(value) for name, value in vector.items() if name not in ("name", "hash")}
    algorithm = getattr(hashes, vector["hash"])()
    assert HKDF(algorithm, len(its["okm"]), its["salt"], its["info"]).derive(its["ikm"]) == its["okm"]

    plain = catkdf(None, [Secret(its["ikm"])], its["salt"], its["info"], len(its["okm"]), algorithm)
    assert plain == Secret(its["okm"])  # of one secret CatKDF is HKDF


@pytest.mark.parametrize("vector", RFC["hmac"], ids=lambda vector: vector["name"])
@pytest.mark.parametrize("name", ["sha256", "sha512"])
def test_hmac(vector: dict[str, str], name: str) -> None:
    assert hmac.digest(bytes.fromhex(vector["key"]), bytes.fromhex(vector["data"]), name).hex() == vector[name]
