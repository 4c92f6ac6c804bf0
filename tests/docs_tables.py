"""Tables and formulas of a Markdown document, by the number of the section that they stand in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_HEADING = re.compile(r"#{2,3} ([0-9.]+) ")
_CELL = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Table:
    """One table. rows: by the header's names; code marks and escapes are taken off."""

    header: tuple[str, ...]
    rows: tuple[dict[str, str], ...]

    def column(self, name: str) -> list[str]:
        return [row[name] for row in self.rows]

    def mapping(self, key: str, value: str) -> dict[str, str]:
        """Two columns as a dictionary; a key stands once."""
        found = {row[key]: row[value] for row in self.rows}
        assert len(found) == len(self.rows)
        return found


class Document:
    """The text as a whole with white space made one, and the tables of each section."""

    def __init__(self, path: Path) -> None:
        text = path.read_text("utf-8")
        self.prose = " ".join(text.split())
        self.tables: dict[str, list[Table]] = {}
        section, lines = "", list[str]()
        for line in [*text.splitlines(), ""]:
            heading = _HEADING.match(line)
            if heading:
                section = heading[1]
            if line.startswith("|"):
                lines.append(line)
            elif lines:
                self.tables.setdefault(section, []).append(_table(lines))
                lines = []

    def table(self, section: str, *header: str) -> Table:
        """The one table of the section whose header begins so."""
        (found,) = [table for table in self.tables[section] if table.header[: len(header)] == header]
        return found


def _table(lines: list[str]) -> Table:
    header, _, *rows = [tuple(_clean(cell) for cell in _CELL.split(line)[1:-1]) for line in lines]
    assert all(len(row) == len(header) for row in rows), f"a row of another width than its header: {lines[0]}"
    return Table(header, tuple(dict(zip(header, row, strict=True)) for row in rows))


def _clean(cell: str) -> str:
    return cell.strip().replace("\\|", "|").replace("`", "")


def number(text: str) -> float:
    """``1,232``, ``0.5 s`` or ``2^32``."""
    digits = text.removesuffix(" s").replace(",", "")
    base, power, exponent = digits.partition("^")
    return float(int(base) ** int(exponent)) if power else float(digits)
