"""Text in the macros of man(7), so that groff and mandoc have nothing to say against it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

WIDTH = 78
"""Columns of a line of the source: what mandoc calls good style."""

_SPECIAL = {"\\": "\\e", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", "-": "\\-"}
"""What a terminal has to show as it stands, to be copied from there (groff_char(7))."""


def escape(text: str) -> str:
    """The text as it is shown, on one line."""
    return "".join(_SPECIAL.get(sign, sign if sign.isascii() else f"\\[u{ord(sign):04X}]") for sign in text)


def _sourced(text: str) -> str:
    """A line of the source, which must not begin as a macro does."""
    return f"\\&{text}" if text.startswith((".", "\\(aq")) else text


def filled(text: str) -> list[str]:
    """A paragraph, broken anywhere between words."""
    plain = textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
    return [_sourced(escape(line)) for line in plain]


def verbatim(lines: Iterable[str]) -> list[str]:
    """Lines that are shown as they stand."""
    return [".nf", *(_sourced(escape(line)) for line in lines), ".fi"]


def paragraphs(text: str) -> list[str]:
    """A help text, with its paragraphs, each behind ``.PP``; one that begins with click's ``\\b`` as it stands."""
    rows: list[str] = []
    for part in re.split(r"\n\s*\n", text.strip()):
        lines = textwrap.dedent(part).split("\n")
        rows.append(".PP")
        rows += verbatim(lines[1:]) if lines[0].strip() == "\b" else filled(" ".join(map(str.strip, lines)))
    return rows


def title(name: str, section: int, date: str, version: str) -> list[str]:
    return [f'.TH "{escape(name.upper())}" "{section}" "{date}" "qtunnel {version}" "qtunnel"']


def heading(words: str, level: str = "SH") -> str:
    return f'.{level} "{escape(words)}"'


def bold(words: str) -> str:
    return _sourced(f"\\fB{escape(words)}\\fR")


def tagged(tag: str, text: list[str]) -> list[str]:
    """An entry of a list; tag: a line of the source, as ``bold`` makes it."""
    return [".TP", tag, *(text or ["\\&"])]


def page(rows: Iterable[str]) -> str:
    """The text of a file; no paragraph begins right behind a heading, which begins one itself."""
    kept: list[str] = []
    for row in rows:
        if row != ".PP" or not kept[-1].startswith((".SH", ".SS")):
            kept.append(row)
    return "\n".join(kept) + "\n"
