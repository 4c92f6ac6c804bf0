"""Decisions read from an input's bytes, as hypothesis draws them and atheris's FuzzedDataProvider does, but without
either: what a campaign found is replayed by who has no atheris. An input that is used up goes on with zeros."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

DEEP = "\0deep"
"""Stands in a document for a list in a list in a list, which ``dumps`` could not write."""

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 8, 255, 256, 65535, 65536, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64,
    -(2**63),
    10**30, 10**400, 0.0, -0.0, 0.5, 1.5, -0.1, 1e15, 1e16, 1e308, float("inf"), float("-inf"), float("nan"),
    "", " ", "0", "1", "true", "a", "A" * 300, "-", ".", "/", "..", "\0", "\x1b[31m", "\n", "\u2028", "\ud800", "é",
    "𝟙", "ﬁ",
    "\u202e", "%s", "{}", "::1", "127.0.0.1", "AA==", "AAAA", "/" * 43 + "=", "0" * 64, [], {}, [[]], [{}],
    {"": None}, [None],
    {"a": {"b": [1]}}, DEEP,
)  # fmt: skip
"""Values that readers of JSON are seldom written for."""


class Draw:
    """Takes decisions from the front of an input."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        """Bytes that are not used yet."""
        return max(0, len(self._data) - self._at)

    def take(self, size: int) -> bytes:
        """So many bytes, zeros behind the end."""
        piece = self._data[self._at : self._at + size]
        self._at += size
        return piece.ljust(size, b"\0")

    def rest(self) -> bytes:
        return self.take(self.left)

    def number(self, low: int, high: int) -> int:
        """From low to high, both included; low where the input is used up."""
        span = high - low
        return low + int.from_bytes(self.take((span.bit_length() + 7) // 8), "little") % (span + 1)

    def flag(self, of: int = 2) -> bool:
        """True once in ``of``; False where the input is used up."""
        return self.number(0, of - 1) == of - 1

    def choice(self, among: Sequence[T]) -> T:
        """The first where the input is used up."""
        return among[self.number(0, len(among) - 1)]

    def piece(self, most: int) -> bytes:
        """Up to so many bytes, no more than there are."""
        return self.take(min(self.number(0, most), self.left))

    def text(self, most: int) -> str:
        """Any text, but no lone surrogates."""
        return self.piece(most).decode("utf-8", "replace")


def spoiled(draw: Draw, data: bytes, most: int = 3) -> bytes:
    """The bytes with up to so many changes: flipped, put in, left out, doubled, cut."""
    for _ in range(draw.number(0, most)):
        at = draw.number(0, min(len(data), 65535))
        match draw.number(0, 5):
            case 0:
                data = data[:at] + bytes([draw.number(0, 255)]) + data[at + 1 :]
            case 1:
                data = data[:at] + draw.piece(8) + data[at:]
            case 2:
                data = data[:at] + data[at + draw.number(1, 8) :]
            case 3:
                data = data[:at] + data[max(0, at - draw.number(1, 32)) :]
            case 4:
                data = data[:at]
            case _:
                if at < len(data):
                    data = data[:at] + bytes([data[at] ^ 1 << draw.number(0, 7)]) + data[at + 1 :]
    return data


def edited(draw: Draw, document: Any, odd: Sequence[Any] = (), most: int = 4) -> Any:
    """A document of JSON's types with up to so many changes. odd: values to put in besides ``ODD``."""
    root = [copy.deepcopy(document)]
    for _ in range(draw.number(0, most)):
        holder, key = _place(draw, root)
        value = _odd(draw, odd)
        match draw.number(0, 5):
            case 0 | 1:
                holder[key] = value
            case 2:
                if holder is not root:
                    del holder[key]
            case 3:
                if isinstance(holder, dict):
                    holder[draw.text(12)] = value
                elif holder is not root:
                    holder.append(value)
            case 4:
                if isinstance(holder, dict):
                    holder[key.swapcase()] = value
                elif holder is not root:
                    holder += holder[: draw.number(0, 300)]
            case _:
                holder[key] = [holder[key]] if draw.flag() else {"": holder[key]}
    return root[0]


def _place(draw: Draw, root: list[Any]) -> tuple[Any, Any]:
    """A value somewhere in the document, as what holds it and where."""
    holder: Any = root
    key: Any = 0
    for _ in range(8):
        inner = holder[key]
        if not isinstance(inner, dict | list) or not inner or draw.flag(6):
            break
        holder, key = inner, draw.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
    return holder, key


def _odd(draw: Draw, more: Sequence[Any]) -> Any:
    match draw.number(0, 3):
        case 0 | 1 if more:
            return copy.deepcopy(draw.choice(more))
        case 2:
            return draw.text(40)
    return copy.deepcopy(draw.choice(ODD))


def dumps(draw: Draw, document: Any) -> bytes:
    """As JSON, perhaps with names twice, deeper than anybody reads, in another encoding, or spoiled."""
    text = json.dumps(document, ensure_ascii=not draw.flag(4))
    deep = draw.choice((30, 200, 900, 990, 1100, 100_000))
    opening, closing = draw.choice((("[", "]"), ('{"a":', "}"), ('[{"":', "}]")))
    text = text.replace(json.dumps(DEEP), opening * deep + "1" + closing * deep)
    data = text.encode(
        draw.choice(("utf-8", "utf-8", "utf-8", "utf-8", "utf-16", "utf-32", "utf-8-sig")), "surrogatepass"
    )
    return spoiled(draw, data) if draw.flag(4) else data


def document(data: bytes, template: Any, odd: Sequence[Any] = ()) -> bytes:
    """From an input: itself, or the template as JSON with changes in it."""
    if data[:1] < b"\x40":
        return data[1:]
    draw = Draw(data[1:])
    return dumps(draw, edited(draw, template, odd))
