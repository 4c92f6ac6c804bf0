"""Structured logging: one event, one line, as ``key=value`` pairs or as a JSON object.

``get("daemon").info("rekey.done", peer="bob", epoch=7)`` gives
``ts=2026-01-31T14:05:00.123Z level=info event=rekey.done peer=bob epoch=7 logger=daemon``.
A ``Secret`` is printed redacted and bytes only by their number, wherever they stand in a field. Lines of other
libraries, which use ``logging``, come out in the same form with ``event=log``.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TextIO

from qtunnel.errors import QtunnelError
from qtunnel.secret import Secret

LogFormat = Literal["text", "json"]
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

ROOT = "qtunnel"
MAX_TEXT = 8192
"""Characters of one value; a longer one is cut, so that a hostile peer or server cannot fill the log with one line."""

REPEAT_AFTER = 10.0
"""Seconds until the same trouble is told again."""

MAX_DEPTH = 5
"""Levels of lists and mappings in a field."""

RESERVED = ("ts", "level", "event", "logger")

SYSLOG_PREFIX = {logging.DEBUG: "<7>", logging.INFO: "<6>", logging.WARNING: "<4>", logging.ERROR: "<3>"}
"""Priorities that journald reads off the beginning of a line (sd-daemon(3))."""

_BARE = re.compile(r"[A-Za-z0-9._:/@+,%\[\]()#*~^|;!?&-]+", re.ASCII)
_KEY = re.compile(r"[^A-Za-z0-9_.-]", re.ASCII)


def plain(value: object, depth: int = 0) -> Any:
    """A field's value as JSON can hold it, without any key material."""
    if isinstance(value, Enum):
        return plain(value.value if isinstance(value.value, str) else value.name.lower(), depth)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "…"
    if isinstance(value, Secret):
        return repr(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{memoryview(value).nbytes} bytes>"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, BaseException):
        return plain(str(value) or type(value).__name__)
    if depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {str(plain(name, MAX_DEPTH)): plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item, depth + 1) for item in value]
    try:
        return plain(str(value))
    except Exception as error:  # a log line must not fail on a defect in somebody's __str__
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _text(value: Any) -> str:
    """A plain value in a ``key=value`` line: bare where that is unambiguous, else quoted and escaped as in JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        joined = ",".join(str(item) for item in value)
        if not any("," in str(item) for item in value):
            value = joined
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False)
    return value if _BARE.fullmatch(value) else _escaped(value)


def _escaped(text: str) -> str:
    # json.dumps leaves DEL, C1 controls, bidirectional marks and line separators as they are: terminals obey some.
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else _code(ord(c)) for c in quoted)


def _code(point: int) -> str:
    if point <= 0xFFFF:
        return f"\\u{point:04x}"
    point -= 0x10000
    return f"\\u{0xD800 + (point >> 10):04x}\\u{0xDC00 + (point & 0x3FF):04x}"


class LineFormatter(logging.Formatter):
    """Makes the one line of a record. prefix: a syslog priority in front; times: a timestamp in text lines."""

    def __init__(self, style: LogFormat, *, prefix: bool = False, times: bool = True) -> None:
        super().__init__()
        self._as = style
        self._prefix = prefix
        self._times = times

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        fields = getattr(record, "qtunnel_fields", None)
        event = record.msg if fields is not None else "log"
        line: dict[str, Any] = {
            "ts": moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z",
            "level": "error" if record.levelno >= logging.ERROR else record.levelname.lower(),
            "event": plain(event),
        }
        if fields is None:
            line["message"] = self._message(record)
        else:
            for name, value in fields.items():
                key = _KEY.sub("_", str(name)) or "_"
                line[f"{key}_" if key in RESERVED else key] = plain(value)
        line["logger"] = record.name.removeprefix(f"{ROOT}.")
        if record.exc_info and record.exc_info[0] is not None:
            line["traceback"] = plain("".join(traceback.format_exception(*record.exc_info)))
        start = SYSLOG_PREFIX.get(record.levelno, "<6>") if self._prefix else ""
        if self._as == "json":
            return start + json.dumps(line)
        if not self._times:
            del line["ts"]
        return start + " ".join(f"{name}={_text(value)}" for name, value in line.items())

    @staticmethod
    def _message(record: logging.LogRecord) -> Any:
        try:
            return plain(record.getMessage())
        except Exception as error:  # wrong arguments of a library's log call
            return f"{type(error).__name__} in the log call {record.pathname}:{record.lineno}"


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines; a stream that is gone (closed pipe, full disk) does not disturb the tunnels."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # overridden
        pass


class Logger:
    """Logs events with fields. Fields are public facts: peers, epochs, key_IDs, errors; never key material."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def _log(self, level: int, event: str, fields: dict[str, object], trace: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, exc_info=trace, extra={"qtunnel_fields": fields})

    def debug(self, event: str, /, **fields: object) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self._log(logging.ERROR, event, fields)

    def defect(self, event: str, error: BaseException, /, **fields: object) -> None:
        """An error that was not foreseen: its traceback goes into the line, except of qtunnel's own errors."""
        known = isinstance(error, QtunnelError)
        self._log(logging.ERROR, event, {**fields, "error": error, "kind": type(error).__name__}, trace=not known)


def get(name: str) -> Logger:
    """The logger of a component, e.g. ``daemon``, ``kme``, ``engine``."""
    return Logger(logging.getLogger(f"{ROOT}.{name}"))


def under_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether ``stream`` goes straight to systemd's journal ($JOURNAL_STREAM of systemd.exec(5))."""
    try:
        device, inode = (int(part) for part in environ.get("JOURNAL_STREAM", "").split(":"))
        status = os.fstat(stream.fileno())
    except (ValueError, OSError, AttributeError):
        return False
    return (status.st_dev, status.st_ino) == (device, inode)


class _Accepting(logging.Filter):
    """asyncio tells of a connection that it cannot accept for want of descriptors or memory with a traceback, a hundred
    times a second. This leaves a line in ``REPEAT_AFTER`` of it, with the remedy."""

    def __init__(self) -> None:
        super().__init__()
        self._said = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        if not str(record.msg).startswith("socket.accept() out of system resource"):
            return True
        if record.created - self._said < REPEAT_AFTER and record.created >= self._said:
            return False
        self._said = record.created
        error = record.exc_info[1] if record.exc_info else None
        reason = str(getattr(error, "strerror", None) or "out of system resources").lower()
        record.msg, record.args = (
            f"connections cannot be accepted: {reason}; raise the limit (LimitNOFILE, ulimit -n)",
            (),
        )
        record.exc_info = record.exc_text = None
        return True


def configure(
    style: LogFormat = "text",
    level: str = "info",
    stream: TextIO | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Send all logging to ``stream`` (stderr by default), replacing what was set up before.

    level: debug, info, warning or error. Other libraries' loggers stay at warning unless debug is asked for. In the
    journal, lines carry their priority, and text lines no time of their own, as the journal has both.
    """
    target = sys.stderr if stream is None else stream
    journal = under_journal(target, os.environ if environ is None else environ)
    handler = _Handler(target)
    handler.setFormatter(LineFormatter(style, prefix=journal, times=not journal))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level] if level in ("debug", "error") else logging.WARNING)
    logging.getLogger(ROOT).setLevel(LEVELS[level])
    logging.getLogger("asyncio").filters[:] = [_Accepting()]
    logging.captureWarnings(True)
