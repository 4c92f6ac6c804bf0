"""What docs/getting-started.md says to type, where, and what it says comes of it.

A fence ```` ```sh HOST [exit=N] ```` is run on HOST, and has to end with N (0 where it does not say); its first line is
``# HOST``, as readers do not see the info string. A fence ```` ```text ```` right behind it is all that it printed; in
it a line ``...`` stands for any lines, and what differs from run to run is compared by its form. ```` ```sh ```` alone
is not run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "getting-started.md"
HOSTS = ("alice", "bob")
_FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CHANGING = (
    (r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "KEY_ID"),
    (r"\b(?:[a-z2-7]{4}-){7}[a-z2-7]{4}\b", "FINGERPRINT"),
    (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?Z?", "TIME"),
    (r"\b[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4} GMT", "TIME"),
    (r"\b(?:\d+(?:\.\d+)? ?(?:ms|s|min|m|h|d)\b ?)+", "DURATION "),
    (r"\b\d+(?:\.\d+)? ?(?:[kMG]i?)?B\b", "BYTES"),
    (r"\b(epoch|pid|record|jsonl:|records \d+ to|hold,) *\d+", r"\1 N"),
    (r"\b\d+ (signatures|done|failed)", r"N \1"),
    (r"\bqtunnel \d+\.\d\S+", "qtunnel VERSION"),
    (r"\b(failing|resting)\b", "DOWN"),  # by how often it was asked meanwhile
    (r"(next rekey|in records,) .*", r"\1"),  # who is next is chance; the cipher is the processor's
)


@dataclass(frozen=True)
class Block:
    """One fence to run. line: where it begins in the page, from 1. expected: None where the page shows nothing."""

    host: str
    exit_code: int
    command: str
    expected: str | None
    line: int
    span: tuple[int, int] | None
    """Of the expected text within the page."""


def blocks(text: str) -> list[Block]:
    """Those to run, in the page's order; raises ``ValueError`` for a fence that is none of the above."""
    found: list[Block] = []
    fences = list(_FENCE.finditer(text))
    for fence, after in zip(fences, [*fences[1:], None], strict=True):
        kind, words = fence[1], fence[2].split()
        line = text.count("\n", 0, fence.start()) + 1
        if kind != "sh" or not words:
            continue
        host, *more = words
        code = re.fullmatch(r"exit=(\d+)", more[0]) if len(more) == 1 else None
        if host not in HOSTS or (more and code is None) or not fence[3].startswith(f"# {host}\n"):
            raise ValueError(f"line {line}: ```sh HOST [exit=N], and '# HOST' below it, with one of {', '.join(HOSTS)}")
        answer = after if after and after[1] == "text" and not text[fence.end() : after.start()].strip() else None
        found.append(
            Block(host, int(code[1]) if code else 0, fence[3], answer and answer[3], line, answer and answer.span(3))
        )
    return found


def form(text: str) -> list[str]:
    """The lines, with names in the place of what differs from run to run, and runs of blanks as one."""
    for pattern, name in _CHANGING:
        text = re.sub(pattern, name, text)
    return [re.sub(r"[ ─━-]{2,}", " ", line).strip() for line in text.strip().splitlines()]


def same(expected: str, said: str) -> bool:
    """Whether what was printed is as the page has it."""
    wanted = ["(?:.*\n)*?" if line == "..." else re.escape(line) + "\n" for line in form(expected)]
    return re.fullmatch("".join(wanted), "".join(f"{line}\n" for line in form(said))) is not None
