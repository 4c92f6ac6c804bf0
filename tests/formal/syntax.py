"""The part of ProVerif's input language that docs/formal is written in, read into trees, with types checked.

Stricter than ProVerif: what it refuses may be right there, what it takes should be right there, too. Source: the
manual of ProVerif 2.05, chapters 3 and 4 and its appendix A.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

KEYWORDS = frozenset(
    re.findall(
        r"\S+",
        """among and axiom barrier channel choice clauses const def diff do elimtrue else equation equivalence event
        expand fail for forall foreach free fun get if implementation in inj-event insert lemma let letfun letproba new
        noninterf noselect not nounif optimization or otherwise out param phase pred proba process proof public_vars
        putbegin query reduc restriction secret select set suchthat sync table then type weaksecret yield""",
    )
)
TOKEN = re.compile(r"\s+|\(\*.*?\*\)|(inj-event|[A-Za-z][A-Za-z0-9_']*|\d+|==>|&&|\|\||<>|[().,;:\[\]=|!])", re.DOTALL)
BITSTRING = "bitstring"


class ModelError(Exception):
    """A model is not written as ProVerif wants it; the text names the place."""


@dataclass(frozen=True)
class Use:
    """A name, or a function or event of terms. ``tuple`` is the function of tuples."""

    name: str
    args: tuple[Use, ...] = ()


@dataclass(frozen=True)
class Binding:
    """A pattern: a variable with its type (None: as the value has), ``=term``, or a constructor of patterns."""

    kind: str  # variable, equal, constructor
    name: str = ""
    type: str | None = None
    term: Use | None = None
    parts: tuple[Binding, ...] = ()


@dataclass(frozen=True)
class Process:
    """One step; ``then`` is what follows, empty for the end."""

    kind: str  # nil, par, repl, new, in, out, if, let, event, phase, call
    name: str = ""
    type: str = ""
    terms: tuple[Use, ...] = ()
    pattern: Binding | None = None
    then: tuple[Process, ...] = ()


@dataclass(frozen=True)
class Rule:
    variables: dict[str, str]
    left: Use
    right: Use


@dataclass(frozen=True)
class Claim:
    """``premises ==> one of the conclusions``; each is a conjunction of events. Injective where said so."""

    text: str
    variables: dict[str, str]
    premises: tuple[tuple[str, Use, int | None], ...]  # kind (event, inj-event, attacker), what, phase
    conclusions: tuple[tuple[tuple[str, Use], ...], ...]


@dataclass
class Function:
    takes: tuple[str, ...]
    gives: str
    options: frozenset[str]


@dataclass
class Model:
    types: set[str] = field(default_factory=lambda: {BITSTRING, "channel", "bool", "nat"})
    functions: dict[str, Function] = field(default_factory=dict)
    rules: dict[str, list[Rule]] = field(default_factory=dict)
    equations: list[Rule] = field(default_factory=list)
    events: dict[str, tuple[str, ...]] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    macros: dict[str, tuple[dict[str, str], Process]] = field(default_factory=dict)
    unselected: set[str] = field(default_factory=set)
    main: Process = Process("nil")


class Reader:
    """Tokens of one model, and where in its text they are."""

    def __init__(self, text: str) -> None:
        self.text, self.tokens, self.at = text, list[tuple[str, int]](), 0
        place = 0
        while place < len(text):
            found = TOKEN.match(text, place)
            if found is None:
                raise self.error(f"cannot read {text[place]!r}", place)
            if found[1]:
                self.tokens.append((found[1], place))
            place = found.end()

    def error(self, words: str, place: int | None = None) -> ModelError:
        if place is None:
            place = self.tokens[self.at][1] if self.at < len(self.tokens) else len(self.text)
        return ModelError(f"line {self.text.count(chr(10), 0, place) + 1}: {words}")

    def peek(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def next(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def take(self, token: str) -> bool:
        if self.peek() == token:
            self.at += 1
            return True
        return False

    def want(self, token: str) -> None:
        if not self.take(token):
            raise self.error(f"{token!r} expected, not {self.peek()!r}")

    def name(self) -> str:
        token = self.peek()
        if token != "channel" and (not re.match(r"[A-Za-z]", token) or token in KEYWORDS):
            raise self.error(f"a name expected, not {token!r}")
        return self.next()

    def names(self) -> list[str]:
        found = [self.name()]
        while self.take(","):
            found.append(self.name())
        return found

    def typed(self, end: str) -> dict[str, str]:
        """``x, y: t, z: u`` up to ``end``, which is taken as well."""
        found = dict[str, str]()
        while not self.take(end):
            group = self.names()
            self.want(":")
            kind = self.name()
            for one in group:
                if one in found:
                    raise self.error(f"{one} twice")
                found[one] = kind
            if self.peek() != end:
                self.want(",")
        return found

    def options(self) -> frozenset[str]:
        if not self.take("["):
            return frozenset()
        found = self.names()
        self.want("]")
        return frozenset(found)

    def uses(self) -> tuple[Use, ...]:
        self.want("(")
        found = list[Use]()
        while not self.take(")"):
            found.append(self.use())
            if self.peek() != ")":
                self.want(",")
        return tuple(found)

    def use(self) -> Use:
        if self.peek() == "(":
            inner = self.uses()
            return inner[0] if len(inner) == 1 else Use("tuple", inner)
        name = self.name()
        return Use(name, self.uses()) if self.peek() == "(" else Use(name)

    def pattern(self) -> Binding:
        if self.take("="):
            return Binding("equal", term=self.use())
        name = "tuple" if self.peek() == "(" else self.name()
        if self.take("("):
            parts = list[Binding]()
            while not self.take(")"):
                parts.append(self.pattern())
                if self.peek() != ")":
                    self.want(",")
            return Binding("constructor", name, parts=tuple(parts))
        return Binding("variable", name, self.name() if self.take(":") else None)

    def rules(self) -> list[Rule]:
        found = list[Rule]()
        while True:
            variables = self.typed(";") if self.take("forall") else {}
            left = self.use()
            self.want("=")
            found.append(Rule(variables, left, self.use()))
            if not self.take(";"):
                return found

    def claim(self) -> Claim:
        start = self.tokens[self.at][1]
        # variables are there where a colon comes before the first parenthesis
        words = [token for token, _ in self.tokens[self.at : self.at + 200]]
        variables = self.typed(";") if ":" in words[: words.index("(")] else {}

        def fact() -> tuple[str, Use, int | None]:
            kind = self.next()
            if kind not in ("event", "inj-event", "attacker"):
                raise self.error("event, inj-event or attacker expected")
            self.want("(")
            what = self.use()
            self.want(")")
            return kind, what, int(self.next()) if self.take("phase") else None

        premises = [fact()]
        while self.take("&&"):
            premises.append(fact())
        conclusions = list[tuple[tuple[str, Use], ...]]()
        if self.take("==>"):
            while True:
                bracket = self.take("(")
                every = [fact()[:2]]
                while self.take("&&"):
                    every.append(fact()[:2])
                if bracket:
                    self.want(")")
                conclusions.append(tuple(every))
                if not self.take("||"):
                    break
        text = " ".join(self.text[start : self.tokens[self.at][1]].split())
        return Claim(text, variables, tuple(premises), tuple(conclusions))

    def process(self) -> Process:
        parts = [self.step()]
        while self.take("|"):
            parts.append(self.step())
        return parts[0] if len(parts) == 1 else Process("par", then=tuple(parts))

    def follow(self) -> tuple[Process, ...]:
        return (self.step(),) if self.take(";") else ()

    def step(self) -> Process:
        if self.take("("):
            inner = self.process()
            self.want(")")
            return inner
        if self.take("!"):
            return Process("repl", then=(self.step(),))
        if self.take("0"):
            return Process("nil")
        kind = self.peek()
        if kind == "new":
            self.next()
            name = self.name()
            self.want(":")
            return Process("new", name, self.name(), then=self.follow())
        if kind in ("in", "out"):
            self.next()
            self.want("(")
            channel = self.use()
            self.want(",")
            pattern, terms = (self.pattern(), (channel,)) if kind == "in" else (None, (channel, self.use()))
            self.want(")")
            return Process(kind, terms=terms, pattern=pattern, then=self.follow())
        if kind == "if":
            self.next()
            left = self.use()
            self.want("=")
            right = self.use()
            self.want("then")
            return Process("if", terms=(left, right), then=(self.step(),))
        if kind == "let":
            self.next()
            pattern = self.pattern()
            self.want("=")
            value = self.use()
            self.want("in")
            return Process("let", terms=(value,), pattern=pattern, then=(self.step(),))
        if kind == "event":
            self.next()
            use = self.use()
            return Process("event", use.name, terms=use.args, then=self.follow())
        if kind == "phase":
            self.next()
            number = self.next()
            return Process("phase", number, then=self.follow())
        use = self.use()
        return Process("call", use.name, terms=use.args)


def read(text: str) -> Model:
    """The model of a file's text."""
    reader, model = Reader(text), Model()
    declared = set[str]()

    def declare(name: str) -> str:
        if name in declared:
            raise reader.error(f"{name} is declared twice")
        declared.add(name)
        return name

    while not reader.take("process"):
        kind = reader.next()
        if kind == "type":
            model.types.add(declare(reader.name()))
        elif kind in ("free", "const"):
            names = reader.names()
            reader.want(":")
            gives, options = reader.name(), reader.options()
            for name in names:
                model.functions[declare(name)] = Function((), gives, options)
        elif kind == "fun":
            name = declare(reader.name())
            reader.want("(")
            takes = tuple(reader.names()) if reader.peek() != ")" else ()
            reader.want(")")
            reader.want(":")
            gives = reader.name()
            model.functions[name] = Function(takes, gives, reader.options())
        elif kind == "reduc":
            rules = reader.rules()
            name = declare(rules[0].left.name)
            model.rules[name] = rules
            model.functions[name] = Function((), "?", reader.options() | {"destructor"})
        elif kind == "equation":
            model.equations += reader.rules()
        elif kind == "event":
            name = declare(reader.name())
            reader.want("(")
            model.events[name] = tuple(reader.names()) if reader.peek() != ")" else ()
            reader.want(")")
        elif kind == "nounif":
            variables = reader.typed(";")
            what = reader.use()
            if what.name != "attacker" or any(arg.name not in variables for arg in what.args[0].args):
                raise reader.error("only attacker(f(x, ...)) of variables is understood")
            model.unselected.add(what.args[0].name)
            if reader.take("phase"):
                reader.next()
        elif kind == "query":
            model.claims.append(reader.claim())
        elif kind == "let":
            name = declare(reader.name())
            given = reader.typed(")") if reader.take("(") else {}
            reader.want("=")
            model.macros[name] = (given, reader.process())
        else:
            raise reader.error(f"no declaration begins with {kind!r}")
        reader.want(".")
    model.main = reader.process()
    if reader.peek():
        raise reader.error(f"{reader.peek()!r} after the process")
    return model
