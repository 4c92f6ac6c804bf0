"""``qtunnel pad``: makes the files that the driver ``file`` draws keys from, and shows what is left of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from qtunnel.config.amounts import parse_bytes
from qtunnel.config.types import parse_percentage
from qtunnel.constants import QKD_KEY_SIZE
from qtunnel.drivers.file_format import IMPRINT_AT, IMPRINT_SIZE, Imprint, Side, other
from qtunnel.drivers.file_ledger import Ledger
from qtunnel.drivers.file_make import make_pad
from qtunnel.drivers.file_open import DEFAULT_LEDGER, File, ledger_path, read_info, read_ledger
from qtunnel.errors import PadError
from qtunnel.files import open_secret_file

Amount = TypeVar("Amount", int, float)


@click.group()
def pad() -> None:
    """Make and show pads: random files that both gateways have a copy of (key source driver 'file')."""


@pad.command()
@click.argument("file", type=click.Path(readable=False, path_type=Path))
@click.option("--size", required=True, metavar="BYTES", help="Random bytes, with a unit: 10MB, 1GB, 1GiB.")
@click.option("--share-a", default="50%", show_default=True, help="How much of it side a draws from; b has the rest.")
def new(file: Path, size: str, share_a: str) -> None:
    """Make a pad in FILE (mode 0600). An existing file is never overwritten.

    Copy it to the other gateway before either uses it. One is side a of it, the other side b.
    """
    amount, share = _given("--size", parse_bytes, size), _given("--share-a", parse_percentage, share_a)
    if not 0 <= share <= 1:
        raise click.BadParameter("must be from 0% to 100%", param_hint="--share-a")
    # Whole keys, so that none has a part in each half.
    info = make_pad(file, amount, round(amount * share) // QKD_KEY_SIZE * QKD_KEY_SIZE, os.urandom)
    click.echo(
        f"wrote {file}: {_keys(info.share_a)} for side a, {_keys(info.size - info.share_a)} for side b", err=True
    )
    click.echo("next: copy it to the other gateway by hand, before it is used, and destroy what carried it", err=True)
    click.echo(info.pad_id)


@pad.command()
@click.argument("file", type=click.Path(readable=False, path_type=Path))
@click.option(
    "--ledger", type=click.Path(readable=False, path_type=Path), default=DEFAULT_LEDGER, show_default=True,
    help="The directory of the ledgers, as in the configuration.",
)  # fmt: skip
def show(file: Path, ledger: Path) -> None:
    """Show what is left of the pad in FILE, by its ledger. Shows no key, and changes nothing."""
    opened = File(open_secret_file(file))
    try:
        info = read_info(file, opened)
        try:
            imprint, damage = Imprint.decode(opened.read(IMPRINT_AT, IMPRINT_SIZE), info), ""
        except PadError as error:
            imprint, damage = None, str(error)
    finally:
        opened.close()
    click.echo(f"pad {info.pad_id}, {info.size} bytes")
    sides: tuple[Side, ...] = (imprint.side,) if imprint is not None else ("a", "b")
    ledgers = [found for side in sides if (found := read_ledger(ledger, info, side)) is not None]
    if imprint is None and not damage:
        click.echo(f"not used yet: {_keys(info.share_a)} for side a, {_keys(info.size - info.share_a)} for side b")
        for found in ledgers:
            click.echo(f"side {found.side} of it was used here; if that is this file, it is an older copy")
        return
    click.echo(damage or f"used as side {sides[0]}")
    if not ledgers:
        raise PadError(
            f"{file}: its ledger is not in {ledger}; name the directory with --ledger, as in the configuration"
        )
    for found in ledgers:
        _tell(file, ledger, found, imprint)


def _tell(file: Path, directory: Path, ledger: Ledger, imprint: Imprint | None) -> None:
    peer = other(ledger.side)
    start, stop = ledger.info.lane(peer)
    skipped = sum(high - low for low, high in ledger.gaps)
    click.echo(f"left for this end, side {ledger.side}: {_keys(ledger.left)}")
    click.echo(f"left for the peer, side {peer}: {_keys(ledger.peer_left)} of {_keys(stop - start)}")
    if skipped or ledger.lost:
        click.echo(f"skipped by the peer: {skipped} bytes that it may still ask for, {ledger.lost} bytes that are lost")
    waiting = sum(high - low for low, high in ledger.dirty)
    if waiting > QKD_KEY_SIZE:
        click.echo(f"not overwritten yet: up to {waiting} bytes")
    if ledger.came_back:
        click.echo(f"used bytes that had come back were overwritten again, {ledger.came_back} times")
    click.echo(f"ledger: {ledger_path(directory, ledger.info, ledger.side)}, opened {ledger.generation} times")
    try:
        ledger.matched(imprint, imprint is None)
    except PadError as error:
        raise PadError(f"{file}: {error}") from None


def _keys(size: int) -> str:
    return f"{size // QKD_KEY_SIZE} keys of {QKD_KEY_SIZE} bytes"


def _given(option: str, parse: Callable[[str], Amount], text: str) -> Amount:
    try:
        return parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None
