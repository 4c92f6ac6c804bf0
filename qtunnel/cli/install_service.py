"""``qtunnel install-service``: units, user and directories of the service."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from qtunnel.errors import ServiceError
from qtunnel.service import install
from qtunnel.service.places import CONFIGURATIONS, files

_PATH = click.Path(readable=False, path_type=Path)


@click.command("install-service")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--uninstall", is_flag=True, help="Take away what was put there; not /etc/qtunnel and /var/lib/qtunnel.")
@click.option(
    "--root", type=_PATH, default=Path("/"), help="Before all paths where files are written, as for a package."
)
@click.option("--program", type=_PATH, help="qtunnel as the units start it. Default: this one.")
@click.option("--etc", type=_PATH, default=CONFIGURATIONS, show_default=True, help="Where the configurations are.")
@click.option("--units", type=_PATH, help="Where the units go. Default: /etc/systemd/system.")
@click.option("--vendor", is_flag=True, help="Into the directories of packages.")
def install_service(
    dry_run: bool, uninstall: bool, root: Path, program: Path | None, etc: Path, units: Path | None, vendor: bool
) -> None:
    """Put the service's units in place, with its user and its directories; again changes nothing.

    Then qtunnel@NAME runs NAME.yaml of /etc/qtunnel.
    """
    here = root.absolute() == Path("/")
    program = _program(program)
    wanted = files(root.absolute(), program=program, etc=etc, vendor=vendor, units=units)
    if uninstall:
        busy = install.running() if here else []
        if busy and not dry_run:
            raise ServiceError(
                f"{', '.join(busy)} still run; stop them first: systemctl disable --now {' '.join(busy)}"
            )
        changed = install.uninstall(wanted, dry_run=dry_run, say=_say)
    else:
        problem = install.program_problem(program) if here else None
        if problem is not None:
            raise ServiceError(problem)
        changed = install.install(wanted, dry_run=dry_run, say=_say)
    if not changed:
        _say("nothing to do")
    elif here and not dry_run:
        install.tell_systemd(wanted, gone=uninstall, say=_say)
    if not uninstall and not dry_run and here:
        _say(
            f"put NAME.yaml into {etc}, its secret files into {etc}/NAME.secrets/, then: "
            "systemctl enable --now qtunnel.target qtunnel@NAME"
        )


def _program(given: Path | None) -> Path:
    if given is not None:
        return given.absolute()
    return Path(shutil.which("qtunnel") or sys.argv[0]).absolute()


def _say(line: str) -> None:
    click.echo(line)
