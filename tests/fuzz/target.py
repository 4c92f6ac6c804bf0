"""What a target of fuzzing is, and what every one of them promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from qtunnel.errors import QtunnelError


@dataclass(frozen=True, slots=True)
class Target:
    """run: takes an input, and checks what has to hold. allowed: the errors that it may raise. limit: bytes of the
    largest input. words: what libFuzzer may put in, so that it need not guess. seconds: that one input may take under
    atheris, on a machine that others use as well."""

    run: Callable[[bytes], None]
    allowed: tuple[type[BaseException], ...] = ()
    limit: int = 512
    words: tuple[bytes, ...] = field(default=())
    seconds: int = 10


def check(target: Target, data: bytes) -> None:
    """One input. What is raised from here is a finding."""
    try:
        target.run(data)
    except target.allowed as error:
        if isinstance(error, QtunnelError):
            say(str(error))


def say(words: str) -> None:
    """See that words for people are fit for a terminal and a log, whatever they quote."""
    for line in words.split("\n"):
        assert line.isprintable(), f"not printable: {line[:300]!r}"
