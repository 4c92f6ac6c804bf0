"""Pydantic's findings in plain words: what is wrong and what would be right."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from qtunnel.config.document import Location, Node, Problem

_SECRET_NAMES = re.compile(r"secret|private|password|passwd|passphrase|token|psk|pin$|(^|_)key$|seed", re.IGNORECASE)
MAX_QUOTED = 60
"""Characters of a value that a message repeats."""


class ProblemsError(ValueError):
    """Several findings of one validator, at places below its own."""

    def __init__(self, found: Iterable[Problem]) -> None:
        super().__init__("several problems")
        self.found = list(found)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant."""
    by_folded = {candidate.lower().replace("-", "_"): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower().replace("-", "_"), by_folded, 1, 0.6)
    return by_folded[close[0]] if close else None


def listing(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """``unknown key 'polcy'; did you mean 'policy'?``"""
    candidates = list(known)
    guess = nearest(name, candidates)
    said = "".join(c if c.isprintable() else "?" for c in name[:MAX_QUOTED])
    if guess is not None:
        return f"unknown {kind} '{said}'; did you mean '{guess}'?"
    return f"unknown {kind} '{said}'; known here: {listing(candidates)}"


def there_is_no(what: str, name: str, known: Iterable[str]) -> str:
    """``there is no link 'a-b'; there are: a-c, b-c``, of a name that something else in the file should have."""
    return f"there is no {what} '{name}'; there are: {', '.join(known) or 'none'}"


def key_names(model: type[BaseModel]) -> list[str]:
    """The keys a model takes, as written in a file."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, Annotated):
        for part in get_args(annotation):
            yield from _models(part)


def _parts(annotation: Any) -> Iterator[Any]:
    """The members of a union, unwrapped from ``Annotated``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
    else:
        yield annotation


def _at(model: type[BaseModel], where: Location) -> tuple[Any, FieldInfo | None]:
    """The annotation that a place has in the model, and its field where the place is one."""
    annotation: Any = model
    field: FieldInfo | None = None
    for step in where:
        following, field = None, None
        for part in _parts(annotation):
            origin, arguments = get_origin(part), get_args(part)
            if isinstance(part, type) and issubclass(part, BaseModel):
                field = {info.alias or name: info for name, info in part.model_fields.items()}.get(str(step), field)
                following = field.annotation if field else following
            elif origin is dict:
                following = arguments[1]
            elif origin in (list, tuple):
                following = arguments[0]
        annotation = following
    return annotation, field


def field_at(model: type[BaseModel], where: Location) -> FieldInfo | None:
    """The field that stands at a place, or ``None`` where the place is no field of a model."""
    return _at(model, where)[1]


def model_at(model: type[BaseModel], where: Location) -> type[BaseModel] | None:
    """The model of the mapping at a place."""
    return next(_models(_at(model, where)[0]), None)


def example_of(field: FieldInfo | None) -> Any:
    """The first example of a field; for a mapping, made of its required fields. ``None`` where there is none."""
    if field is None:
        return None
    if field.examples:
        return field.examples[0]
    for model in _models(field.annotation):
        required = {info.alias or name: info for name, info in model.model_fields.items() if info.is_required()}
        values = {name: example_of(info) for name, info in required.items()}
        if all(value is not None for value in values.values()):
            return values
    return None


def quoted(value: Any, where: Location) -> str:
    """A scalar for a message, cut and without control characters; empty for what may be a secret."""
    name = next((step for step in reversed(where) if isinstance(step, str)), "")
    if _SECRET_NAMES.search(name) or isinstance(value, dict | list) or value is None:
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return f"'{text[:MAX_QUOTED]}…'" if len(text) > MAX_QUOTED else f"'{text}'"


_KINDS = {
    "string_type": "text, in quotes where it looks like a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "path_type": "a path",
    "list_type": "a list: one '- value' per line, or [a, b]",
    "tuple_type": "a list: one '- value' per line, or [a, b]",
    "dict_type": "a mapping: lines of 'key: value'",
    "model_type": "a mapping: lines of 'key: value'",
    "model_attributes_type": "a mapping: lines of 'key: value'",
    "url_type": "a URL",
}


def _is(value: Any, where: Location) -> str:
    said = quoted(value, where)
    if said:
        return f"is {said}; "
    if isinstance(value, list):
        return "is a list; "
    if isinstance(value, dict):
        return "is a mapping; "
    return ""


def _bound(kind: str, context: Mapping[str, Any]) -> str | None:
    bounds = {
        "greater_than_equal": ("at least", "ge"),
        "greater_than": ("more than", "gt"),
        "less_than_equal": ("at most", "le"),
        "less_than": ("less than", "lt"),
        "multiple_of": ("a multiple of", "multiple_of"),
    }
    if kind not in bounds:
        return None
    word, name = bounds[kind]
    return f"must be {word} {context.get(name)}"


def _one(error: Mapping[str, Any], where: Location, model: type[BaseModel]) -> str:
    kind, value = str(error["type"]), error.get("input")
    context: Mapping[str, Any] = error.get("ctx") or {}
    if kind == "missing":
        example = example_of(field_at(model, where))
        hint = f"; for example {where[-1]}: {_inline(example)}" if example is not None else "; add it"
        return f"is missing{hint}"
    if kind == "extra_forbidden":
        owner = model_at(model, where[:-1])
        return unknown("key", str(where[-1]), key_names(owner) if owner else [])
    if kind == "value_error":
        return str(context.get("error", error["msg"]))
    if value is None:
        return "has no value; write one after the ':', or remove the line"
    if kind in ("literal_error", "enum"):
        allowed = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        guess = nearest(str(value), allowed) if isinstance(value, str) else None
        hint = f" (did you mean {guess}?)" if guess else ""
        return f"{_is(value, where)}must be one of: {listing(allowed)}{hint}"
    bound = _bound(kind, context)
    if bound:
        return _is(value, where) + bound
    if kind in _KINDS:
        return f"{_is(value, where)}must be {_KINDS[kind]}"
    if kind == "too_short":
        return f"needs at least {context.get('min_length')} entry"
    if kind == "string_too_short":
        return "must not be empty"
    return f"{_is(value, where)}{str(error['msg'])[:1].lower()}{str(error['msg'])[1:]}"


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_inline(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    return str(value)


def real_location(loc: tuple[int | str, ...], tree: Node, *, missing: bool) -> Location:
    """Pydantic's location without the names that it puts in for unions and validators.

    missing: the last step is a key that is not in the file, and stays.
    """
    node = tree
    result: list[str | int] = []
    for step in loc[:-1] if missing else loc:
        child = node.child(step)
        if child is not None:
            node = child
            result.append(step)
    return (*result, loc[-1]) if missing else tuple(result)


def problems_of(failure: ValidationError, model: type[BaseModel], tree: Node) -> list[Problem]:
    """Every finding of a pydantic error, in words; ``tree`` is the node that was validated."""
    found: list[Problem] = []
    plain: dict[Location, Problem] = {}
    for error in failure.errors(include_url=False):
        where = real_location(error["loc"], tree, missing=error["type"] == "missing")
        context = error.get("ctx") or {}
        cause = context.get("error")
        if error["type"] == "too_short" and len(error["input"]) >= int(context["min_length"]):
            continue  # pydantic counts only the sound entries; the faulty ones are reported themselves
        if isinstance(cause, ProblemsError):
            found += [replace(item, where=(*where, *item.where)) for item in cause.found]
        else:
            at_key = error["type"] == "extra_forbidden" or error["loc"][-1:] == ("[key]",)
            what = _one(error, where, model)
            if where in plain and what not in plain[where].what:  # the members of a union
                what = f"{plain[where].what}, or {what.removeprefix(_is(error.get('input'), where))}"
            example = example_of(field_at(model, where)) if error["type"] == "missing" else None
            plain[where] = Problem(where, what, at_key=at_key, example=example)
    return found + list(plain.values())
