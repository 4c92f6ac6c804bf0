"""Going to the background: the starting command returns when the child is ready, or says why it is not."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import NoReturn

from qtunnel.errors import EngineError, QtunnelError
from qtunnel.netio import defects

_READY = b"\0"

log = logging.getLogger(__name__)


def run_in_background(start: Callable[[], Callable[[], None]]) -> None:
    """Fork; the child calls ``start`` and, once this process has returned, what that gave.

    Raises in this process the child's ``QtunnelError`` as an ``EngineError``, or one that says how the child died.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _be_child(start, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        report = pipe.read()
    if report == _READY:
        return
    _, status = os.waitpid(child, 0)
    text = report.removeprefix(_READY).decode(errors="replace").strip()
    raise EngineError(text or f"the engine ended before it was ready (status {os.waitstatus_to_exitcode(status)})")


def _be_child(start: Callable[[], Callable[[], None]], writer: int) -> NoReturn:
    code = 1
    try:
        os.setsid()
        run = start()
        os.chdir("/")
        _detach_standard_streams()
        os.write(writer, _READY)
        os.close(writer)
        writer = -1  # its number may be that of something else from now on
        run()
        code = 0
    except QtunnelError as error:
        if writer >= 0:  # else the log has it
            _report(writer, str(error))
    except OSError as error:
        _report(writer, f"{error.strerror or error}")
    except Exception as error:
        _report(writer, f"a defect of qtunnel: {defects.words(error)}")
    finally:
        os._exit(code)  # never back into the caller's program


def _report(writer: int, text: str) -> None:
    """To the command that waits, and once that has returned to the log."""
    if writer >= 0:
        os.write(writer, text.encode())
    else:
        log.error("msg=%r", text)


def _detach_standard_streams() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
