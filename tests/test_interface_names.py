"""The one grammar of an interface's name: whoever takes such a name takes the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from qtunnel.config.types import InterfaceName
from qtunnel.engines.steward_words import is_interface_name
from qtunnel.interface_names import MAX_NAME, name_problem


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qt0", None),
        ("wg-a_b.1", None),
        ("x" * MAX_NAME, None),
        ("x" * (MAX_NAME + 1), "has 16 characters"),
        ("", "not an interface name"),
        (".", "not an interface name"),
        ("..", "not an interface name"),
        ("a/b", "not an interface name"),
        ("eth0:1", "not an interface name"),
        ("qt%d", "not an interface name"),
        ("a b", "not an interface name"),
        ("qt0\n", "not an interface name"),
        ("ä0", "not an interface name"),
        ("lo", "the kernel uses itself"),
        ("all", "the kernel uses itself"),
        ("default", "the kernel uses itself"),
    ],
)
def test_names(name: str, said: str | None) -> None:
    problem = name_problem(name)
    assert problem is None if said is None else said in (problem or "")


@given(st.one_of(st.text(max_size=17), st.text("lo:%/. adefult", max_size=8)))
def test_configuration_and_steward_take_the_same(name: str) -> None:
    try:
        TypeAdapter[str](InterfaceName).validate_python(name)
        taken = True
    except ValidationError:
        taken = False
    assert is_interface_name(name) == taken
