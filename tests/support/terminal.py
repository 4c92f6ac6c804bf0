"""A program on a terminal of its own, a real pseudo-terminal with job control, and what it shows there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pyte

from tests.support.netns import stop, wait_until

OTHER_SCREEN, OWN_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
CURSOR_OFF, CURSOR_ON = "\x1b[?25l", "\x1b[?25h"
BOUND = 30.0
"""Seconds in which a program has shown what it is waited for."""


class Terminal:
    """``raw`` is all that came from the program, with its control sequences."""

    def __init__(self, master: int, process: subprocess.Popen[str], columns: int, lines: int) -> None:
        self.process = process
        self._master = master
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self._raw = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            while data := os.read(self._master, 65536):
                with self._lock:
                    self._raw += data
                    self._stream.feed(data)

    @property
    def raw(self) -> str:
        with self._lock:
            return self._raw.decode(errors="replace")

    @property
    def lines(self) -> list[str]:
        """The screen as it is now; a picture that is drawn just now may be there by half."""
        with self._lock:
            return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def colours(self, words: str) -> set[str]:
        """Of the first place where these words stand."""
        with self._lock:
            for row, line in enumerate(self._screen.display):
                if (at := line.find(words)) >= 0:
                    return {self._screen.buffer[row][column].fg for column in range(at, at + len(words))}
        return set()

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        with self._lock:
            self._screen.resize(lines, columns)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def shows(self, words: str, bound: float = BOUND) -> str:
        """The screen once these words are on it."""
        try:
            return str(wait_until(lambda: self.text if words in self.text else "", words, bound))
        except AssertionError as error:
            raise AssertionError(f"{error}; the terminal shows:\n{self.text}") from None

    def end(self, bound: float = BOUND) -> int:
        """Wait for the program's own end; its exit code."""
        code = self.process.wait(bound)
        self._reader.join(bound)
        return code

    def modes(self) -> list[object]:
        """Of the terminal (termios(3)), which a program may change."""
        return termios.tcgetattr(self._master)


@contextmanager
def terminal(
    *command: str, environment: dict[str, str] | None = None, columns: int = 80, lines: int = 24
) -> Iterator[Terminal]:
    """Run a command on a terminal. environment: in the place of ours, but for TERM."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    variables = {
        name: value
        for name, value in (environment or dict(os.environ)).items()
        if name not in SIZES or name in (environment or {})
    }
    process = subprocess.Popen(
        ["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave,
        env={"TERM": "xterm-256color", "LANG": "C.UTF-8"} | variables, text=True,
    )  # fmt: skip
    os.close(slave)
    made = Terminal(master, process, columns, lines)
    try:
        yield made
    finally:
        stop(process)
        os.close(master)


SIZES = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM"}
"""What would speak over the terminal's own word."""
