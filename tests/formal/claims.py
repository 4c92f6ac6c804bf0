"""Whether the claims of a model follow from its clauses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.formal.clauses import Clause, Translation
from tests.formal.saturate import Kept, Saturation, subsumes
from tests.formal.syntax import Claim, Model, Use, read
from tests.formal.terms import Substitution, Term, apply, fn, match, var
from tests.formal.typing_rules import check


@dataclass(frozen=True)
class Verdict:
    """holds: no derivation contradicts the claim. Otherwise ``against`` is one, which need not be an attack: the
    clauses say a little more than the model can do."""

    claim: str
    holds: bool
    against: Clause | None = None

    def derivation(self) -> list[str]:
        """The steps of the model in it, in the order in which the derivation came to them."""
        return list(dict.fromkeys(_steps(self.against))) if self.against else []


def _steps(clause: Clause) -> Iterator[str]:
    if isinstance(clause.why, str):
        yield clause.why
    else:
        for part in clause.why:
            yield from _steps(part)


def _goals(saturation: Saturation, goal: Clause) -> list[Kept]:
    """All ways to the goal, each with what the attacker needs to have only as variables."""
    found, seen = list[Kept](), list[Kept]()
    todo = list(saturation.simplified(goal))
    while todo:
        new = todo.pop()
        if any(subsumes(kept, new) for kept in seen):
            continue
        seen.append(new)
        if new.selected is None:
            found.append(new)
            continue
        feature = (new.selected.fun, "*" if new.selected.fun.startswith("end:") else new.selected.args[0].fun)
        for other in saturation.with_conclusion(feature):
            for clause in saturation.resolved(other, new):
                todo += saturation.simplified(clause)
    return found


def _follows(claim: Claim, translation: Translation, way: Clause) -> bool:
    """Whether one of the claim's conclusions is among the events that must have happened on this way."""
    values = way.conclusion.args
    scope = {name: translation.fresh() for name in claim.variables}
    by: Substitution = {
        scope[name].number: value for name, value in zip(claim.variables, values[: len(claim.variables)], strict=True)
    }
    # a variable that is in no premise may be anything
    mentioned = {name for _, what, _ in claim.premises for name in _mentioned(what)}
    by = {scope[name].number: by[scope[name].number] for name in claim.variables if name in mentioned}
    injective = claim.premises[0][0] == "inj-event"
    session = values[-1].variables if len(values) > len(claim.variables) else frozenset[int]()
    begun = [fact for fact in way.hypotheses if fact.fun.startswith("begin:")]

    def every(wanted: list[tuple[str, Term]], by: Substitution) -> bool:
        if not wanted:
            return True
        (kind, term), rest = wanted[0], wanted[1:]
        return any(
            every(rest, further)
            for fact in begun
            if fact.fun == term.fun
            # two sessions with one beginning would be no injection: the beginning has to name the session
            and not (injective and kind == "inj-event" and not session <= fact.variables)
            for further in match([(term, fact)], by)
        )

    for conjunction in claim.conclusions:
        wanted = []
        for kind, what in conjunction:
            wanted.append((kind, fn(f"begin:{what.name}", translation.build(what, scope).args)))
        if every(wanted, by):
            return True
    return False


def _mentioned(use: Use) -> Iterator[str]:
    yield use.name
    for arg in use.args:
        yield from _mentioned(arg)


def judge(text: str, limit: float) -> list[Verdict]:
    """A verdict for each claim of a model. limit: seconds, beyond which OutOfTimeError is raised."""
    model = read(text)
    check(model)
    # claims with the same events in their conclusions are looked at together
    groups: dict[frozenset[str], list[Claim]] = {}
    for claim in model.claims:
        groups.setdefault(frozenset(what.name for every in claim.conclusions for _, what in every), []).append(claim)
    verdicts = {id(claim): verdict for claims in groups.values() for claim, verdict in _judge(model, claims, limit)}
    return [verdicts[id(claim)] for claim in model.claims]


def _judge(model: Model, claims: list[Claim], limit: float) -> Iterator[tuple[Claim, Verdict]]:
    translation = Translation(model, claims)
    goals = [translation.goal(claim) for claim in claims]
    # with other variables than any clause has
    wanted = [
        apply(fact, {number: var(-2 - number) for number in fact.variables}, {})
        for goal in goals
        for fact in goal.hypotheses
        if fact.fun.startswith("end:")
    ]
    made, wrong = translation.made(), frozenset[str]()
    while True:
        made -= wrong
        saturation = Saturation(
            translation.clauses, translation.data(), frozenset(model.unselected), made, wanted, limit
        )
        wrong = saturation.got_otherwise()
        if not wrong:
            break
    for claim, goal in zip(claims, goals, strict=True):
        ways = _goals(saturation, goal)
        against = next((way.clause for way in ways if not _follows(claim, translation, way.clause)), None)
        yield claim, Verdict(claim.text, against is None, against)
