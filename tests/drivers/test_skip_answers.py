"""What key providers answer, as bytes: patterns as a POSIX shell has them, and nothing that is no named error."""

from __future__ import annotations

import contextlib
import json
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtunnel.drivers import skip_answers as answers
from qtunnel.drivers.skip_answers import CAPABILITIES, ENTROPY, KEY, KEY_BY_ID, Capabilities
from qtunnel.errors import KeyNotFoundError, KeySourceError, KeySourceProtocolError

PLACE = "kp (https://127.0.0.1:9443)"
LETTERS = "ABab_-."
SET = st.text("ABab", min_size=1, max_size=3)
PART = st.one_of(st.sampled_from(LETTERS), st.just("*"), st.just("?"), SET.map("[{}]".format), SET.map("[!{}]".format))
PATTERN = st.lists(PART, min_size=1, max_size=6).map("".join)
MATCH = 'while [ $# -gt 0 ]; do case "$1" in $2) echo yes;; *) echo no;; esac; shift 2; done'


def covers(pattern: str, system_id: str) -> bool:
    return Capabilities(False, True, "", "Alice", (pattern,)).reaches(system_id)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(LETTERS, min_size=1, max_size=6), PATTERN), min_size=1, max_size=40))
def test_patterns_are_those_of_posix(pairs: list[tuple[str, str]]) -> None:
    words = [word for pair in pairs for word in pair]
    done = subprocess.run(["sh", "-c", MATCH, "sh", *words], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["yes" if covers(pattern, word) else "no" for word, pattern in pairs]


@pytest.mark.parametrize(
    ("pattern", "system_id", "expected"),
    [
        ("KP_*_LOC1", "KP_ALICE_LOC1", True),
        ("KP_*_LOC1", "KP_ALICE_LOC2", False),
        ("KP_?", "KP_", False),
        ("KP_[AB]", "KP_A", True),
        ("KP_[!AB]", "KP_A", False),
        ("kp_a", "KP_A", False),
        ("KP[1", "KP[1", True),
        ("[AB]", "[AB]", True),
        ("*a" * 100 + "b", "a" * 255, False),
    ],
)
def test_patterns(pattern: str, system_id: str, expected: bool) -> None:
    assert covers(pattern, system_id) is expected


def test_many_key_providers_may_be_listed_and_not_many_patterns() -> None:
    def told(*entries: str) -> Capabilities:
        body = {"key": True, "localSystemID": "A", "remoteSystemID": entries}
        return answers.capabilities(PLACE, json.dumps(body).encode())

    plain = [f"KP_{number}" for number in range(9000)]
    assert told(*plain, "[XY]?").reaches("KP_8999")
    assert told(*plain, "[XY]?").reaches("Y1")
    told(*(f"*{number}*" for number in range(answers.MAX_PATTERNS)))
    with pytest.raises(KeySourceProtocolError, match="more than 256 patterns"):
        told(*(f"*{number}*" for number in range(answers.MAX_PATTERNS + 1)))


@given(st.binary(min_size=1, max_size=64), st.binary(min_size=1, max_size=127), st.booleans(), st.booleans())
def test_a_key_comes_as_it_was_sent(key: bytes, key_id: bytes, upper: bool, padded: bool) -> None:
    fields = {"keyId": key_id.hex(), "key": key.hex().upper() if upper else key.hex(), "more": [1]}
    body = json.dumps(fields, indent=2 if padded else None).encode()
    found, secret = answers.key(PLACE, KEY, body, len(key))
    assert (found, bytes(secret.reveal())) == (key_id.hex(), key)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(
    st.sampled_from(["keyId", "key", "KEY", "localSystemID", "remoteSystemID", "randomStr", "minentropy"]), JSON
)
BODIES = st.binary(max_size=200) | (JSON | FIELDS).map(lambda value: json.dumps(value).encode())


@settings(max_examples=300)
@given(BODIES)
def test_nothing_but_a_named_error_comes_of_any_body(body: bytes) -> None:
    for parse in (
        lambda: answers.key(PLACE, KEY, body, 32),
        lambda: answers.capabilities(PLACE, body),
        lambda: answers.entropy(PLACE, body, 32),
    ):
        with contextlib.suppress(KeySourceProtocolError):
            parse()


@settings(max_examples=300)
@given(st.sampled_from([CAPABILITIES, KEY, KEY_BY_ID, ENTROPY]), st.integers(201, 999), BODIES, st.text(max_size=20))
def test_every_status_has_a_name(call: str, code: int, body: bytes, kind: str) -> None:
    keys = 1 if call in (KEY, KEY_BY_ID) else 0
    error = answers.refusal(PLACE, call, code, {"Content-Type": kind}, body, keys=keys)
    assert type(error) is not KeySourceError
    assert str(error).isprintable()
    assert len(error.detail) < 400
    assert error.lost <= keys
    assert error.lost == 0 or not isinstance(error, KeyNotFoundError)
