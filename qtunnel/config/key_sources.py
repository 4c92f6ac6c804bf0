"""Key sources in the configuration: each with its driver's own options, at the source and at the peer, checked by that
driver's models.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    InstanceOf,
    StrictInt,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from qtunnel.config.credentials import named
from qtunnel.config.document import Location, Node, Problem
from qtunnel.config.types import ConfigPath, Duration, FileKind, InPlace, Percentage, Section, at_least, parse_duration
from qtunnel.config.words import ProblemsError, key_names, listing, nearest, problems_of, unknown
from qtunnel.drivers import registry
from qtunnel.errors import ConfigError
from qtunnel.keys.health import Limits
from qtunnel.keys.reservoir import MAX_DEPTH

MAX_QBER = 0.11
"""No key can be distilled above it (BB84, one-way post-processing): what a source delivers then is no QKD key."""


def _qber(value: float) -> float:
    if not 0 < value <= MAX_QBER:
        raise ValueError(f"must be above 0% and at most {MAX_QBER:.0%}, above which QKD yields no key")
    return value


def _quarantine(value: object) -> float | None:
    if value == "operator" or value is None:
        return None
    seconds = parse_duration(value)
    if seconds < 1:
        raise ValueError("no alarm is over that fast; write operator, or a time such as 30m")
    return seconds


class SourceRules(Section):
    """What every key source has, whatever its driver. qber_limit: as a fraction, above which its keys are not used.
    quarantine: seconds after an alarm has ended until its keys are used again, ``None`` (``operator``) for not before
    somebody says so."""

    qber_limit: Annotated[Percentage, AfterValidator(_qber)] = MAX_QBER
    quarantine: Annotated[float | None, BeforeValidator(_quarantine)] = None

    @property
    def limits(self) -> Limits:
        return Limits(self.qber_limit, self.quarantine)


StoreFile = Annotated[
    ConfigPath,
    BeforeValidator(named),
    FileKind("secret", "make one with: (umask 077; openssl rand -base64 32 > FILE)"),
]


class ReservoirConfig(Section):
    """Keys of each source agreed ahead with a peer. depth: how many, 0 for none; low_water: how few of them are told as
    an event, by default a quarter; max_age: seconds after which such a key is wiped; store: the file with the key under
    which they are kept on disk, ``None`` for in memory alone."""

    depth: Annotated[StrictInt, Field(ge=0, le=MAX_DEPTH)] = 0
    low_water: Annotated[StrictInt, Field(ge=0)] | None = None
    max_age: Annotated[Duration, at_least(60, "in which no reservoir fills; the usual is 1d")] = 86_400.0
    store: StoreFile | None = None

    @model_validator(mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return {"depth": value} if isinstance(value, int) else value

    @model_validator(mode="after")
    def _consistent(self) -> ReservoirConfig:
        if self.low_water is not None and self.low_water > self.depth:
            raise ValueError(f"low_water is {self.low_water}, more than depth, {self.depth}: it would always be low")
        if self.store is not None and not self.depth:
            raise ValueError("has a store and no depth, so there is nothing to keep in it; write depth: 64")
        return self

    @property
    def low(self) -> int:
        return self.depth // 4 if self.low_water is None else self.low_water


class KeySourceConfig(Section):
    """One key source: its driver's name, an instance of that driver's ``options`` model, and the rules for its keys."""

    driver: str
    options: Annotated[InstanceOf[BaseModel], InPlace()]
    rules: Annotated[SourceRules, InPlace()] = SourceRules()


def _foreign(model: type[BaseModel], raw: dict[str, Any], context: Any, where: str) -> BaseModel:
    """Validate options with a driver's model; an unknown key is an error whatever that model says of it."""
    tree = _bare(raw)
    problems: list[Problem] = []
    result: BaseModel | None = None
    try:
        result = model.model_validate(raw, context=context)
    except ValidationError as failure:
        problems = problems_of(failure, model, tree)
    except ConfigError as error:
        problems = [Problem((), str(error))]
    if model.model_config.get("extra") != "forbid":
        known = key_names(model)
        problems += [Problem((n,), unknown(f"{where} key", n, known), at_key=True) for n in raw if n not in known]
    if problems or result is None:
        raise ProblemsError(problems)
    return result


def _bare(value: Any, path: Location = ()) -> Node:
    """A tree without positions, to find places in."""
    node = Node(path, 0, 0, 0, 0, value)
    if isinstance(value, dict):
        node.value = {name: _bare(item, (*path, name)) for name, item in value.items()}
    elif isinstance(value, list):
        node.value = [_bare(item, (*path, index)) for index, item in enumerate(value)]
    return node


def key_source(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, KeySourceConfig) or not isinstance(value, dict):
        return value
    raw = dict(value)
    name = raw.pop("driver", None)
    installed = registry.names()
    if name is None:
        raise ProblemsError([Problem(("driver",), f"is missing; installed drivers: {listing(installed)}")])
    try:
        driver = _driver(name, installed)
    except ProblemsError as failure:
        raise ProblemsError([*failure.found, *_further(name, raw, installed, info.context)]) from None
    ours = {key: raw.pop(key) for key in list(raw) if _is_rule(key, driver.options)}
    problems: list[Problem] = []
    parts: list[BaseModel] = []
    for model, given in ((driver.options, raw), (SourceRules, ours)):
        try:
            parts.append(_foreign(model, given, info.context, "driver"))
        except ProblemsError as failure:
            problems += failure.found
    if problems:
        raise ProblemsError(problems)
    return KeySourceConfig(driver=driver.name, options=parts[0], rules=parts[1])


def _is_rule(key: str, options: type[BaseModel]) -> bool:
    """Whether a key is one of ``SourceRules``, also misspelt, rather than one of the driver's."""
    rules, its = key_names(SourceRules), key_names(options)
    return key in rules or (key not in its and nearest(key, [*its, *rules]) in rules)


def _further(name: Any, raw: dict[str, Any], installed: list[str], context: Any) -> list[Problem]:
    """What else is wrong, by the driver that was probably meant: of a similar name, or with most of the given keys;
    among several of these, the one that has more of the others, misspelt."""

    def known(driver: registry.Driver) -> tuple[int, int]:
        names = key_names(driver.options)
        return len(raw.keys() & set(names)), sum(nearest(str(key), names) is not None for key in raw)

    guess = nearest(name, installed) if isinstance(name, str) else None
    drivers = []
    for candidate in [guess] if guess else installed:
        with contextlib.suppress(ConfigError):
            drivers.append(registry.find(candidate))
    meant = max(drivers, key=known, default=None)
    if meant is None or 2 * known(meant)[0] < len(raw):
        return []
    try:
        _foreign(meant.options, raw, context, "driver")
    except ProblemsError as failure:
        return failure.found
    return []


def _driver(name: Any, installed: list[str]) -> registry.Driver:
    if not isinstance(name, str):
        raise ProblemsError([Problem(("driver",), f"must be the name of a driver: {listing(installed)}")])
    if name not in installed:
        guess = nearest(name, installed)
        hint = f"; did you mean '{guess}'?" if guess else f"; installed: {listing(installed)}"
        raise ProblemsError([Problem(("driver",), f"no driver of that name{hint}")])
    try:
        return registry.find(name)
    except ConfigError as error:
        raise ProblemsError([Problem(("driver",), str(error))]) from None


class _Undeclared(Section):
    """Stands for the options of a source whose driver is not known; never leaves ``load_config``."""


def peer_sources(value: Any, info: ValidationInfo) -> Any:
    """Each source's options by its driver's ``peer_options``, found through the document's ``key_sources``."""
    if not isinstance(value, dict):
        return value
    document = info.context.get("document", {}) if isinstance(info.context, dict) else {}
    declared = document.get("key_sources") if isinstance(document, dict) else None
    declared = declared if isinstance(declared, dict) else {}
    result: dict[str, BaseModel] = {}
    problems: list[Problem] = []
    for name, raw in value.items():
        if isinstance(raw, BaseModel):
            result[name] = raw
            continue
        if name not in declared:
            problems.append(Problem((name,), unknown("key source", name, declared), at_key=True))
            continue
        if not isinstance(raw, dict | None):
            problems.append(Problem((name,), "must be a mapping with the driver's options for this peer"))
            continue
        try:
            own = declared[name]
            driver = _driver(own.get("driver") if isinstance(own, dict) else None, registry.names())
        except ProblemsError:
            result[name] = _Undeclared()  # reported where the source is declared; it still counts as one
            continue
        try:
            result[name] = _foreign(driver.peer_options, raw or {}, info.context, "driver")
        except ProblemsError as failure:
            problems += [replace(item, where=(name, *item.where)) for item in failure.found]
    if problems:
        raise ProblemsError(problems)
    return result
