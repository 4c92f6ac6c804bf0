"""qtunnel(1), and a page for each of its commands with all that is below it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from qtunnel import __version__
from qtunnel.cli.main import SUMMARIES, cli
from qtunnel.manual.roff import bold, filled, heading, page, paragraphs, tagged, title

SECTION = 1

EXIT_CODES = (
    ("0", "It is as it should be; for qtunnel status: every peer shown is protected as its policy asks."),
    ("1", "It is not, or something failed. The last line on standard error says what, and what to do."),
    ("2", "Wrong usage, or a configuration or a file that cannot be used. Nothing was changed."),
    ("3", "Nobody answers: no daemon, no KME, no broker."),
)
FILES = (
    ("/etc/qtunnel/NAME.yaml", "The configuration of the gateway NAME, see qtunnel.yaml(5)."),
    ("/etc/qtunnel/NAME.secrets/", "Its secret files, for root alone; systemd hands them to the service."),
    ("/var/lib/qtunnel/NAME/", "What has to survive a restart, and the audit log."),
    ("/run/qtunnel/NAME.sock", "The daemon's control socket."),
)
ENVIRONMENT = (
    ("NO_COLOR", "Where it is set and not empty, no colour, and qtunnel status --watch draws nothing again."),
    ("OQS_INSTALL_PATH", "The prefix of the library liboqs, for KEMs other than ML-KEM."),
)
SERVICE = """\
As a service the gateway of /etc/qtunnel/NAME.yaml is the unit qtunnel@NAME, and its engine, which goes on while the \
daemon is started anew, is qtunnel-engine@NAME: systemctl enable --now qtunnel.target qtunnel@NAME."""


def pages(date: str) -> Iterator[tuple[str, str]]:
    """Name of the file and its text, of each page. date: as YYYY-MM-DD."""
    top = click.Context(cli, info_name="qtunnel")
    yield f"qtunnel.{SECTION}", _top(top, date)
    for name in cli.list_commands(top):
        command = cli.get_command(top, name)
        assert command is not None
        if not command.hidden:
            yield f"qtunnel-{name}.{SECTION}", _command(command, click.Context(command, top, name), date)


def _top(context: click.Context, date: str) -> str:
    names = [f"qtunnel-{name}" for name in SUMMARIES]
    return page([
        *title("qtunnel", SECTION, date, __version__),
        heading("NAME"), f"qtunnel \\- {_summary(cli)}",
        heading("SYNOPSIS"), *_synopsis(cli, context),
        heading("DESCRIPTION"), *paragraphs(_help(cli)), *paragraphs(SERVICE),
        heading("COMMANDS"),
        *(row for name, its in SUMMARIES.items() for row in tagged(f"{bold(f'qtunnel-{name}')}(1)", filled(its))),
        heading("OPTIONS"), *_options(cli, context),
        heading("EXIT STATUS"), *_list(EXIT_CODES),
        heading("ENVIRONMENT"), *_list(ENVIRONMENT),
        heading("FILES"), *_list(FILES),
        heading("SEE ALSO"), *_see([*names, "wg", "systemctl"]),
    ])  # fmt: skip


def _command(command: click.Command, context: click.Context, date: str) -> str:
    name = f"qtunnel-{context.info_name}"
    rows = [
        *title(name, SECTION, date, __version__),
        heading("NAME"), f"{name.replace('-', chr(92) + '-')} \\- {_summary(command)}",
        heading("SYNOPSIS"), *_synopsis(command, context),
        heading("DESCRIPTION"), *paragraphs(_help(command)),
    ]  # fmt: skip
    options = _options(command, context)
    if options:
        rows += [heading("OPTIONS"), *options]
    below = list(_below(command, context))
    if below:
        rows.append(heading("COMMANDS"))
    for its, inner in below:
        rows += [
            heading(inner.command_path, "SS"),
            *_synopsis(its, inner),
            *paragraphs(_help(its)),
            *_options(its, inner),
        ]
    return page([*rows, heading("SEE ALSO"), *_see(["qtunnel"])])


def _below(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """All commands of a group, those of its groups included."""
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(context):
        its = command.get_command(context, name)
        if its is not None and not its.hidden:
            inner = click.Context(its, context, name)
            yield its, inner
            yield from _below(its, inner)


def _help(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "").partition("\f")[0]


def _summary(command: click.Command) -> str:
    (row,) = [" ".join(filled(command.get_short_help_str(1000).rstrip(".")))]
    return row


def _synopsis(command: click.Command, context: click.Context) -> list[str]:
    return [f"{bold(context.command_path)} {' '.join(filled(' '.join(command.collect_usage_pieces(context))))}"]


def _options(command: click.Command, context: click.Context) -> list[str]:
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1] and ("--help" not in parameter.opts or command is cli):
            rows += tagged(bold(record[0]), filled(record[1]))
    return rows


def _list(entries: tuple[tuple[str, str], ...]) -> list[str]:
    return [row for tag, text in entries for row in tagged(bold(tag), filled(text))]


def _see(names: list[str]) -> list[str]:
    others = [f"{bold('qtunnel.yaml')}(5)"]
    section = {"wg": 8}
    others += [f"{bold(name)}({section.get(name, SECTION)})" for name in names]
    return [*(f"{other}," for other in others[:-1]), others[-1], ".PP", "/usr/share/doc/qtunnel"]
