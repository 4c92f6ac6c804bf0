"""Static keys of KEMs that follow from no seed: made once, each kept in a file of its own beside the identity.

Only ML-KEM has key generation from a seed in liboqs. A key of another KEM could be made from one by putting a generator
of our own in the place of the library's randomness; but which key comes of that would change with the order in which
a release of the library draws its bytes, and with it who the gateway is. So the key itself is kept.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from qtunnel.crypto.kem import Kem, KemKeyError, KemKeyPair
from qtunnel.errors import ConfigError, IdentityFileError
from qtunnel.files import read_secret_file, write_new_file
from qtunnel.secret import Secret

KEM_HEADER = "qtunnel-kem-v1"
MAX_KEM_FILE = 4 << 20
"""Bytes. Classic McEliece's largest key pair has 1.8 MB in base64."""
_FIELDS = ("kem", "version", "public", "private")


def kem_file(identity: Path, kem: str) -> Path:
    """Where the key of that KEM is, by the identity's file: ``alice.identity.hqc-256``."""
    return identity.with_name(f"{identity.name}.{kem}")


def save_kem_key(path: Path, pair: KemKeyPair) -> None:
    """Write the file, 0600; raises ``FileExistsError``, ``OSError``."""
    with pair.export() as private:
        data = bytearray(
            f"{KEM_HEADER}\n# secret: belongs to the identity beside it, and cannot be made again\n"
            f"kem: {pair.kem.name}\nversion: {pair.kem.version}\n".encode()
            + b"public: " + base64.b64encode(pair.public) + b"\nprivate: " + base64.b64encode(private.reveal()) + b"\n"
        )  # fmt: skip
    try:
        write_new_file(path, data, mode=0o600)
    finally:
        data[:] = bytes(len(data))


def load_kem_key(path: Path, kem: Kem) -> KemKeyPair:
    """Read the file; raises ``IdentityFileError``, ``FilePermissionError``."""
    if not path.exists():
        raise IdentityFileError(
            f"{path}: no such file; the identity beside it has a {kem.name} key, which is kept there: get it from a "
            f"backup, or make a new identity (qtunnel identity new FILE --kem {kem.name})"
        )
    try:
        content = read_secret_file(path, MAX_KEM_FILE)
    except ConfigError as error:
        raise IdentityFileError(str(error)) from None
    with content:
        lines = [line.strip() for line in bytes(content.reveal()).splitlines()]
    if not lines or lines[0] != KEM_HEADER.encode():
        raise IdentityFileError(f"{path}:1: the first line of a KEM key's file is {KEM_HEADER!r}")
    found = [line.partition(b": ") for line in lines[1:] if line and not line.startswith(b"#")]
    values = {name.decode("ascii", "replace"): value for name, _, value in found}
    if len(found) != len(values) or set(values) != set(_FIELDS):
        raise IdentityFileError(f"{path}: has to have {', '.join(_FIELDS)} once each; was the file cut or edited?")
    if values["kem"] != kem.name.encode():
        raise IdentityFileError(f"{path}: holds a key of another KEM, not of {kem.name}; was the file renamed?")
    try:
        public = base64.b64decode(values["public"], validate=True)
        with Secret(base64.b64decode(values["private"], validate=True)) as private:
            return kem.stored_key_pair(public, private)
    except (binascii.Error, ValueError):
        raise IdentityFileError(f"{path}: not base64; was the file cut or edited?") from None
    except KemKeyError:
        made = values["version"].decode("ascii", "replace")
        raise IdentityFileError(
            f"{path}: no key pair that this library can use: made with version {made!r} of {kem.name}, which is "
            f"{kem.version!r} here; go back to that release of liboqs, or make a new identity and give the peers its "
            "public file"
        ) from None
