"""Who a gateway is: one secret seed, and the public keys that follow from it.

The secret file holds 32 random bytes. By HKDF with separate labels come from them the WireGuard X25519 static key, the
handshake X25519 static key and one ML-KEM static key per parameter set. Keys of other KEMs are there where they were
asked for when the identity was made; those that follow from no seed have files of their own (kem_files.py). The public
file holds the public keys; the gateway's id is a hash over all of them, and the fingerprint is the id's beginning, for
reading over the phone.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from qtunnel.crypto import dh
from qtunnel.crypto.kdf import Label, derive, frame, sha512
from qtunnel.crypto.kem import KEMS, Kem, KemKeyError, KemKeyPair
from qtunnel.crypto.kem_set import find_kem
from qtunnel.crypto.signature import SEED_SIZE, SigningKey
from qtunnel.errors import ConfigError, IdentityFileError, KemUnavailableError, printable
from qtunnel.files import read_secret_file, write_new_file
from qtunnel.kem_files import kem_file, load_kem_key, save_kem_key
from qtunnel.secret import RandomBytes, Secret

IDENTITY_HEADER = "qtunnel-identity-v1"
PUBLIC_HEADER = "qtunnel-public-v1"
FINGERPRINT_COMMENT = "# fingerprint "
"""Begins the line of a public file that its keys are compared with: it finds accidents, not forgers."""
IDENTITY_SEED_SIZE = 32
ID_SIZE = 64
FINGERPRINT_BYTES = 20
"""160 bits: out of reach of a second preimage, and 32 letters are still read aloud in half a minute."""
MAX_PUBLIC_FILE = 4 << 20
"""Bytes: room for two of Classic McEliece's largest keys, 1.8 MB each in base64."""
MAX_CLAIM = 80
"""Characters of what a public file says its fingerprint is that an error repeats; one has 39."""
KEM_LINE = b"kem: "
"""Begins a line of an identity file: the identity has a key of that KEM, besides those that all have."""


def fingerprint_of(identity_id: bytes) -> str:
    """Eight groups of four letters and digits (base32 of the id's first 160 bits)."""
    text = base64.b32encode(identity_id[:FINGERPRINT_BYTES]).decode().lower()
    return "-".join(text[i : i + 4] for i in range(0, len(text), 4))


_FIELDS: dict[str, int] = {"wireguard": 32, "x25519": 32} | {kem.name: kem.public_key_size for kem in KEMS.values()}
"""The public file's fields that are always there, in their order, with the bytes of each."""
_KEM_NAME = re.compile(r"[a-z][a-z0-9.-]{0,62}", re.ASCII)


@dataclass(frozen=True)
class PublicIdentity:
    """A gateway's public keys: ``wireguard`` and ``x25519`` of 32 bytes, ``kem`` by KEM name.

    Those of KEMs that only liboqs has are as the file has them: ``check_kem_keys`` looks at them.
    """

    wireguard: bytes
    x25519: bytes
    kem: dict[str, bytes]

    def _values(self) -> list[tuple[str, bytes]]:
        names = [*KEMS, *sorted(self.kem.keys() - KEMS.keys())]
        return [("wireguard", self.wireguard), ("x25519", self.x25519), *((name, self.kem[name]) for name in names)]

    @cached_property
    def id(self) -> bytes:
        """64 bytes: SHA-512 over the label and every field, each behind its length."""
        fields = [part for name, value in self._values() for part in (name.encode(), value)]
        return sha512(frame(Label.IDENTITY_ID.value, *fields))

    @property
    def fingerprint(self) -> str:
        """What ``qtunnel identity fingerprint`` prints: see ``fingerprint_of``."""
        return fingerprint_of(self.id)

    def to_text(self) -> str:
        """The public file: what is handed to the peer's operator."""
        lines = [PUBLIC_HEADER, f"{FINGERPRINT_COMMENT}{self.fingerprint}"]
        lines += [f"{name}: {base64.b64encode(value).decode()}" for name, value in self._values()]
        return "\n".join(lines) + "\n"

    @classmethod
    def parse(cls, text: str, where: str = "public file") -> PublicIdentity:
        """Read a public file; raises ``IdentityFileError`` naming ``where`` and the line."""
        lines = text.splitlines()
        if not lines or lines[0].strip() != PUBLIC_HEADER:
            if lines and lines[0].strip() == IDENTITY_HEADER:
                raise IdentityFileError(
                    f"{where}: this is a secret identity file, not a public one; "
                    "make the public file with: qtunnel identity show FILE"
                )
            raise IdentityFileError(f"{where}:1: the first line of a public file is {PUBLIC_HEADER!r}")
        values: dict[str, bytes] = {}
        claimed = ""
        for number, line in enumerate(lines[1:], 2):
            stripped = line.strip()
            if stripped.startswith(FINGERPRINT_COMMENT):
                claimed = printable(stripped.removeprefix(FINGERPRINT_COMMENT).strip())[:MAX_CLAIM]
            if not stripped or stripped.startswith("#"):
                continue
            name, colon, encoded = stripped.partition(":")
            if not colon or not (name in _FIELDS or _KEM_NAME.fullmatch(name)):
                raise IdentityFileError(
                    f"{where}:{number}: expected one of {', '.join(_FIELDS)} or another KEM, each as 'name: base64'"
                )
            if name in values:
                raise IdentityFileError(f"{where}:{number}: {name} stands here a second time")
            try:
                values[name] = base64.b64decode(encoded.strip(), validate=True)
            except (binascii.Error, ValueError):
                raise IdentityFileError(
                    f"{where}:{number}: {name} is not base64; was the file cut or edited?"
                ) from None
            if name not in _FIELDS:
                continue
            if len(values[name]) != _FIELDS[name]:
                raise IdentityFileError(
                    f"{where}:{number}: {name} has {len(values[name])} bytes, not {_FIELDS[name]}; was the file cut?"
                )
            try:
                _check_key(name, values[name])
            except (dh.LowOrderPointError, KemKeyError):
                raise IdentityFileError(
                    f"{where}:{number}: {name} is not a usable public key; was the file edited? Get it from the peer "
                    "anew (there: qtunnel identity show FILE)"
                ) from None
        missing = [name for name in _FIELDS if name not in values]
        if missing:
            raise IdentityFileError(f"{where}: {', '.join(missing)} missing; was the file cut?")
        found = cls(values.pop("wireguard"), values.pop("x25519"), values)
        if claimed and claimed != found.fingerprint:
            raise IdentityFileError(
                f"{where}: its keys have the fingerprint {found.fingerprint}, but it says {claimed}: it was changed on "
                "the way; get it again"
            )
        return found

    @classmethod
    def load(cls, path: Path) -> PublicIdentity:
        """Read the public file at ``path``."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_PUBLIC_FILE + 1)
        except OSError as error:
            raise IdentityFileError(f"{path}: cannot be read: {error.strerror}") from None
        if len(data) > MAX_PUBLIC_FILE:
            raise IdentityFileError(f"{path}: too large for a public file")
        try:
            return cls.parse(data.decode("ascii"), str(path))
        except UnicodeDecodeError:
            raise IdentityFileError(f"{path}: not a text file") from None

    def check_kem_keys(self, kems: Iterable[Kem]) -> None:
        """See that there is a usable key of each of these; raises ``IdentityFileError``."""
        for kem in kems:
            if kem.name not in self.kem:
                raise IdentityFileError(
                    f"has no {kem.name} key; an identity gets one when it is made: qtunnel identity new FILE "
                    f"--kem {kem.name}"
                )
            try:
                kem.check_public_key(self.kem[kem.name])
            except KemKeyError as error:
                raise IdentityFileError(f"has an unusable key: {error}; do both ends have the same release?") from None


@lru_cache(maxsize=8192)
def _check_key(name: str, value: bytes) -> None:
    """See that a key can be used; raises ``LowOrderPointError`` or ``KemKeyError``.

    What was found good is remembered: a hub reads the files of its 1,000 peers three times at its start, and each
    time the checks would be most of it.
    """
    if name in KEMS:
        KEMS[name].check_public_key(value)
    else:
        dh.check_public_key(value)


class Identity:
    """A gateway's secret keys, derived from its seed. stored: those that are not, by the KEM's name."""

    def __init__(
        self, seed: Secret, further: Iterable[Kem] = (), stored: Mapping[str, KemKeyPair] | None = None
    ) -> None:
        if len(seed) != IDENTITY_SEED_SIZE:
            raise IdentityFileError(f"an identity's seed has {IDENTITY_SEED_SIZE} bytes, not {len(seed)}")
        self._seed = seed
        self.wireguard = derive(seed, Label.IDENTITY_WIREGUARD, b"", dh.KEY_SIZE)
        self.x25519 = derive(seed, Label.IDENTITY_X25519, b"", dh.KEY_SIZE)
        self.dh = dh.KeyPair(self.x25519)
        self._stored = dict(stored or {})
        self._further = sorted(kem.name for kem in further if kem.name not in KEMS)
        self.kem: dict[str, KemKeyPair] = {
            kem.name: self._stored[kem.name] if kem.name in self._stored else self._kem(kem)
            for kem in [*KEMS.values(), *(kem for kem in further if kem.name in self._further)]
        }
        self.public = PublicIdentity(
            dh.public_key(self.wireguard),
            self.dh.public,
            {name: pair.public for name, pair in self.kem.items()},
        )

    def _kem(self, kem: Kem) -> KemKeyPair:
        context = kem.name.encode() if kem.label is Label.IDENTITY_KEM else b""
        with derive(self._seed, kem.label, context, kem.seed_size) as seed:
            return kem.key_pair(seed)

    def audit_key(self) -> SigningKey:
        """What signs this gateway's audit log: it follows from the seed, and takes part in nothing else."""
        with derive(self._seed, Label.IDENTITY_AUDIT, b"", SEED_SIZE) as seed:
            return SigningKey(seed)

    @classmethod
    def create(cls, random_bytes: RandomBytes, further: Iterable[Kem] = ()) -> Identity:
        """A new identity. further: KEMs that it has keys of besides those that all have."""
        kems = list(further)
        stored = {kem.name: kem.new_key_pair(random_bytes) for kem in kems if not kem.seed_size}
        return cls(Secret.random(random_bytes, IDENTITY_SEED_SIZE), kems, stored)

    def save(self, path: Path) -> list[Path]:
        """Write the secret file, and one for each key that follows from no seed, all 0600; refuses to overwrite.

        All of them, or none. Which files these are.
        """
        text = f"{IDENTITY_HEADER}\n# secret: keep it on this gateway; whoever has it is this gateway\n"
        data = b"".join(KEM_LINE + name.encode() + b"\n" for name in self._further)
        data = text.encode() + data + base64.b64encode(self._seed.reveal()) + b"\n"
        written: list[Path] = []
        at = path
        try:
            for name, pair in self._stored.items():
                at = kem_file(path, name)
                save_kem_key(at, pair)
                written.append(at)
            at = path
            write_new_file(path, data, mode=0o600)
        except OSError as error:
            for one in written:
                one.unlink(missing_ok=True)
            if not isinstance(error, FileExistsError):
                raise IdentityFileError(f"{at}: cannot be written: {error.strerror}") from None
            if at.is_dir():
                raise IdentityFileError(f"{at}: is a directory; name a file, e.g. alice.identity") from None
            raise IdentityFileError(
                f"{at}: exists and is not overwritten, as a lost identity cannot be made again; choose a new name"
            ) from None
        return [path, *written]

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read a secret file; raises ``IdentityFileError``, ``FilePermissionError``."""
        try:
            content = read_secret_file(path)
        except ConfigError as error:
            raise IdentityFileError(str(error)) from None
        with content:
            lines = [line.strip() for line in bytes(content.reveal()).splitlines()]
        if not lines or lines[0] != IDENTITY_HEADER.encode():
            if lines and lines[0] == PUBLIC_HEADER.encode():
                raise IdentityFileError(f"{path}: this is a public file; the secret identity file is needed here")
            raise IdentityFileError(f"{path}:1: the first line of an identity file is {IDENTITY_HEADER!r}")
        rest = [line for line in lines[1:] if line and not line.startswith(b"#")]
        named = [line.removeprefix(KEM_LINE).decode("ascii", "replace") for line in rest if line.startswith(KEM_LINE)]
        try:
            (encoded,) = [line for line in rest if not line.startswith(KEM_LINE)]
            seed = Secret(base64.b64decode(encoded, validate=True))
        except (ValueError, binascii.Error):
            raise IdentityFileError(
                f"{path}: expected one line of base64 after the header; was the file edited?"
            ) from None
        if len(seed) != IDENTITY_SEED_SIZE:
            raise IdentityFileError(
                f"{path}: the seed has {len(seed)} bytes instead of {IDENTITY_SEED_SIZE}; was it cut?"
            )
        kems, stored = [], {}
        for name in sorted(set(named) - KEMS.keys()):
            try:
                kem = find_kem(name)
            except KemUnavailableError as error:
                raise IdentityFileError(f"{path}: the identity has a key of the KEM {name!r}, which {error}") from None
            kems.append(kem)
            if not kem.seed_size:
                stored[name] = load_kem_key(kem_file(path, name), kem)
        return cls(seed, kems, stored)

    def __repr__(self) -> str:
        return f"<Identity {self.public.fingerprint}>"
