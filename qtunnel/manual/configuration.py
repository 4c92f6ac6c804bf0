"""qtunnel.yaml(5): every key of the configuration's model, in the words of configs/alice.yaml."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from qtunnel import __version__
from qtunnel.config.model import Config, KeySourceConfig
from qtunnel.manual.roff import bold, escape, filled, heading, page, paragraphs, tagged, title

SECTION = 5

INTRODUCTION = """\
The configuration of a gateway: the file that qtunnel run --config and the unit qtunnel@NAME read. It is YAML. \
Durations carry a unit (500ms, 120s, 10m, 1h, 1d), sizes too (500M, 10G, 10GiB), percentages a percent sign. Paths are \
relative to the file. An unknown key is an error, and so is one that stands there twice.

qtunnel check FILE says what is wrong with a file, with line and remedy, or what it means. qtunnel reload has the \
daemon read it again: only what differs is touched, and a file with an error changes nothing.

A key's whole path is the head of its entry, with [] for an entry of a list and NAME for a name that is yours, and \
behind it the value that the example file has."""
DRIVERS = """\
Below key_sources.NAME and peers[].qkd.sources.NAME stand the keys of that source's driver. Each driver has a page in \
/usr/share/doc/qtunnel/docs/sources."""

_KEY = re.compile(r"(?P<indent>[ ]*)(?P<dash>- )?(?P<key>\w+):(?: +(?P<rest>.*))?$")


@dataclass
class Entry:
    """What the example says of a key."""

    value: str
    words: str


def text(date: str) -> str:
    """The page. date: as YYYY-MM-DD."""
    said = explained(_example())
    rows = [
        *title("qtunnel.yaml", SECTION, date, __version__),
        heading("NAME"), "qtunnel.yaml \\- configuration of a qtunnel gateway",
        heading("DESCRIPTION"), *paragraphs(INTRODUCTION),
    ]  # fmt: skip
    top = ""
    for path, field in keys(Config):
        if path.split(".")[0].removesuffix("[]") != top:
            top = path.split(".")[0].removesuffix("[]")
            rows.append(heading(top.replace("_", " ").upper()))
            if top == "key_sources":
                rows += paragraphs(DRIVERS)
        its = said.get(path, Entry("", ""))
        section = _model_of(field.annotation)[0]
        words = its.words or _sentence(section)
        if words and not words.endswith((".", "?")):
            words += "."
        if field.is_required():
            words = f"{words} Required.".strip()
        if not words and section is not None:
            continue
        rows += tagged(f"{bold(f'{path}:')} {escape(its.value)}".rstrip(), filled(words))
    return page([
        *rows,
        heading("FILES"), *tagged(bold("/usr/share/doc/qtunnel/examples/alice.yaml"), filled("All of it as a file.")),
        heading("SEE ALSO"), f"{bold('qtunnel')}(1),", f"{bold('qtunnel-check')}(1),", f"{bold('qtunnel-reload')}(1)",
    ])  # fmt: skip


def _sentence(model: type[BaseModel] | None) -> str:
    """The first one of what a section's model says of itself."""
    return "" if model is None or not model.__doc__ else f"{model.__doc__.partition('.')[0]}."


def keys(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of the model and of those below it, by its path."""
    for name, field in model.model_fields.items():
        path = f"{above}{name}"
        inner, kind = _model_of(field.annotation)
        if model is KeySourceConfig and name in ("rules", "options"):  # which stand side by side in the file
            yield from keys(inner, above) if inner is not None else ()
            continue
        yield path, field
        if inner is not None:
            yield from keys(inner, f"{path}{kind}.")


def _model_of(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The model of a section, of a list's entries, or of a mapping's values; and how its path goes on."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation if annotation is not BaseModel else None), ""
    origin = get_origin(annotation)
    kind = "[]" if origin is tuple else ".NAME" if origin is dict else ""
    for part in get_args(annotation):
        found, deeper = _model_of(part)
        if found is not None:
            return found, kind + deeper
    return None, ""


def _example() -> str:
    return (resources.files("qtunnel.demo") / "configs" / "alice.yaml").read_text()


def explained(example: str) -> dict[str, Entry]:
    """What the comments of an example say of each key that the model has, also of keys that are commented out."""
    known = {path for path, _ in keys(Config)}
    found: dict[str, Entry] = {}
    above: list[tuple[int, str]] = []
    words: list[str] = []
    for line in example.split("\n"):
        bare = line
        while found_comment := re.match(r"(\s*)# ?", bare):  # a key in a comment stands where it would without it
            bare = f"{found_comment[1]}{bare[found_comment.end() :]}"
        place = _place(bare, above, known)
        if place is None:
            if not line.strip():
                words = []
            elif line.lstrip().startswith("#"):
                words.append(bare.strip())
            continue
        indent, path, value, comment = place
        above = [its for its in above if its[0] < indent] + [(indent, path)]
        sentence = " ".join([*words, re.sub(r"^\| *", "or ", comment)]).strip()
        if path not in found:
            found[path] = Entry(value, sentence)
        words = []
    return found


def _place(line: str, above: list[tuple[int, str]], known: set[str]) -> tuple[int, str, str, str] | None:
    """Indent, path, value and comment of a line that has a key; ``None`` for prose."""
    match = _KEY.match(line)
    if match is None:
        return None
    indent = len(match["indent"]) + len(match["dash"] or "")
    parent = next((path for at, path in reversed(above) if at < indent), "")
    value, _, comment = (match["rest"] or "").partition("#")
    for path in (f"{parent}.{match['key']}", f"{parent}[].{match['key']}", match["key"] if not parent else ""):
        if path.lstrip(".") in known:
            return indent, path.lstrip("."), value.strip(), comment.strip(" #")
    if parent in ("key_sources", "peers[].qkd.sources"):
        return indent, f"{parent}.NAME", "", ""
    return None
