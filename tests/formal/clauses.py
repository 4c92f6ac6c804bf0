"""A model as Horn clauses: what the attacker can come to know, and which events can happen.

The translation is that of Blanchet, "Modeling and Verifying Security Protocols with the Applied Pi Calculus and
ProVerif" (2016), section 4, for one public channel. Facts are terms: ``att:n`` of a term for what the attacker has in
phase n, ``end:e`` for an event that happened (its last argument tells the session), ``begin:e`` for one that must have
happened before. Names are functions of the sessions and inputs before them. Types are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from tests.formal.syntax import Binding, Claim, Model, ModelError, Process, Use
from tests.formal.terms import COMMUTES, TUPLE, VARIABLE, Substitution, Term, apply, fn, unify, var


@dataclass(frozen=True)
class Clause:
    """``hypotheses`` together give ``conclusion``. why: the step of the model, or the clauses that it was made of."""

    hypotheses: tuple[Term, ...]
    conclusion: Term
    why: str | tuple[Clause, Clause] = ""


def attacker(phase: int, term: Term) -> Term:
    return fn(f"att:{phase}", (term,))


@dataclass(frozen=True)
class State:
    """One way to a step of a process."""

    scope: dict[str, Term]
    hypotheses: tuple[Term, ...]
    sessions: tuple[Term, ...]
    inputs: tuple[Term, ...]
    phase: int
    path: str

    def under(self, by: Substitution) -> State:
        memo: dict[int, Term] = {}
        return replace(
            self,
            scope={name: apply(term, by, memo) for name, term in self.scope.items()},
            hypotheses=tuple(apply(term, by, memo) for term in self.hypotheses),
            sessions=tuple(apply(term, by, memo) for term in self.sessions),
            inputs=tuple(apply(term, by, memo) for term in self.inputs),
        )


class Translation:
    """All clauses of a model, as far as some of its claims need them: these alone say which events matter."""

    def __init__(self, model: Model, claims: Sequence[Claim]) -> None:
        self.model = model
        self.numbers = count()
        self.clauses: list[Clause] = []
        self.shared = self._shared()
        self.premises = {what.name for claim in claims for kind, what, _ in claim.premises if kind != "attacker"}
        self.begun = {what.name for claim in claims for every in claim.conclusions for _, what in every}
        self.phases = 1
        self.process(model.main, State({}, (), (), (), 0, ""))
        for phase in range(self.phases):
            self.abilities(phase)

    def fresh(self) -> Term:
        return var(next(self.numbers))

    def _shared(self) -> tuple[str, str]:
        """The one equation that is understood: dh(a, pub(b)) = dh(b, pub(a)); gives the names of dh and pub."""
        for equation in self.model.equations:
            left, right = equation.left, equation.right
            a, b = left.args[0], left.args[1].args[0]
            if right != Use(left.name, (b, Use(left.args[1].name, (a,)))) or len(self.model.equations) > 1:
                raise ModelError("the only equation that is understood is dh(a, pub(b)) = dh(b, pub(a))")
            return left.name, left.args[1].name
        return "", ""

    def data(self) -> frozenset[str]:
        """Functions that everybody can make and take apart."""
        return frozenset(
            (TUPLE, *(name for name, function in self.model.functions.items() if "data" in function.options))
        )

    def made(self) -> frozenset[str]:
        """Public functions that no way of taking apart is for, but X25519's: values of most of them never cross the
        network in the open, and the attacker has those that it made itself."""
        known = frozenset(
            name
            for name, function in self.model.functions.items()
            if function.takes and not function.options & {"private", "destructor", "data"} and name not in self.shared
        )
        opened = {arg.name for rules in self.model.rules.values() for rule in rules for arg in rule.left.args}
        for clause in self.clauses:
            if isinstance(clause.why, str) and ": out" in clause.why:
                opened |= set(self.readable(clause.conclusion.args[0]))
        return known - opened

    def readable(self, term: Term) -> Iterator[str]:
        """The functions of what comes out where a term is taken apart as far as that goes."""
        yield term.fun
        inside = {number for number, _ in enumerate(term.args)} if term.fun in self.data() else set[int]()
        for rules in self.model.rules.values():
            for rule in rules:
                for arg in rule.left.args:
                    inside |= {n for n, part in enumerate(arg.args) if arg.name == term.fun and part == rule.right}
        for number in inside:
            yield from self.readable(term.args[number])

    def abilities(self, phase: int) -> None:
        """What the attacker can do with what it has."""
        dh, pub = self.shared

        def clause(hypotheses: list[Term], conclusion: Term, why: str) -> None:
            known = tuple(attacker(phase, term) for term in hypotheses)
            self.clauses.append(Clause(known, attacker(phase, conclusion), why))

        for name, function in self.model.functions.items():
            if function.options & {"private", "destructor"} or (function.takes and "data" in function.options):
                continue
            if name == dh:
                a, b = self.fresh(), self.fresh()
                clause([a, fn(pub, (b,))], fn(COMMUTES, (a, b)), name)
                continue
            args = [self.fresh() for _ in function.takes]
            clause(args, fn(name, args), name)
        for name, rules in self.model.rules.items():
            if "private" not in self.model.functions[name].options:
                for rule in rules:
                    scope = {one: self.fresh() for one in rule.variables}
                    clause([self.build(arg, scope) for arg in rule.left.args], self.build(rule.right, scope), name)
        own = self.fresh()
        clause([], fn("own", (own,)), "a name of the attacker")
        if phase:
            known = self.fresh()
            self.clauses.append(Clause((attacker(phase - 1, known),), attacker(phase, known), "known before"))

    def build(self, use: Use, scope: dict[str, Term]) -> Term:
        """A term without destructors."""
        if not use.args and use.name in scope:
            return scope[use.name]
        return fn(use.name, [self.build(arg, scope) for arg in use.args])

    def values(self, use: Use, state: State) -> Iterator[tuple[Term, State]]:
        """Each value that a term can have, with the state in which it has it."""
        if not use.args and use.name in state.scope:
            yield state.scope[use.name], state
            return
        for args, after in self.all_values(use.args, state):
            if use.name in self.model.rules:
                for rule in self.model.rules[use.name]:
                    scope = {one: self.fresh() for one in rule.variables}
                    left = [self.build(arg, scope) for arg in rule.left.args]
                    for by in unify(zip(left, args, strict=True), {}):
                        yield apply(self.build(rule.right, scope), by), after.under(by)
            elif use.name == self.shared[0]:
                # every point is the public key of some number, whether or not somebody knows that
                other = self.fresh()
                for by in unify([(args[1], fn(self.shared[1], (other,)))], {}):
                    yield apply(fn(COMMUTES, (args[0], other)), by), after.under(by)
            else:
                yield fn(use.name, args), after

    def all_values(self, uses: tuple[Use, ...], state: State) -> Iterator[tuple[list[Term], State]]:
        """Values of several terms at once: they are kept in the scope meanwhile, so that what is learned of a variable
        in one is known in all."""
        states = [state]
        keys = [f"#{len(state.scope)}.{number}" for number in range(len(uses))]
        for use, key in zip(uses, keys, strict=True):
            states = [
                replace(after, scope={**after.scope, key: value})
                for before in states
                for value, after in self.values(use, before)
            ]
        for after in states:
            scope = dict(after.scope)
            yield [scope.pop(key) for key in keys], replace(after, scope=scope)

    def matched(self, pattern: Binding, value: Term, state: State) -> Iterator[State]:
        """The states in which the value has the pattern."""
        if pattern.kind == "variable":
            yield replace(state, scope={**state.scope, pattern.name: value})
        elif pattern.kind == "equal":
            assert pattern.term is not None
            kept = replace(state, scope={**state.scope, "#value": value})
            for wanted, after in self.values(pattern.term, kept):
                for by in unify([(after.scope["#value"], wanted)], {}):
                    yield after.under(by)
        else:
            parts = [self.fresh() for _ in pattern.parts]
            for by in unify([(value, fn(pattern.name, parts))], {}):
                keys = [f"#part{len(state.scope)}.{number}" for number in range(len(parts))]
                held = dict(zip(keys, (apply(part, by) for part in parts), strict=True))
                states = [replace(after := state.under(by), scope={**after.scope, **held})]
                for part, key in zip(pattern.parts, keys, strict=True):
                    states = [one for before in states for one in self.matched(part, before.scope[key], before)]
                yield from states

    def say(self, state: State, conclusion: Term, why: str) -> None:
        self.clauses.append(Clause(state.hypotheses, conclusion, f"{state.path}: {why}"))

    def process(self, step: Process, state: State) -> None:
        states = [state]
        if step.kind == "repl":
            states = [replace(state, sessions=(*state.sessions, self.fresh()))]
        elif step.kind == "new":
            name = fn(f"{state.path}.{step.name}", (*state.sessions, *state.inputs))
            states = [replace(state, scope={**state.scope, step.name: name})]
        elif step.kind == "in":
            assert step.pattern is not None
            value = self.fresh()
            heard = replace(state, hypotheses=(*state.hypotheses, attacker(state.phase, value)))
            states = []
            for after in self.matched(step.pattern, value, heard):
                bound = [after.scope[name] for name in _variables(step.pattern)]
                states.append(replace(after, inputs=(*after.inputs, *bound)))
        elif step.kind == "out":
            for value, after in self.values(step.terms[1], state):
                self.say(after, attacker(after.phase, value), f"out {_shown(step.terms[1])}")
        elif step.kind == "if":
            equal = Binding("equal", term=step.terms[1])
            states = [
                one for value, after in self.values(step.terms[0], state) for one in self.matched(equal, value, after)
            ]
        elif step.kind == "let":
            assert step.pattern is not None
            states = [
                one
                for value, after in self.values(step.terms[0], state)
                for one in self.matched(step.pattern, value, after)
            ]
        elif step.kind == "event":
            states = []
            for args, after in self.all_values(step.terms, state):
                if step.name in self.premises:
                    self.say(
                        after, fn(f"end:{step.name}", (*args, fn("session", after.sessions))), f"event {step.name}"
                    )
                begun = (fn(f"begin:{step.name}", args),) if step.name in self.begun else ()
                states.append(replace(after, hypotheses=(*after.hypotheses, *begun)))
        elif step.kind == "phase":
            self.phases = max(self.phases, int(step.name) + 1)
            states = [replace(state, phase=int(step.name))]
        elif step.kind == "call":
            takes, body = self.model.macros[step.name]
            for args, after in self.all_values(step.terms, state):
                scope = dict(zip(takes, args, strict=True))
                self.process(body, replace(after, scope=scope, path=f"{after.path}{step.name}"))
            return
        for after in states:
            for number, following in enumerate(step.then):
                path = f"{after.path}{number}:" if step.kind == "par" else after.path
                self.process(following, replace(after, path=path))

    def goal(self, claim: Claim) -> Clause:
        """The claim's premises as hypotheses; the conclusion keeps what the claim's variables stand for, and the
        session of the first premise."""
        scope = {name: self.fresh() for name in claim.variables}
        hypotheses, sessions = list[Term](), list[Term]()
        for kind, what, phase in claim.premises:
            if kind == "attacker":
                hypotheses.append(attacker(self.phases - 1 if phase is None else phase, self.build(what, scope)))
            else:
                sessions.append(self.fresh())
                args = [self.build(arg, scope) for arg in what.args]
                hypotheses.append(fn(f"end:{what.name}", (*args, sessions[-1])))
        kept = fn("goal", (*scope.values(), *sessions[:1]))
        return Clause(tuple(hypotheses), kept, "the claim")


def _variables(pattern: Binding) -> list[str]:
    if pattern.kind == "variable":
        return [pattern.name]
    return [name for part in pattern.parts for name in _variables(part)]


def _shown(use: Use) -> str:
    args = ", ".join(map(_shown, use.args))
    return f"({args})" if use.name == "tuple" else f"{use.name}({args})" if use.args else use.name


def is_variable(fact: Term) -> bool:
    return fact.args[0].fun == VARIABLE
