"""Loads a YAML file into a pydantic model and reports everything that is wrong with it at once.

Each finding is ``file:line:column: where.in.the.tree: what is wrong; what would be right``. To find all of them, a
faulty value is taken out (a required one is replaced by its field's first example), and the rest is validated again,
until it holds; then come the checks across fields. A finding that rests on a value that was taken out is not reported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from qtunnel.config.credentials import placed
from qtunnel.config.document import Finding, Location, Node, Problem, dotted, parse, read_text, stand_in
from qtunnel.config.types import FileKind, InPlace, resolve
from qtunnel.config.words import problems_of
from qtunnel.errors import ConfigError, FilePermissionError
from qtunnel.files import check_secret_file

Model = TypeVar("Model", bound=BaseModel)
Check = Callable[[Any], Iterable[Problem]]
"""A check across fields; gets the validated model and yields what is wrong."""

MAX_ROUNDS = 50
"""Of taking out and validating again; each round takes something out, so this only bounds a hostile file."""


def load(
    path: Path | str,
    model: type[Model],
    *,
    checks: Iterable[Check] = (),
    context: dict[str, Any] | None = None,
    check_files: bool = True,
) -> Model:
    """The file at ``path`` as an instance of ``model``.

    Path fields are resolved against the file's directory; with ``check_files``, fields of type ``InputFile`` and
    ``SecretFile`` must name usable files. ``checks`` run at the end; ``context`` is handed to validators, with
    ``directory`` added. Raises ``ConfigError`` with one line per finding.
    """
    path = Path(path)
    tree, findings, unusable = parse(read_text(path), str(path))
    shared = {"document": tree.plain(), **(context or {}), "directory": Path(os.path.abspath(path)).parent}
    for where in sorted(unusable, key=_depth, reverse=True):
        _take_out(tree, where, None)
    result, faulty = _validate(tree, model, shared)
    findings += faulty
    if result is not None:
        result = model.model_validate(_resolved(result, shared))
        late = [problem for check in checks for problem in check(result)]
        if check_files:
            late += file_problems(result, shared["directory"])
        findings += [_finding(problem, tree) for problem in late if not _doubtful(problem, tree)]
    if findings:
        raise ConfigError("\n".join(finding.at(str(path)) for finding in sorted(set(findings))), path)
    assert result is not None
    return result


def _validate(tree: Node, model: type[Model], context: dict[str, Any]) -> tuple[Model | None, list[Finding]]:
    """The model from what is sound in the tree (``None`` where too little is), and what is not."""
    findings: list[Finding] = []
    for _ in range(MAX_ROUNDS):
        try:
            return model.model_validate(tree.plain(), context=context), findings
        except ValidationError as failure:
            problems = problems_of(failure, model, tree)
        except ConfigError as error:
            return None, [*findings, Finding(0, 0, "", str(error))]
        findings += [_finding(problem, tree) for problem in problems if not _doubtful(problem, tree)]
        examples = {problem.where: problem.example for problem in problems}
        changed = [_take_out(tree, where, examples[where]) for where in sorted(examples, key=_depth, reverse=True)]
        if not any(changed):
            return None, findings
    return None, findings


def _depth(where: Location) -> tuple[int, list[tuple[int, str]]]:
    # Deepest first, and in a list from its end, so that the indexes of those before stay right.
    return len(where), [(step, "") if isinstance(step, int) else (-1, step) for step in where]


def _take_out(tree: Node, where: Location, example: Any) -> bool:
    """Remove the value at a place; put the example where one is missing. False where nothing can be done."""
    if not where:
        return False
    parent = _walk(tree, where[:-1])
    if parent is None:
        return True  # it went with something above it
    step = where[-1]
    if parent.child(step) is not None:
        parent.remove(step)
        return True
    if isinstance(step, str) and isinstance(parent.value, dict) and example is not None:
        parent.removed.add(step)
        stand_in(parent, step, example)
        return True
    return _take_out(tree, where[:-1], None)


def _walk(tree: Node, where: Location) -> Node | None:
    node: Node | None = tree
    for step in where:
        if node is None:
            return None
        node = node.child(step)
    return node


def _doubtful(problem: Problem, tree: Node) -> bool:
    """True where the problem rests on a value that was taken out or stood in."""
    for where in (problem.where, *problem.reads):
        node: Node | None = tree
        for step in where:
            if node is None:
                break
            if step in node.removed and not isinstance(step, int):
                return True
            node = node.child(step)
        if node is not None and node is not tree and node.damaged():
            return True
    return False


def _finding(problem: Problem, tree: Node) -> Finding:
    node = tree
    original: Location = ()
    line, column = tree.line, tree.column
    for index, step in enumerate(problem.where):
        child = node.child(step)
        if child is None:
            original = (*node.path, *problem.where[index:])
            break
        node = child
        original = node.path
        line, column = node.line, node.column
    if problem.at_key:
        line, column = node.key_line, node.key_column
    return Finding(line, column, dotted(original), problem.what)


def _resolved(value: Any, context: dict[str, Any]) -> Any:
    """The model with every path in it resolved, those of drivers' own models included."""
    if isinstance(value, BaseModel):
        changes = {}
        for name in type(value).model_fields:
            old = getattr(value, name)
            new = _resolved(old, context)
            if new is not old:
                changes[name] = new
        copied = value.model_copy(update=changes) if changes else value
        copied.model_fields_set.intersection_update(value.model_fields_set)  # a resolved default is still a default
        return copied
    if isinstance(value, Path):
        return placed(value if value.is_absolute() else resolve(value, context))
    if type(value) is dict:
        new = {name: _resolved(item, context) for name, item in value.items()}
        return new if any(new[name] is not value[name] for name in value) else value
    if type(value) in (list, tuple):
        items = [_resolved(item, context) for item in value]
        return type(value)(items) if any(a is not b for a, b in zip(items, value, strict=True)) else value
    return value


def marked_paths(
    value: Any, where: Location, kind: FileKind | None = None
) -> Iterator[tuple[Path, FileKind, Location]]:
    """The files that a model names, those of drivers' own models included."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            own = _kind(field.annotation, field.metadata)
            below = (
                where if any(isinstance(item, InPlace) for item in field.metadata) else (*where, field.alias or name)
            )
            yield from marked_paths(getattr(value, name), below, own)
    elif isinstance(value, Path):
        if kind is not None:
            yield value, kind, where
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from marked_paths(item, (*where, str(name)), kind)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from marked_paths(item, (*where, index), kind)


def _kind(annotation: Any, metadata: Iterable[Any]) -> FileKind | None:
    for item in metadata:
        if isinstance(item, FileKind):
            return item
    for argument in get_args(annotation):
        if isinstance(argument, FileKind):
            return argument
        found = _kind(argument, ())
        if found is not None:
            return found
    return None


def file_problems(model: BaseModel, directory: Path) -> list[Problem]:
    """What is wrong with the files that fields of type ``InputFile`` and ``SecretFile`` name."""
    found = []
    for path, kind, where in marked_paths(model, ()):
        what = _secret_problem(path) if kind.kind == "secret" else _input_problem(path)
        if what is None:
            name = "" if kind.kind == "secret" else f": {path}"
            what = f"no such file{name} (relative paths start at {directory}); {kind.remedy}"
        if what:
            found.append(Problem(where, what))
    return found


def _secret_problem(path: Path) -> str | None:
    """Empty where the file is fit, ``None`` where there is none. What cannot be opened may be a secret, not a path."""
    try:
        if not path.exists():
            return None
        check_secret_file(path)
    except (ConfigError, FilePermissionError) as error:
        return str(error)
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or 'not a path'}; this takes a file's path"
    return ""


def _input_problem(path: Path) -> str | None:
    """Empty where the file can be read, ``None`` where there is none."""
    try:
        if path.exists() and not path.is_file():
            return f"{path} is not a regular file; name a file"
        with path.open("rb"):
            return ""
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return f"{path} cannot be read: {getattr(error, 'strerror', None) or 'not a path'}; check its owner and mode"
