"""``qtunnel identity``: makes a gateway's identity and shows its public side."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import click

from qtunnel.crypto.kem import KEMS, Kem
from qtunnel.crypto.kem_set import find_kem
from qtunnel.errors import ConfigError, IdentityFileError, KemUnavailableError
from qtunnel.identity import IDENTITY_HEADER, MAX_PUBLIC_FILE, PUBLIC_HEADER, Identity, PublicIdentity

STDIN = Path("-")


@click.group()
def identity() -> None:
    """Make and show the keys that a gateway is known by."""


@identity.command()
@click.argument("file", type=click.Path(readable=False, path_type=Path))
@click.option(
    "--kem", "kems", multiple=True, metavar="NAME",
    help="Also a key of this KEM of liboqs, e.g. hqc-256; may be given several times. Every identity has ML-KEM's.",
)  # fmt: skip
def new(file: Path, kems: tuple[str, ...]) -> None:
    """Make a new identity and write it to FILE (mode 0600). An existing file is never overwritten.

    A key of another KEM than ML-KEM is written to a file beside it, FILE.NAME, which belongs to the identity.
    """
    if file == STDIN:
        raise IdentityFileError("-: an identity is secret and goes to a file only; name one, e.g. alice.identity")
    made = Identity.create(os.urandom, [_kem(name) for name in dict.fromkeys(kems) if name not in KEMS])
    first, *further = made.save(file)
    click.echo(f"wrote {first}, the secret identity of this gateway; keep it here and back it up", err=True)
    for path in further:
        click.echo(f"wrote {path}, a secret key that belongs to it; keep and back up the two together", err=True)
    source, target = shlex.quote(str(file)), shlex.quote(str(file.with_suffix(".public")))
    click.echo(f"next: qtunnel identity show {source} > {target}, and give that file to the peer", err=True)
    click.echo(made.public.fingerprint)


@identity.command()
@click.argument("file", type=click.Path(readable=False, path_type=Path))
def show(file: Path) -> None:
    """Print the public file of the identity in FILE, for the peers' operators."""
    click.echo(_public(file).to_text(), nl=False)


@identity.command()
@click.argument("file", type=click.Path(readable=False, path_type=Path))
def fingerprint(file: Path) -> None:
    """Print the fingerprint of FILE, an identity or a public file ('-': a public file from standard input).

    Read it over the phone: when both ends read the same, the public file came over unchanged.
    """
    click.echo(_public(file).fingerprint)


def _kem(name: str) -> Kem:
    try:
        return find_kem(name)
    except KemUnavailableError as error:
        raise KemUnavailableError(f"--kem {name}: {error}") from None


def _public(file: Path) -> PublicIdentity:
    """The public side of an identity file, a public file, or a public file on standard input."""
    if file == STDIN:
        data = sys.stdin.buffer.read(MAX_PUBLIC_FILE + 1)
        where = "standard input"
        if len(data) > MAX_PUBLIC_FILE:
            raise IdentityFileError(f"{where}: too large for a public file")
        try:
            return PublicIdentity.parse(data.decode("ascii"), where)
        except UnicodeDecodeError:
            raise IdentityFileError(f"{where}: not a text file") from None
    header = _first_line(file)
    if header == PUBLIC_HEADER.encode():
        return PublicIdentity.load(file)
    if header == IDENTITY_HEADER.encode():
        return Identity.load(file).public
    raise IdentityFileError(
        f"{file}: neither an identity nor a public file; those begin with {IDENTITY_HEADER} or {PUBLIC_HEADER}"
    )


def _first_line(file: Path) -> bytes:
    try:
        if not file.exists():
            raise IdentityFileError(f"{file}: no such file; make an identity with: qtunnel identity new {file}")
        if not file.is_file():
            raise IdentityFileError(f"{file}: not a regular file")
        with file.open("rb") as stream:
            return stream.readline(64).strip()
    except OSError as error:
        raise IdentityFileError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"not a path: {error}") from None
