"""Terms of the symbolic model, kept once each, with unification and matching.

Two terms are equal exactly where they are the same object, so that what is shared in a transcript costs once. The
function COMMUTES takes its two arguments in either order; it stands for X25519, where both ends compute the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

COMMUTES = "dh:shared"
TUPLE = "tuple"
VARIABLE = ""


class Term:
    """A variable (``fun`` is VARIABLE, ``number`` tells which) or a function of terms; constants have no arguments."""

    __slots__ = ("args", "fun", "number", "serial", "size", "symbols", "variables")

    def __init__(self, fun: str, args: tuple[Term, ...], number: int, serial: int) -> None:
        self.fun, self.args, self.number, self.serial = fun, args, number, serial
        self.size: int = 1 + sum(arg.size for arg in args)
        self.symbols: dict[str, int] = {fun: 1} if fun != VARIABLE else {}
        for arg in args:
            for symbol, times in arg.symbols.items():
                self.symbols[symbol] = self.symbols.get(symbol, 0) + times
        self.variables: frozenset[int] = (
            frozenset((number,)) if fun == VARIABLE else frozenset[int]().union(*(arg.variables for arg in args))
        )

    def __repr__(self) -> str:
        if self.fun == VARIABLE:
            return f"x{self.number}"
        name = "" if self.fun == TUPLE else self.fun
        return f"{name}({', '.join(map(repr, self.args))})" if self.args else name


Substitution = dict[int, Term]

_made: dict[tuple[str, tuple[int, ...], int], Term] = {}


def _intern(fun: str, args: tuple[Term, ...], number: int = -1) -> Term:
    key = (fun, tuple(arg.serial for arg in args), number)
    found = _made.get(key)
    if found is None:
        found = _made[key] = Term(fun, args, number, len(_made))
    return found


def var(number: int) -> Term:
    return _intern(VARIABLE, (), number)


def fn(fun: str, args: Iterable[Term] = ()) -> Term:
    given = tuple(args)
    if fun == COMMUTES and given[0].serial > given[1].serial:
        given = (given[1], given[0])
    return _intern(fun, given)


def apply(term: Term, by: Substitution, memo: dict[int, Term] | None = None) -> Term:
    """The term with all variables replaced, those in what replaces them as well."""
    if not term.variables:
        return term
    if memo is None:
        memo = {}
    known = memo.get(term.serial)
    if known is not None:
        return known
    if term.fun == VARIABLE:
        new = by.get(term.number)
        done = term if new is None else apply(new, by, memo)
    else:
        done = fn(term.fun, [apply(arg, by, memo) for arg in term.args])
    memo[term.serial] = done
    return done


def _walk(term: Term, by: Substitution) -> Term:
    while term.fun == VARIABLE:
        new = by.get(term.number)
        if new is None:
            return term
        term = new
    return term


def _occurs(number: int, term: Term, by: Substitution) -> bool:
    todo, seen = list(term.variables), set(term.variables)
    while todo:
        one = todo.pop()
        if one == number:
            return True
        new = by.get(one)
        if new is not None:
            todo += [other for other in new.variables if other not in seen]
            seen |= new.variables
    return False


def unify(pairs: Iterable[tuple[Term, Term]], by: Substitution) -> Iterator[Substitution]:
    """All substitutions that extend ``by`` and make each pair equal; more than one only where COMMUTES is in them."""
    by = dict(by)
    stack, delayed = list(pairs), list[tuple[Term, Term]]()
    seen = set[tuple[int, int]]()
    while stack:
        a, b = stack.pop()
        a, b = _walk(a, by), _walk(b, by)
        if a is b:
            continue
        if a.fun != VARIABLE and b.fun == VARIABLE:
            a, b = b, a
        if a.fun == VARIABLE:
            if _occurs(a.number, b, by):
                return
            by[a.number] = b
            continue
        if a.fun != b.fun or len(a.args) != len(b.args) or not (a.variables or b.variables):
            return
        if (a.serial, b.serial) in seen:
            continue
        seen.add((a.serial, b.serial))
        if a.fun == COMMUTES:
            delayed.append((a, b))
        else:
            stack += zip(a.args, b.args, strict=True)
    if not delayed:
        yield by
        return
    (a, b), rest = delayed[0], delayed[1:]
    for x, y in {a.args, a.args[::-1]}:
        yield from unify([(x, b.args[0]), (y, b.args[1]), *rest], by)


def may_match(general: Term, special: Term) -> bool:
    """False where it is clear without a look inside that the second is no case of the first."""
    if general.size > special.size or len(general.symbols) > len(special.symbols):
        return False
    has = special.symbols
    return all(times <= has.get(symbol, 0) for symbol, times in general.symbols.items())


def match(pairs: Iterable[tuple[Term, Term]], by: Substitution) -> Iterator[Substitution]:
    """As ``unify``, but only variables of the first of each pair are replaced."""
    by = dict(by)
    stack, delayed = list(pairs), list[tuple[Term, Term]]()
    seen = set[tuple[int, int]]()
    while stack:
        a, b = stack.pop()
        if a.fun == VARIABLE:
            if by.setdefault(a.number, b) is not b:
                return
            continue
        if not a.variables and a is not b:
            return
        if a.fun != b.fun or len(a.args) != len(b.args):
            return
        if not a.variables or (a.serial, b.serial) in seen:
            continue
        seen.add((a.serial, b.serial))
        if a.fun == COMMUTES:
            delayed.append((a, b))
        else:
            stack += zip(a.args, b.args, strict=True)
    if not delayed:
        yield by
        return
    (a, b), rest = delayed[0], delayed[1:]
    for x, y in {a.args, a.args[::-1]}:
        yield from match([(x, b.args[0]), (y, b.args[1]), *rest], by)
