"""The models are what the table makes of the text, are written as ProVerif wants them, and the solver says yes and no.

All models with all their claims: ``make formal``, which takes many minutes.
"""

from __future__ import annotations

import re

import pytest

from tests.formal.build import HERE, FormalModel, models
from tests.formal.claims import judge
from tests.formal.clauses import Translation
from tests.formal.syntax import ModelError, read
from tests.formal.terms import COMMUTES, apply, fn, match, unify, var
from tests.formal.typing_rules import check

ALL = models()


def test_the_committed_models_are_those_that_are_made() -> None:
    assert {path.stem: path.read_text() for path in HERE.glob("*.pv")} == {model.name: model.text for model in ALL}


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.name)
def test_a_model_reads_has_types_and_asks_what_the_table_says(model: FormalModel) -> None:
    found = read(model.text)
    check(found)
    assert len(found.claims) == len(model.claims)
    assert Translation(found, found.claims).clauses


def test_every_question_has_a_run_that_is_reached_and_something_is_broken_for_it() -> None:
    for model in ALL:
        assert any(not expected for expected, _ in model.claims), f"{model.name} cannot fail"
    assert sum(model.name.startswith("broken_") for model in ALL) >= 5


def test_the_documents_name_every_model_and_every_step() -> None:
    text = (HERE / "README.md").read_text()
    assert [model.name for model in ALL if f"`{model.name}`" not in text] == []
    protocol = (HERE.parent / "protocol.md").read_text()
    steps = re.search(r"^\| step \| message .*?\n\n", protocol, re.MULTILINE | re.DOTALL)
    assert steps is not None
    tokens = {row.split("|")[4].strip() for row in steps[0].splitlines()[2:] if row.strip()} - {""}
    assert tokens
    assert [token for token in tokens if f"`{token}`" not in text] == []


SHORT = """
free c: channel.
type scalar. type point.
fun pub(scalar): point.
fun dh(scalar, point): bitstring.
equation forall a: scalar, b: scalar; dh(a, pub(b)) = dh(b, pub(a)).
fun enc(bitstring, bitstring): bitstring.
reduc forall k: bitstring, m: bitstring; dec(k, enc(k, m)) = m.
free s, t: bitstring [private].
event A(point, point). event B(point, point).
query attacker(s).
query attacker(t).
query x: point, y: point; event(B(x, y)) ==> event(A(x, y)).
query x: point, y: point; inj-event(B(x, y)) ==> inj-event(A(x, y)).
query x: point, y: point; event(B(x, y)).
let P(a: scalar, other: point) =
    new e: scalar; event A(pub(e), other); out(c, pub(e)); in(c, y: point);
    out(c, enc(dh(e, y), t)); out(c, enc((dh(e, y), dh(a, other)), s)).
let Q(b: scalar, other: point) =
    %s out(c, pub(e)); in(c, y: point); in(c, z: bitstring);
    let w: bitstring = dec((dh(e, y), dh(b, other)), z) in event B(y, pub(b)).
process new a: scalar; new b: scalar; out(c, (pub(a), pub(b))); %s (!P(a, pub(b)) | !Q(b, pub(a)))
"""


def test_a_secret_under_both_keys_is_kept_one_under_the_ephemeral_key_alone_is_not() -> None:
    """Ephemeral Diffie-Hellman without authentication falls to a man in the middle, with the static keys it does not;
    and who takes a message twice has two sessions where the other end has one."""
    assert [one.holds for one in judge(SHORT % ("new e: scalar;", ""), 60)] == [True, False, True, False, False]


def test_a_stolen_static_key_is_seen() -> None:
    assert [one.holds for one in judge(SHORT % ("new e: scalar;", "out(c, a);"), 60)][:3] == [False, False, False]


LOWE = """
free c: channel.
type sk. type pk.
fun pk0(sk): pk.
fun aenc(pk, bitstring): bitstring.
reduc forall k: sk, m: bitstring; adec(k, aenc(pk0(k), m)) = m.
free secret1: bitstring [private].
fun senc(bitstring, bitstring): bitstring.
reduc forall k: bitstring, m: bitstring; sdec(k, senc(k, m)) = m.
query attacker(secret1).
let A(a: sk, b: pk) =
    in(c, x: pk); new na: bitstring; out(c, aenc(x, (na, pk0(a)))); in(c, m: bitstring);
    let (=na, nb: bitstring%s) = adec(a, m) in out(c, aenc(x, nb)).
let B(b: sk, a: pk) =
    in(c, m: bitstring); let (na: bitstring, =a) = adec(b, m) in new nb: bitstring;
    out(c, aenc(a, (na, nb%s))); in(c, m3: bitstring); let =nb = adec(b, m3) in out(c, senc(nb, secret1)).
process new a: sk; new b: sk; out(c, pk0(a)); out(c, pk0(b)); (!A(a, pk0(b)) | !B(b, pk0(a)))
"""


def test_lowes_attack_is_found_and_his_mend_holds() -> None:
    assert [one.holds for one in judge(LOWE % ("", ""), 60)] == [False]
    assert [one.holds for one in judge(LOWE % (", =x", ", pk0(b)"), 60)] == [True]


def test_the_phases_are_kept_apart() -> None:
    text = """
free c: channel.
fun enc(bitstring, bitstring): bitstring.
reduc forall k: bitstring, m: bitstring; dec(k, enc(k, m)) = m.
free k, s: bitstring [private].
query attacker(s) phase 0.
query attacker(s) phase 1.
process (out(c, enc(k, s)) | phase 1; out(c, k))
"""
    assert [one.holds for one in judge(text, 60)] == [True, False]


@pytest.mark.parametrize(
    "before, after, words",
    [
        ("dh(e, y)", "dh(y, e)", "not scalar"),
        ("let P(a: scalar, other: point) =", "let P(proof: scalar, other: point) =", "a name expected"),
        ("event A(pub(e), other)", "event A(pub(e))", "not declared with 1"),
        ("free s, t", "free s, s", "twice"),
        ("query attacker(s).", "query attacker(s)", "'.' expected"),
        ("!P(a, pub(b))", "!P(a, pub(none))", "none is not declared"),
    ],
)
def test_what_proverif_would_refuse_is_refused(before: str, after: str, words: str) -> None:
    text = (SHORT % ("new e: scalar;", "")).replace(before, after, 1)
    with pytest.raises(ModelError, match=words):
        check(read(text))


def test_terms_unify_in_either_order_of_x25519() -> None:
    a, b, x, y = fn("a"), fn("b"), var(0), var(1)
    assert fn(COMMUTES, [a, b]) is fn(COMMUTES, [b, a])
    found = [apply(fn("f", [x, y]), by) for by in unify([(fn(COMMUTES, [x, y]), fn(COMMUTES, [a, b]))], {})]
    assert set(found) == {fn("f", [a, b]), fn("f", [b, a])}
    assert len(list(match([(fn(COMMUTES, [x, y]), fn(COMMUTES, [a, b]))], {}))) == 2
    assert not list(unify([(x, fn("f", [x]))], {}))
    assert not list(match([(fn("f", [a]), fn("f", [x]))], {}))
