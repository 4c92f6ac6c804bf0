"""Whether a model's terms, events, claims and processes have the types that were declared for them."""

from __future__ import annotations

from tests.formal.syntax import BITSTRING, Binding, Model, ModelError, Process, Rule, Use

Types = dict[str, str]


class Checker:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.seen = set[str]()

    def known(self, kind: str) -> str:
        if kind not in self.model.types:
            raise ModelError(f"no type {kind}")
        return kind

    def term(self, use: Use, scope: Types, want: str | None = None) -> str:
        kind = self._term(use, scope)
        if want is not None and kind != want:
            raise ModelError(f"{use.name} is {kind}, not {want}")
        return kind

    def _term(self, use: Use, scope: Types) -> str:
        if use.name == "tuple":
            for arg in use.args:
                self.term(arg, scope)
            return BITSTRING
        if not use.args and use.name in scope:
            return scope[use.name]
        function = self.model.functions.get(use.name)
        if function is None:
            raise ModelError(f"{use.name} is not declared")
        if len(use.args) != len(function.takes):
            raise ModelError(f"{use.name} takes {len(function.takes)} arguments, not {len(use.args)}")
        for arg, kind in zip(use.args, function.takes, strict=True):
            self.term(arg, scope, kind)
        return function.gives

    def rule(self, rule: Rule) -> tuple[tuple[str, ...], str]:
        for kind in rule.variables.values():
            self.known(kind)
        takes = tuple(self.term(arg, rule.variables) for arg in rule.left.args)
        left, right = _names(rule.left) & set(rule.variables), _names(rule.right) & set(rule.variables)
        if right - left:
            raise ModelError(f"{rule.left.name}: {', '.join(sorted(right - left))} only on the right")
        return takes, self.term(rule.right, rule.variables)

    def pattern(self, pattern: Binding, scope: Types, kind: str | None) -> str:
        """Adds the variables of the pattern to the scope. kind: the value's type where known."""
        if pattern.kind == "equal":
            assert pattern.term is not None
            return self.term(pattern.term, scope, kind)
        if pattern.kind == "variable":
            found = pattern.type or kind
            if found is None:
                raise ModelError(f"{pattern.name} needs a type")
            if kind is not None and found != kind:
                raise ModelError(f"{pattern.name} is {found}, not {kind}")
            if pattern.name in self.model.functions or pattern.name in scope:
                raise ModelError(f"{pattern.name} hides another one")
            scope[pattern.name] = self.known(found)
            return found
        if pattern.name == "tuple":
            for part in pattern.parts:
                self.pattern(part, scope, None)
            gives = BITSTRING
        else:
            function = self.model.functions.get(pattern.name)
            if function is None or "data" not in function.options or len(function.takes) != len(pattern.parts):
                raise ModelError(f"{pattern.name} is no data constructor of {len(pattern.parts)} arguments")
            for part, takes in zip(pattern.parts, function.takes, strict=True):
                self.pattern(part, scope, takes)
            gives = function.gives
        if kind is not None and gives != kind:
            raise ModelError(f"{pattern.name} is {gives}, not {kind}")
        return gives

    def event(self, name: str, args: tuple[Use, ...], scope: Types) -> None:
        takes = self.model.events.get(name)
        if takes is None or len(takes) != len(args):
            raise ModelError(f"event {name} is not declared with {len(args)} arguments")
        for arg, kind in zip(args, takes, strict=True):
            self.term(arg, scope, kind)

    def process(self, step: Process, scope: Types, phase: int) -> None:
        scope = dict(scope)
        if step.kind == "new":
            if step.name in scope or step.name in self.model.functions:
                raise ModelError(f"new {step.name} hides another one")
            scope[step.name] = self.known(step.type)
        elif step.kind == "in":
            self.term(step.terms[0], scope, "channel")
            assert step.pattern is not None
            self.pattern(step.pattern, scope, None)
        elif step.kind == "out":
            self.term(step.terms[0], scope, "channel")
            self.term(step.terms[1], scope)
        elif step.kind == "if":
            self.term(step.terms[1], scope, self.term(step.terms[0], scope))
        elif step.kind == "let":
            assert step.pattern is not None
            self.pattern(step.pattern, scope, self.term(step.terms[0], scope))
        elif step.kind == "event":
            self.event(step.name, step.terms, scope)
        elif step.kind == "phase":
            if int(step.name) <= phase:
                raise ModelError(f"phase {step.name} after phase {phase}")
            phase = int(step.name)
        elif step.kind == "call":
            if step.name not in self.model.macros:
                raise ModelError(f"no process {step.name}")
            takes, body = self.model.macros[step.name]
            if len(takes) != len(step.terms):
                raise ModelError(f"{step.name} takes {len(takes)} arguments")
            for use, kind in zip(step.terms, takes.values(), strict=True):
                self.term(use, scope, kind)
            self.process(body, dict(takes), phase)
        for after in step.then:
            self.process(after, scope, phase)


def _names(use: Use) -> set[str]:
    return {use.name}.union(*(_names(arg) for arg in use.args))


def check(model: Model) -> None:
    """Raises ModelError where types do not fit. Fills in the types of destructors."""
    checker = Checker(model)
    for function in model.functions.values():
        if "destructor" not in function.options:
            for kind in (*function.takes, function.gives):
                checker.known(kind)
    for name, rules in model.rules.items():
        for number, rule in enumerate(rules):
            takes, gives = checker.rule(rule)
            function = model.functions[name]
            if rule.left.name != name or (number and (takes, gives) != (function.takes, function.gives)):
                raise ModelError(f"{name}: its rules do not agree")
            function.takes, function.gives = takes, gives
    for equation in model.equations:
        checker.term(equation.left, equation.variables, checker.term(equation.right, equation.variables))
    for claim in model.claims:
        for kind, what, _ in claim.premises:
            if kind == "attacker":
                checker.term(what, claim.variables)
            else:
                checker.event(what.name, what.args, claim.variables)
        for conjunction in claim.conclusions:
            for _, what in conjunction:
                checker.event(what.name, what.args, claim.variables)
    for given, body in model.macros.values():
        checker.process(body, dict(given), 0)
    checker.process(model.main, {}, 0)
