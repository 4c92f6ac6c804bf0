"""Resolution with free selection: all that follows from a set of clauses, and whether a goal does.

The algorithm is that of Blanchet (2016), section 4: a clause with a hypothesis that says more than "the attacker has
something" is resolved on it; saturated, the clauses without such a hypothesis give all that can be derived.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator

from tests.formal.clauses import Clause, is_variable
from tests.formal.terms import VARIABLE, Substitution, Term, apply, fn, match, may_match, unify, var

ANY = "*"
SEVERAL = 3


class OutOfTimeError(Exception):
    """The clauses were not saturated within the limit."""


def _feature(fact: Term) -> tuple[str, str]:
    """Predicate, and of what the attacker has the outermost function."""
    if fact.fun.startswith("att:"):
        return fact.fun, ANY if is_variable(fact) else fact.args[0].fun
    return fact.fun, ANY


class Choice:
    """Which hypothesis a clause is resolved on: an event, else one that few clauses conclude, which is soon over where
    the attacker can never have it, else the largest: a ciphertext that was made of all others tells what they are."""

    def __init__(self, clauses: Iterable[Clause], unselected: frozenset[str]) -> None:
        self.ways = Counter(clause.conclusion.args[0].fun for clause in clauses if clause.conclusion.args)
        self.unselected = unselected

    def of(self, clause: Clause) -> Term | None:
        able = [fact for fact in clause.hypotheses if fact.fun.startswith("end:") or self.says_something(fact)]
        return max(able, key=self.rank, default=None)

    def says_something(self, fact: Term) -> bool:
        """Whether more is said than that the attacker has anything, or any value of a function that it has."""
        what = fact.args[0]
        nothing = what.fun == VARIABLE or (
            what.fun in self.unselected and all(arg.fun == VARIABLE for arg in what.args)
        )
        return fact.fun.startswith("att:") and not nothing

    def rank(self, fact: Term) -> tuple[bool, int, int, int]:
        return fact.fun.startswith("end:"), -min(self.ways[fact.args[0].fun], SEVERAL), fact.size, fact.serial


class Kept:
    """A clause in its normal form, with what is looked at often."""

    __slots__ = ("alive", "clause", "concludes", "features", "other", "selected", "size")

    def __init__(self, clause: Clause, choice: Choice) -> None:
        self.clause = clause
        self.concludes = _feature(clause.conclusion)
        self.features = frozenset(map(_feature, clause.hypotheses)) - {(f"att:{n}", ANY) for n in range(3)}
        self.size = clause.conclusion.size + sum(fact.size for fact in clause.hypotheses)
        self.selected = choice.of(clause)
        self.alive = True
        self.other: Clause | None = None

    def renamed(self) -> Clause:
        """The clause with other variables than any normal form has."""
        if self.other is None:
            numbers = frozenset[int]().union(
                self.clause.conclusion.variables, *(fact.variables for fact in self.clause.hypotheses)
            )
            by = {number: var(-2 - number) for number in numbers}
            memo: dict[int, Term] = {}
            self.other = Clause(
                tuple(apply(fact, by, memo) for fact in self.clause.hypotheses),
                apply(self.clause.conclusion, by, memo),
                self.clause.why,
            )
        return self.other


def subsumes(general: Kept, special: Kept) -> bool:
    """Whether the first says all that the second says."""
    if not general.features <= special.features or not may_match(general.clause.conclusion, special.clause.conclusion):
        return False
    mine, theirs = general.renamed().hypotheses, special.clause.hypotheses
    if not all(any(may_match(fact, other) for other in theirs) for fact in general.clause.hypotheses):
        return False

    def rest(number: int, by: Substitution) -> bool:
        if number == len(mine):
            return True
        fact = mine[number]
        return any(
            rest(number + 1, further)
            for other in theirs
            if other.fun == fact.fun and may_match(fact, other)
            for further in match([(fact, other)], by)
        )

    return any(rest(0, by) for by in match([(general.renamed().conclusion, special.clause.conclusion)], {}))


class Saturation:
    """data: functions that the attacker makes and takes apart at will. unselected: public functions; that the attacker
    has some value of one is not looked into. made: functions whose values the attacker is taken to have only where it
    made them itself (``got_otherwise`` tells whether that was right). wanted: the events that claims are about. limit:
    seconds of processor time."""

    def __init__(
        self,
        clauses: Iterable[Clause],
        data: frozenset[str],
        unselected: frozenset[str],
        made: frozenset[str],
        wanted: Iterable[Term],
        limit: float,
    ) -> None:
        clauses = list(clauses)
        self.data, self.choice, self.deadline = data, Choice(clauses, unselected), time.process_time() + limit
        self.by_conclusion: dict[tuple[str, str], list[Kept]] = defaultdict(list)
        self.by_selected: dict[tuple[str, str], list[Kept]] = defaultdict(list)
        self.all: dict[tuple[str, str], list[Kept]] = defaultdict(list)
        self.wanted = list(wanted)
        self.made_only, self.opened = made, made | data
        self.makers: dict[tuple[str, str], list[Clause]] = defaultdict(list)
        for clause in clauses:
            if self.is_maker(clause):
                other = Kept(_numbered(clause), self.choice).renamed()
                self.makers[_feature(clause.conclusion)].append(other)
        self.tried = 0
        self.waiting: list[tuple[int, int, Kept]] = []
        for clause in clauses:
            self.add(clause)
        while self.waiting:
            self.step()

    def add(self, clause: Clause) -> None:
        for new in self.simplified(clause):
            self.tried += 1
            heapq.heappush(self.waiting, (new.size, self.tried, new))

    def step(self) -> None:
        if time.process_time() > self.deadline:
            raise OutOfTimeError(f"{self.tried} clauses, {len(self.waiting)} of them waiting")
        new = heapq.heappop(self.waiting)[2]
        if self.is_known(new):
            return
        self.forget_less_than(new)
        self.all[new.concludes].append(new)
        if new.selected is None:
            self.by_conclusion[new.concludes].append(new)
            for other in self.with_selected(new.concludes):
                self.resolve(new, other)
        else:
            self.by_selected[_feature(new.selected)].append(new)
            for other in self.with_conclusion(_feature(new.selected)):
                self.resolve(other, new)

    def with_selected(self, feature: tuple[str, str]) -> list[Kept]:
        if feature[1] == ANY and feature[0].startswith("att:"):
            return [
                kept for one, list_ in self.by_selected.items() if one[0] == feature[0] for kept in list_ if kept.alive
            ]
        return [kept for kept in self.by_selected[feature] if kept.alive]

    def with_conclusion(self, feature: tuple[str, str]) -> list[Kept]:
        found = [kept for kept in self.by_conclusion[feature] if kept.alive]
        if feature[1] != ANY:
            found += [kept for kept in self.by_conclusion[feature[0], ANY] if kept.alive]
        return found

    def is_known(self, new: Kept) -> bool:
        places = {new.concludes, (new.concludes[0], ANY)}
        return any(kept.alive and subsumes(kept, new) for place in places for kept in self.all[place])

    def forget_less_than(self, new: Kept) -> None:
        places = [new.concludes]
        if new.concludes[1] == ANY:
            places = [place for place in self.all if place[0] == new.concludes[0]]
        for place in places:
            for kept in self.all[place]:
                if kept.alive and subsumes(new, kept):
                    kept.alive = False
            self.all[place] = [kept for kept in self.all[place] if kept.alive]

    def resolved(self, fact: Kept, rule: Kept) -> Iterator[Clause]:
        """What follows where the first clause's conclusion is the second one's selected hypothesis."""
        other = fact.renamed()
        assert rule.selected is not None
        for by in unify([(other.conclusion, rule.selected)], {}):
            memo: dict[int, Term] = {}
            hypotheses = [one for one in rule.clause.hypotheses if one is not rule.selected]
            yield Clause(
                tuple(apply(one, by, memo) for one in (*other.hypotheses, *hypotheses)),
                apply(rule.clause.conclusion, by, memo),
                (fact.clause, rule.clause),
            )

    def resolve(self, fact: Kept, rule: Kept) -> None:
        for clause in self.resolved(fact, rule):
            self.add(clause)

    def is_maker(self, clause: Clause) -> bool:
        """Whether the clause makes one thing out of things that tell nothing."""
        return (
            clause.conclusion.fun.startswith("att:")
            and not is_variable(clause.conclusion)
            and clause.conclusion.args[0].fun not in self.data
            and all(fact.fun == clause.conclusion.fun for fact in clause.hypotheses)
            and not any(self.choice.says_something(fact) for fact in clause.hypotheses)
        )

    def has(self, fact: Term, known: Collection[Term]) -> bool:
        """Whether the attacker can make something, by makers, of what is known."""
        if any(fn(f"att:{n}", fact.args) in known for n in range(int(fact.fun.removeprefix("att:")) + 1)):
            return True
        if fact.args[0].fun in self.data:
            return all(self.has(fn(fact.fun, (arg,)), known) for arg in fact.args[0].args)
        for maker in self.makers[_feature(fact)]:
            for by in match([(maker.conclusion, fact)], {}):
                needed = [_put(one, by) for one in maker.hypotheses]
                if all(self.has(one, known) for one in needed):
                    return True
        return False

    def parts(self, fact: Term, functions: frozenset[str]) -> Iterator[Term]:
        """What the attacker has to have, or gets, where the fact is of one of these functions."""
        if fact.fun.startswith("att:") and fact.args[0].fun in functions:
            for arg in fact.args[0].args:
                yield from self.parts(fn(fact.fun, (arg,)), functions)
        else:
            yield fact

    def is_wanted(self, event: Term) -> bool:
        """Whether some claim is about an event like this one."""
        return any(True for one in self.wanted for _ in unify([(one, event)], {}))

    def got_otherwise(self) -> frozenset[str]:
        """Those of the functions taken to be only made whose values the attacker can get from elsewhere."""
        found = set[str]()
        for (predicate, function), list_ in self.by_conclusion.items():
            if not predicate.startswith("att:") or (function != ANY and function not in self.made_only):
                continue
            if any(kept.alive and kept.clause.why not in (function, "known before") for kept in list_):
                found |= self.made_only if function == ANY else {function}
        return frozenset(found)

    def simplified(self, clause: Clause) -> Iterator[Kept]:
        """The clauses that say the same in normal form; none where it says nothing."""
        hypotheses = dict.fromkeys(part for fact in clause.hypotheses for part in self.parts(fact, self.opened))
        for fact in list(hypotheses):
            phase = fact.fun.removeprefix("att:")
            if phase.isdigit() and any(fn(f"att:{n}", fact.args) in hypotheses for n in range(int(phase))):
                del hypotheses[fact]
        for fact in sorted((fact for fact in hypotheses if fact.fun.startswith("att:")), key=lambda fact: -fact.size):
            if not is_variable(fact) and self.has(fact, hypotheses.keys() - {fact}):
                del hypotheses[fact]
        for conclusion in self.parts(clause.conclusion, self.data):
            if conclusion.fun.startswith("end:") and not self.is_wanted(conclusion):
                continue
            made = isinstance(clause.why, tuple) and conclusion.fun.startswith("att:")
            if conclusion in hypotheses or (made and self.has(conclusion, hypotheses)):
                continue
            needed = [
                fact
                for fact in hypotheses
                if not (
                    fact.fun.startswith("att:")
                    and is_variable(fact)
                    and fact.args[0].number not in conclusion.variables
                    and not any(fact.args[0].number in other.variables for other in hypotheses if other is not fact)
                )
            ]
            yield Kept(_numbered(Clause(tuple(needed), conclusion, clause.why)), self.choice)


def _put(term: Term, by: Substitution) -> Term:
    """The term with its variables replaced once, as a match has them."""
    if not term.variables:
        return term
    return by.get(term.number, term) if term.fun == VARIABLE else fn(term.fun, [_put(arg, by) for arg in term.args])


def _numbered(clause: Clause) -> Clause:
    """The clause with its variables numbered from 0 on."""
    order: dict[int, Term] = {}

    def look(term: Term) -> None:
        if not term.variables or term.serial in seen:
            return
        seen.add(term.serial)
        if term.fun == VARIABLE:
            order[term.number] = var(len(order))
        for arg in term.args:
            look(arg)

    seen = set[int]()
    hypotheses = clause.hypotheses
    for fact in (clause.conclusion, *hypotheses):
        look(fact)
    # all at once: the new numbers may be old ones, too
    memo: dict[int, Term] = {}

    def new(term: Term) -> Term:
        if not term.variables:
            return term
        done = memo.get(term.serial)
        if done is None:
            done = order[term.number] if term.fun == VARIABLE else fn(term.fun, [new(arg) for arg in term.args])
            memo[term.serial] = done
        return done

    largest_first = sorted(hypotheses, key=lambda fact: (-fact.size, fact.fun))
    return Clause(tuple(map(new, largest_first)), new(clause.conclusion), clause.why)
