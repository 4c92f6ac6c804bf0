"""A YAML file as a tree whose every node knows its line, its column and its place.

YAML 1.2 by ruamel.yaml, so ``off`` is a word and ``0600`` no octal number; a key given twice is a problem, never
"the last one wins".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from qtunnel.errors import ConfigError, printable

_BREAK = "\n"

Location = tuple[str | int, ...]
"""Place of a value in the tree, e.g. ``("peers", 0, "qkd", "max_age")``."""

MAX_SIZE = 1 << 20
"""Bytes of a configuration file: far more than a thousand peers take."""

MAX_NODES = 200_000
"""Values after aliases are expanded, so that a few lines of nested aliases cannot fill the memory."""

MAX_NUMBER = 100
"""Characters of a number; a longer one is taken as text, as Python itself refuses to print huge integers."""

MAX_DEPTH = 40
"""Levels of nesting; a configuration needs seven."""


def dotted(where: Location) -> str:
    """``peers[0].qkd.max_age``."""
    text = ""
    for step in where:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    where: the place it is reported at. what: the finding and the remedy, in words. reads: the other places the
    finding rests on; where one of them is itself faulty, the finding is dropped. at_key: it is the key that is wrong,
    not its value. example: for a key that is missing, what could stand there.
    """

    where: Location
    what: str
    reads: tuple[Location, ...] = ()
    at_key: bool = False
    example: Any = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A problem at its line and column (both from 1; 0 where it concerns the whole file)."""

    line: int
    column: int
    where: str
    what: str

    def at(self, name: str) -> str:
        """One line, whatever keys and values are quoted in it."""
        place = f"{name}:{self.line}:{self.column}" if self.line else name
        said = f"{self.where}: {self.what}" if self.where else self.what
        return f"{place}: {printable(said.replace(_BREAK, ' '))}"


@dataclass(slots=True, eq=False)
class Node:
    """A value of the file. ``value`` is a dict of nodes, a list of nodes, or a plain scalar.

    key_line and key_column are those of its key, equal to the value's own in a list. removed: names of children that
    were taken out because they are faulty; substitute: the value is a stand-in for a faulty or missing one.
    """

    path: Location
    line: int
    column: int
    key_line: int
    key_column: int
    value: Any
    removed: set[str | int] = field(default_factory=set)
    substitute: bool = False

    def child(self, step: str | int) -> Node | None:
        if isinstance(self.value, dict) and isinstance(step, str):
            return self.value.get(step)
        if isinstance(self.value, list) and isinstance(step, int) and 0 <= step < len(self.value):
            found: Node = self.value[step]
            return found
        return None

    def children(self) -> Iterator[Node]:
        if isinstance(self.value, dict):
            yield from self.value.values()
        elif isinstance(self.value, list):
            yield from self.value

    def remove(self, step: str | int) -> None:
        assert isinstance(self.value, dict | list)
        del self.value[step]  # type: ignore[arg-type]  # the step came from child(), so it fits the container
        self.removed.add(step)

    def plain(self) -> Any:
        """The value without positions: dicts, lists, scalars."""
        if isinstance(self.value, dict):
            return {name: child.plain() for name, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def damaged(self) -> bool:
        """True where it or anything below it was faulty."""
        return self.substitute or bool(self.removed) or any(child.damaged() for child in self.children())


def stand_in(parent: Node, step: str, plain: Any) -> None:
    """Put ``plain`` in the place of a faulty or missing value, so that the rest can still be checked."""

    def made(path: Location, value: Any) -> Node:
        node = Node(path, parent.line, parent.column, parent.line, parent.column, value, substitute=True)
        if isinstance(value, dict):
            node.value = {name: made((*path, name), item) for name, item in value.items()}
        elif isinstance(value, list):
            node.value = [made((*path, index), item) for index, item in enumerate(value)]
        return node

    parent.value[step] = made((*parent.path, step), plain)


class _Reader:
    """Turns ruamel's nodes into ours, collecting findings on the way."""

    def __init__(self, yaml: Any) -> None:
        self.constructor = yaml.constructor
        self.findings: list[Finding] = []
        self.faulty: list[Location] = []
        self.count = 0
        self.open: set[int] = set()

    def find(self, node: Any, path: Location, what: str) -> None:
        self.findings.append(Finding(node.start_mark.line + 1, node.start_mark.column + 1, dotted(path), what))

    def build(self, node: Any, path: Location, key: Any = None) -> Node:
        self.count += 1
        if self.count > MAX_NODES:
            raise ConfigError(f"more than {MAX_NODES} values (aliases included); write less")
        if len(path) > MAX_DEPTH:
            raise ConfigError(f"nested more than {MAX_DEPTH} levels deep")
        own, of_key = node.start_mark, (key or node).start_mark
        if key is not None and isinstance(node, ScalarNode) and node.value == "" and not node.style:
            own = key.end_mark  # nothing is written; ruamel points at what comes next
        built = Node(path, own.line + 1, own.column + 1, of_key.line + 1, of_key.column + 1, None)
        if id(node) in self.open:
            self.find(key or node, path, "an alias inside the value that it stands for")
            self.faulty.append(path)
            return built
        self.open.add(id(node))
        if isinstance(node, MappingNode):
            built.value = self.mapping(node, path)
        elif isinstance(node, SequenceNode):
            built.value = [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        elif isinstance(node, ScalarNode):
            built.value = self.scalar(node, path)
        self.open.discard(id(node))
        return built

    def mapping(self, node: Any, path: Location) -> dict[str, Node]:
        result: dict[str, Node] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self.find(key, path, "a key must be a word, not a list or a mapping")
                continue
            name = str(key.value)
            if name in result:
                first = result[name].key_line
                self.find(key, (*path, name), f"is given twice (first on line {first}); remove one of the two")
                continue
            result[name] = self.build(value, (*path, name), key)
        return result

    def scalar(self, node: Any, path: Location) -> Any:
        tag = str(node.tag).removeprefix("tag:yaml.org,2002:")
        if tag in ("str", "timestamp"):
            return str(node.value)
        if tag in ("int", "float", "bool", "null") and len(node.value) <= MAX_NUMBER:
            try:
                return self.constructor.construct_object(node)
            except (YAMLError, ValueError, ArithmeticError):
                return str(node.value)
        if tag in ("int", "float"):
            return str(node.value)
        self.find(node, path, f"the tag {tag} is not supported; write the plain value")
        self.faulty.append(path)
        return None


def _syntax(error: YAMLError, text: str) -> Finding:
    """A syntax error as a finding. ruamel's own words name the construct, never a value."""
    if isinstance(error, ReaderError):
        before = text[: int(error.position)]
        return Finding(
            before.count("\n") + 1,
            len(before) - before.rfind("\n"),
            "",
            "a control character, which YAML does not allow; remove it",
        )
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        said = " ".join(str(part) for part in (error.context, error.problem) if part)
        what = f"not valid YAML: {said}"
        if "'\\t'" in what:
            what += "; indent with spaces, not tabs"
        elif "mapping values are not allowed" in what:
            what += "; put a value with ': ' in it in quotes, and check the indentation"
        elif "another document" in what:
            what += "; a file holds one configuration, remove the '---'"
        else:
            what += "; check the indentation, the quotes and the brackets from here upwards"
        if mark is not None:
            return Finding(mark.line + 1, mark.column + 1, "", what)
        return Finding(0, 0, "", what)
    return Finding(0, 0, "", "not valid YAML")


def read_text(path: Path) -> str:
    """The file as text; raises ``ConfigError`` in one line that names it."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; check the path, or copy an example from configs/") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory; name the YAML file in it") from None
    except PermissionError:
        raise ConfigError(f"{path}: cannot be read: permission denied; run as its owner or as root") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    if len(data) > MAX_SIZE:
        raise ConfigError(f"{path}: larger than {MAX_SIZE >> 20} MiB; this is not a configuration file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise ConfigError(f"{path}:{line}:{column}: not UTF-8 text; save the file as UTF-8") from None


def parse(text: str, name: str) -> tuple[Node, list[Finding], list[Location]]:
    """The tree of a YAML text, what is wrong with it (keys given twice, tags), and which places hold no usable value.

    Raises ``ConfigError`` where there is no tree to go on with: a syntax error, an empty file, not a mapping.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.composer.warn_double_anchors = False  # the last one counts (YAML 1.2 section 3.2.2.2)
    try:
        root = yaml.compose(text)
        reader = _Reader(yaml)
        if root is None:
            raise ConfigError(f"{name}: is empty; copy an example from configs/")
        tree = reader.build(root, ())
    except YAMLError as error:
        raise ConfigError(_syntax(error, text).at(name)) from None
    except RecursionError:
        raise ConfigError(f"{name}: nested more than {MAX_DEPTH} levels deep") from None
    except ConfigError as error:
        raise ConfigError(str(error) if str(error).startswith(name) else f"{name}: {error}") from None
    if not isinstance(tree.value, dict):
        if tree.value is None and not reader.findings:
            raise ConfigError(f"{name}: is empty; copy an example from configs/")
        raise ConfigError(
            f"{name}:{tree.line}:{tree.column}: must be a mapping (lines of 'key: value'), "
            f"not {'a list' if isinstance(tree.value, list) else 'a single value'}"
        )
    return tree, reader.findings, reader.faulty
