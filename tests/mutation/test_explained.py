"""The reasons for mutants that live are about code that is there, and what lives has one."""

from __future__ import annotations

import json

from tests.mutation.explained import RESULTS, living, only_words, reasons, stale, unexplained
from tests.mutation.place import ROOT, TESTS
from tests.mutation.read import function_of


def test_every_reason_is_for_a_mutant_that_lives_and_each_of_those_has_one() -> None:
    results = json.loads(RESULTS.read_text())
    assert unexplained(results) == []
    assert stale(results) == []
    assert all(len(why.split()) > 2 for why in reasons().values())


def test_what_lives_is_of_code_that_is_there() -> None:
    """A change of such a line wants its room's mutants anew: make mutation ARGS=room/file.py."""
    for file, _, old, _ in living(json.loads(RESULTS.read_text())):
        lines = {line.strip() for line in (ROOT / "qtunnel" / file).read_text().splitlines()}
        assert {line.strip() for line in old.splitlines()} <= lines, (file, old)


def test_the_tests_of_a_room_are_there() -> None:
    assert all((ROOT / path).exists() for paths in TESTS.values() for path in paths)


def test_texts_for_people_are_told_from_those_for_machines() -> None:
    old = 'raise HandshakeError("malformed", f"{self.what} is too short")'
    assert only_words(old, old.replace("is too short", "IS TOO SHORT"))
    assert not only_words(old, old.replace('"malformed"', '"MALFORMED"'))
    assert not only_words(old, old.replace("self.what", "None"))
    assert not only_words(old, old)


def test_names_of_mutants() -> None:
    assert function_of("qtunnel.keys.chain.xǁEpochChainǁsettle__mutmut_3") == "EpochChain.settle"
    assert function_of("qtunnel.keys.quality.x_defect__mutmut_12") == "defect"
    assert function_of("qtunnel.keys.quality.x__private__mutmut_1") == "_private"
