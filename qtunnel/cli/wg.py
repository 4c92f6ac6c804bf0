"""``qtunnel wg``: a userspace WireGuard interface in a process of its own."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import click

from qtunnel.constants import MAX_PROCESSES, UAPI_DIRECTORY
from qtunnel.errors import EngineError
from qtunnel.netio import defects
from qtunnel.netio.background import run_in_background
from qtunnel.netio.loop import open_loop
from qtunnel.netio.syslog import SOCKET as SYSLOG
from qtunnel.netio.syslog import SyslogHandler
from qtunnel.netio.tun import check_name
from qtunnel.process import guard_memory

GARBAGE = 50_000
"""Objects more than before until cycles are looked for: packets leave none, and a look takes as long as a burst."""

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "verbose": logging.DEBUG,
    "silent": logging.CRITICAL,
}
"""Level by name; the last two are wireguard-go's, which scripts set in LOG_LEVEL for any implementation."""

log = logging.getLogger("qtunnel.wg")


class _Level(click.Option):
    """LOG_LEVEL belongs to many programs: what it means to others alone must not keep the interface from its start."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        level = super().resolve_envvar_value(ctx)
        return level if level is not None and level.lower() in LEVELS else None


@click.command()
@click.argument("interface")
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground; log to stderr.")
@click.option(
    "--log-file", type=click.Path(readable=False, path_type=Path, dir_okay=False), help="Append log lines to this file."
)
@click.option(
    "--log-level",
    type=click.Choice(list(LEVELS), case_sensitive=False),
    cls=_Level,
    envvar="LOG_LEVEL",
    default="info",
    show_default=True,
    help="Also taken from the environment variable LOG_LEVEL, where that is one of these.",
)
@click.option(
    "--socket-dir",
    type=click.Path(readable=False, path_type=Path, file_okay=False),
    default=UAPI_DIRECTORY,
    show_default=True,
    help="Where the UAPI socket goes; wg(8) looks only in the default.",
)
@click.option(
    "--offload",
    type=click.Choice(["auto", "off"]),
    default="auto",
    show_default=True,
    help="Segmentation offload on the interface and on the network, as far as the kernel has it.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, MAX_PROCESSES),
    default=1,
    show_default=True,
    help="Processes that seal and open packets; more than one only where that many cores are to spare.",
)
def wg(
    interface: str,
    foreground: bool,
    log_file: Path | None,
    log_level: str,
    socket_dir: Path,
    offload: str,
    processes: int,
) -> None:
    """Create the WireGuard INTERFACE and serve it, in the background once it answers to wg(8).

    Configure it with 'wg set' or 'wg setconf', addresses with 'ip'. It ends, and the interface with it, on SIGTERM, or
    when its socket is removed.

    In the background it logs warnings and errors to syslog (/dev/log); for more, or where there is no syslog, name a
    --log-file.
    """
    check_name(interface)
    _set_up_logging(interface, log_file, log_level, to_stderr=foreground)
    guard_memory()
    socket_dir = socket_dir.absolute()

    def start() -> Callable[[], None]:
        loop = open_loop(interface, socket_dir, offload=offload == "auto", processes=processes)
        gc.freeze()  # what is loaded now stays; the collector need not walk it while packets wait
        gc.set_threshold(GARBAGE)

        def serve() -> None:
            try:
                log.info("msg=%r pid=%d", "ready", os.getpid())
                log.info("msg=%r", f"ending: {loop.run()}")
            except Exception as error:
                words = f"a defect of qtunnel ended the interface: {defects.words(error)}"
                log.error("msg=%r", words)
                raise EngineError(words) from None
            finally:
                loop.close()

        return serve

    if foreground:
        start()()
    else:
        run_in_background(start)


class _Voice(logging.StreamHandler[TextIO]):
    """To standard error, and once nobody reads that any more to syslog: as after the end of the daemon that did."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the base has this name
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)
            return
        handler = _syslog()
        handler.setFormatter(self.formatter)
        logging.getLogger("qtunnel").handlers[:] = [handler]
        if record.levelno >= handler.level:
            handler.handle(record)


def _syslog() -> logging.Handler:
    """For the background: warnings and errors to syslog, where there is one."""
    try:
        handler: logging.Handler = SyslogHandler(SYSLOG)
    except OSError:
        return logging.NullHandler()
    handler.setLevel(logging.WARNING)
    return handler


def _set_up_logging(interface: str, log_file: Path | None, level: str, *, to_stderr: bool) -> None:
    handler: logging.Handler
    stamp = "time=%(asctime)s.%(msecs)03d "
    if log_file is not None:
        try:
            handler = logging.FileHandler(log_file)
        except OSError as error:
            raise EngineError(f"log file {log_file}: {error.strerror}; choose a path that can be written") from None
    elif to_stderr:
        handler = _Voice(sys.stderr)
    else:
        handler, stamp = _syslog(), ""  # syslog has a time of its own
    line = f"{stamp}level=%(levelname)s interface={interface} %(message)s"
    handler.setFormatter(logging.Formatter(line, "%Y-%m-%dT%H:%M:%S"))
    root = logging.getLogger("qtunnel")
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level.lower()])
    root.propagate = False
