"""docs/formal/*.pv, made of one text and a table, so that all models are of the same handshake.

Lines of handshake.pv.in that begin with ``%`` say what is in which model: ``%if FLAG``, ``%else``, ``%end``. Words
``%NAME%`` stand for what differs by model.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[2] / "docs" / "formal"


@dataclass(frozen=True)
class FormalModel:
    """claims: what has to come out, and the query."""

    name: str
    question: str
    flags: frozenset[str]
    claims: tuple[tuple[bool, str], ...]
    text: str


def _chosen(text: str, flags: frozenset[str]) -> str:
    known = set(re.findall(r"^%if (\S+)$", text, re.MULTILINE)) | {"qkd-leaks", "chain-leaks"}
    if flags - known:
        raise ValueError(f"no such flag: {', '.join(sorted(flags - known))}")
    shown, lines = [True], list[str]()
    for line in text.splitlines():
        if line.startswith("%if "):
            shown.append(line[4:] in flags)
        elif line == "%else":
            shown[-1] = not shown[-1]
        elif line == "%end":
            shown.pop()
        elif all(shown):
            lines.append(line)
    assert len(shown) == 1, "an %if without %end"
    return "\n".join(lines) + "\n"


def _same_by_another_name(claim: str) -> str:
    """The claim, where the other end may know this one by its public keys as a peer that it shares nothing secret with:
    an identity is its public keys, whatever else was configured beside them."""
    premise, arrow, conclusion = claim.partition(" ==> ")
    found = list[str]()
    for part in conclusion.split(" || ") if arrow else []:
        found.append(part)
        other = "r" if "event(I" in part else "i"
        alias = part.replace(f"gw({other})", f"evil(pub(xkey({other})), kempub(kkey({other})), s, t)")
        found += [alias] if alias != part else []
    return premise + arrow + "\n        || ".join(found)


def _query(claim: str, table: dict[str, Any]) -> str:
    claim = _same_by_another_name(claim)
    for short, full in table["short"].items():
        claim = re.sub(rf"\b{short}\b", full, claim)
    variables = [
        f"{name}: {kind}"
        for names, kind in table["types"].items()
        for name in names.split(", ")
        if re.search(rf"\b{name}\b", claim)
    ]
    return f"query {', '.join(variables)};\n    {claim}."


def models() -> list[FormalModel]:
    """All models of the table, in its order."""
    table = tomllib.loads((HERE / "models.toml").read_text())
    text = (HERE / "handshake.pv.in").read_text()
    found = list[FormalModel]()
    for name, entry in table["model"].items():
        flags = frozenset(entry["flags"])
        claims = tuple((expected == "true", _query(claim, table)) for expected, claim in entry["claims"])
        words = {
            "QKD": "" if "qkd-leaks" in flags else " [private]",
            "CHAIN": "" if "chain-leaks" in flags else " [private]",
            "X25519": "" if "x25519-broken" in flags else " [private]",
            "KEM": "" if "kem-broken" in flags else " [private]",
            "QUERIES": "\n".join(f"(* expected: {str(expected).lower()} *)\n{query}" for expected, query in claims),
            "PROCESS": "    " + entry.get("process", "(!Initiator | !Responder)"),
        }
        filled = _chosen(text, flags)
        for word, what in words.items():
            filled = filled.replace(f"%{word}%", what)
        origin = "Made by docs/formal/build of handshake.pv.in and models.toml: change those."
        head = f"(* {entry['question']}\n\n   {origin} *)\n\n"
        found.append(FormalModel(name, entry["question"], flags, claims, head + filled))
    return found


def main() -> None:
    """Writes docs/formal/*.pv anew."""
    for old in HERE.glob("*.pv"):
        old.unlink()
    for model in models():
        (HERE / f"{model.name}.pv").write_text(model.text)


if __name__ == "__main__":
    main()
