"""``qtunnel audit``: whether the audit log is what was written, and what protected a tunnel at a moment."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from qtunnel.audit.answer import Answer, answer
from qtunnel.audit.head import SignedHead, key_name
from qtunnel.audit.verify import LogFile, Report
from qtunnel.audit.verify import verify as verify_log
from qtunnel.auditlog.files import HEAD_FILE, files_of, read_head, read_log
from qtunnel.auditlog.times import asked, seconds_of
from qtunnel.cli import completion
from qtunnel.config import Config, load_config
from qtunnel.control.words import PROTECTION_WORDS
from qtunnel.errors import EXIT_FAILURE, AuditError
from qtunnel.identity import Identity

ROTATIONS = 3
"""Times that a log which gets another file while it is read is read again."""

_PATH = click.Path(readable=False, path_type=Path)


@click.group()
def audit() -> None:
    """What is on record: keys, protection, what operators did, alarms."""


def log_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what says which log it is."""
    for option in (
        click.option("--config", "-c", type=_PATH, metavar="FILE", help="The gateway's file: its log, key and head."),
        click.option(
            "--head", "heads", type=_PATH, metavar="FILE", multiple=True, help="A head that was kept elsewhere."
        ),
        click.option(
            "--key", "keys", metavar="NAME", multiple=True, help="The key that signs, as 'qtunnel audit key' names it."
        ),
        click.argument("files", type=_PATH, nargs=-1, metavar="[FILE]..."),
    ):
        command = option(command)
    return command


@audit.command()
@log_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def verify(
    files: Sequence[Path], config: Path | None, heads: Sequence[Path], keys: Sequence[str], as_json: bool
) -> None:
    """Find every line of the log that was removed, changed, moved or cut off.

    Give its files, or the gateway's --config. Exits with 0 where all is as it was written, 1 where something is not,
    and 2 for what cannot be read.
    """
    report = _verified(files, config, heads, keys)
    if as_json:
        click.echo(json.dumps(_document(report), indent=2))
    else:
        _tell(report)
    sys.exit(0 if report.good else EXIT_FAILURE)


@audit.command()
@log_options
@click.option("--peer", required=True, metavar="NAME", help="Whose tunnel.", shell_complete=completion.peers)
@click.option("--at", "at", required=True, metavar="TIME", help="As 2026-01-31T14:05; UTC unless it says otherwise.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(
    files: Sequence[Path], config: Path | None, heads: Sequence[Path], keys: Sequence[str], peer: str, at: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Say what protected a tunnel at a moment.

    The log is verified first; where it is not as it was written the answer says so, and the exit code is 1.
    """
    moment = asked(at)
    report = _verified(files, config, heads, keys)
    known = {line.record.peer for line in report.lines if line.record is not None} - {None}
    if peer not in known:
        names = _plain(", ".join(sorted(str(name) for name in known))) or "none"
        raise AuditError(f"the log has nothing of a peer {peer!r}; it has: {names}")
    found = answer(report.lines, peer, moment, seconds_of)
    if as_json:
        click.echo(json.dumps(_answer(found, report), indent=2))
    else:
        click.echo("\n".join(map(_plain, _words(found))))
    for finding in report.findings:
        click.echo(_plain(f"not as it was written: {finding}"), err=True)
    sys.exit(0 if report.good else EXIT_FAILURE)


@audit.command()
@click.option("--config", "-c", type=_PATH, metavar="FILE", required=True, help="The gateway's file.")
def head(config: Path) -> None:
    """Print the newest signed head, to be kept where nobody who can change the log can change it too.

    'qtunnel audit verify --head FILE' finds with it what was cut off since.
    """
    kept = read_head(load_config(config, check_files=False).node.state_dir / HEAD_FILE)
    click.echo(kept.to_text(), nl=False)


@audit.command()
@click.argument("identity", type=_PATH)
def key(identity: Path) -> None:
    """Print the name of the key by which the gateway with this secret IDENTITY file signs its log."""
    click.echo(key_name(Identity.load(identity).audit_key().public))


def _verified(files: Sequence[Path], config: Path | None, heads: Sequence[Path], keys: Sequence[str]) -> Report:
    if not files and config is None:
        raise click.UsageError("which log? give its files, or --config FILE of the gateway")
    kept = [(str(path), read_head(path)) for path in heads]
    trusted = set(keys)
    if config is not None:
        settings = load_config(config, check_files=False)
        kept += _kept(settings)
        trusted.add(key_name(Identity.load(settings.node.identity).audit_key().public))
        if not files:
            return verify_log(_whole_log(settings), heads=kept, keys=trusted)
    return verify_log([read_log(path) for path in dict.fromkeys(files)], heads=kept, keys=trusted)


def _kept(config: Config) -> list[tuple[str, SignedHead]]:
    """Read before the log is: a daemon that runs goes on writing."""
    path = config.node.state_dir / HEAD_FILE
    return [(str(path), read_head(path))] if path.exists() else []


def _whole_log(config: Config) -> list[LogFile]:
    if config.audit is None:
        raise AuditError("this configuration has no audit section, so its gateway keeps no audit log")
    path = config.audit.path
    for _ in range(ROTATIONS):
        names = files_of(path)
        found = [read_log(name) for name in names]
        if files_of(path) == names:
            break
    if not found:
        raise AuditError(f"{path}: no audit log there yet; the daemon makes it when it starts")
    return found


def _tell(report: Report) -> None:
    for finding in report.findings:
        click.echo(_plain(str(finding)))
    for note in report.notes:
        click.echo(_plain(f"note: {note}"))
    if not report.records:
        click.echo("no records")
    elif report.good:
        signed = f"{report.heads} signatures hold" if report.heads != 1 else "1 signature holds"
        click.echo(f"as it was written: records {report.first} to {report.last}; {signed}, "
                   f"{report.unsigned} records are newer than the last of them")  # fmt: skip
    else:
        click.echo(f"NOT as it was written: {len(report.findings)} findings in records {report.first} to {report.last}")


def _plain(line: str) -> str:
    """Without what a terminal obeys: who wrote the log may not be the daemon, and would have it hide what is said."""
    return "".join(c if c.isprintable() else "?" for c in line)


def _document(report: Report) -> dict[str, Any]:
    return {
        "version": 1,
        "good": report.good,
        "records": report.records,
        "first": report.first,
        "last": report.last,
        "signatures": report.heads,
        "unsigned": report.unsigned,
        "keys": report.keys,
        "findings": [
            {"what": its.what, "file": its.place.file, "line": its.place.line, "words": its.words}
            for its in report.findings
        ],
        "notes": report.notes,
    }


def _answer(found: Answer, report: Report) -> dict[str, Any]:
    return {
        "version": 1,
        "peer": found.peer,
        "at": found.at,
        "state": found.state,
        "protection": found.protection,
        "epoch": found.epoch,
        "sources": list(found.sources),
        "key_ids": list(found.key_ids),
        "chained": found.chained,
        "since": found.since,
        "until": found.until,
        "lines": [{"file": place.file, "line": place.line} for place in found.places],
        "remarks": list(found.remarks),
        "verified": report.good,
    }


STATES = {
    "stopped": "not protected: the daemon was stopped",
    "engine-down": "not protected: the engine was not there",
    "removed": "not protected: there was no such peer",
    "unknown": "not known",
}


def _words(found: Answer) -> list[str]:
    level = found.protection
    words = STATES.get(found.state) or PROTECTION_WORDS.get(level or "", level or "not known")
    lines = [f"{found.at}, tunnel with {found.peer}: {words}"]
    if found.state == "known" and found.epoch is not None:
        chained = ", built on the epochs before" if found.chained else ", not built on the epochs before"
        lines.append(f"  epoch {found.epoch} of {', '.join(found.sources)}{chained}")
        lines += [f"  QKD key {key}" for key in found.key_ids]
    if found.since is not None:
        lines.append(f"  since {found.since}, until {found.until or 'the end of the log'}")
    lines += [f"  {remark}" for remark in found.remarks if remark]
    lines += [f"  as {place} says" for place in found.places]
    return lines
