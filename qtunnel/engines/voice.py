"""What an engine's process says, as log records: a traceback is one of them, and each has the level it deserves."""

from __future__ import annotations

import re
from collections.abc import Callable

from qtunnel.telemetry.log import Logger

Say = Callable[[str], None]
"""Takes one record; only a traceback has several lines."""

MAX_LINES = 60
"""Lines of one traceback, half of them from its end; a recursion that never ends has a thousand, all alike."""

_BEGINNINGS = ("Traceback (most recent call last):", "+ Exception Group Traceback", "panic: ", "fatal error: ")
_TO_THE_END = ("panic: ", "fatal error: ")
"""A Go program says its stack in lines that are not indented, and ends."""
_LEVEL = re.compile(r"(?:\blevel=|^)(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
_RECORD_LEVELS = {"DEBUG": "debug", "INFO": "info", "WARNING": "warning", "ERROR": "error", "CRITICAL": "error"}


class Paragraphs:
    """Joins the lines of a traceback; every other line is passed on as it comes."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._lines: list[str] = []
        self._left_out = 0
        self._to_the_end = False

    def line(self, line: str) -> None:
        """One line, with its indentation."""
        text = line.rstrip()
        if not text.strip():
            return
        if self._lines:
            self._lines.append(text)
            if len(self._lines) > MAX_LINES:
                del self._lines[MAX_LINES // 2]
                self._left_out += 1
            if text[0].isspace() or self._to_the_end:
                return
            self.end()  # the error itself, the only line of a traceback that is not indented
        elif text.strip().startswith(_BEGINNINGS):
            self._lines = [text]
            self._to_the_end = text.startswith(_TO_THE_END)
        else:
            self._say(text.strip())

    def end(self) -> None:
        """Nothing more comes, for now."""
        lines, self._lines = self._lines, []
        left_out, self._left_out = self._left_out, 0
        if left_out:
            lines.insert(MAX_LINES // 2, f"  ... {left_out} lines left out")
        if lines:
            self._say("\n".join(lines))


def log_to(logger: Logger, **fields: object) -> Say:
    """Logs records as ``engine.says``: a traceback as an error, the rest at the level that it names, else as info."""

    def say(text: str) -> None:
        lines = text.splitlines()
        if len(lines) > 1:
            summary = lines[0] if lines[0].startswith(_TO_THE_END) else lines[-1].strip()
            logger.error("engine.says", **fields, line=summary, traceback=text)
            return
        named = _LEVEL.search(text)
        getattr(logger, _RECORD_LEVELS[named[1]] if named else "info")("engine.says", **fields, line=text)

    return say
