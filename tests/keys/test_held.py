"""Keys in hand: each once, for their time, and wiped whatever becomes of them."""

from __future__ import annotations

import pytest

from qtunnel.keys.held import HeldKeys, problem_of
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef

ONE, TWO, OTHER = KeyRef("metro", "1", 32), KeyRef("metro", "2", 32), KeyRef("backup", "1", 32)
LIFETIME = 300.0


def holding(*refs: KeyRef) -> tuple[HeldKeys, dict[KeyRef, Secret]]:
    """With the keys of these references, one second apart."""
    held, keys = HeldKeys(LIFETIME), {ref: Secret(bytes([number + 1]) * 32) for number, ref in enumerate(refs)}
    for number, (ref, key) in enumerate(keys.items()):
        held.put(ref, key, float(number))
    return held, keys


def test_the_newest_of_each_source_is_told() -> None:
    held, keys = holding(ONE, OTHER, TWO)
    assert held.newest_by_source() == {"metro": TWO, "backup": OTHER}
    assert held.get(ONE) is keys[ONE]


def test_what_is_not_held_is_nothing_to_discard() -> None:
    held, keys = holding(ONE)
    held.discard(TWO)
    assert held.get(TWO) is None
    assert held.get(ONE) is keys[ONE]
    held.discard(ONE)
    held.discard(ONE)
    assert held.get(ONE) is None
    assert keys[ONE].wiped


def test_each_is_wiped_at_the_end_of_its_own_lifetime() -> None:
    held, keys = holding(ONE, TWO)
    assert held.deadline == LIFETIME
    assert held.expire(LIFETIME - 0.5) == []
    assert held.expire(LIFETIME) == [ONE]
    assert held.deadline == LIFETIME + 1
    assert [key.wiped for key in keys.values()] == [True, False]
    assert held.expire(LIFETIME + 1) == [TWO]
    assert held.deadline is None


def test_only_those_of_sources_that_are_left_are_kept() -> None:
    held, keys = holding(ONE, OTHER, TWO)
    held.keep({"backup"})
    assert held.newest_by_source() == {"backup": OTHER}
    assert [key.wiped for key in keys.values()] == [True, False, True]


def test_all_are_wiped() -> None:
    held, keys = holding(ONE, OTHER)
    held.wipe()
    assert held.newest_by_source() == {}
    assert all(key.wiped for key in keys.values())


@pytest.mark.parametrize(
    ("ref", "size", "words"),
    [
        (ONE, 32, None),
        (KeyRef("metro", "k" * 255, 32), 32, None),
        (KeyRef("metro", "ü" * 127, 32), 32, None),
        (KeyRef("other", "1", 32), 32, "other: delivered a key that was not asked of it"),
        (KeyRef("metro", "", 32), 32, "metro: a key_ID must have 1 to 255 bytes of printable text"),
        (KeyRef("metro", "k" * 256, 32), 32, "metro: a key_ID must have 1 to 255 bytes of printable text"),
        (KeyRef("metro", "ü" * 128, 32), 32, "metro: a key_ID must have 1 to 255 bytes of printable text"),
        (KeyRef("metro", "a\nb", 32), 32, "metro: a key_ID must have 1 to 255 bytes of printable text"),
        (ONE, 31, "metro: delivered a key of 31 bytes instead of 32 (key_ID 1)"),
        (KeyRef("metro", "1", 33), 32, "metro: delivered a key of 32 bytes instead of 32 (key_ID 1)"),
        (KeyRef("metro", "1", 33), 33, "metro: delivered a key of 33 bytes instead of 32 (key_ID 1)"),
    ],
)
def test_what_a_source_delivers_has_to_be_what_was_asked(ref: KeyRef, size: int, words: str | None) -> None:
    assert problem_of(ref, Secret(bytes(range(size))), {"metro", "backup"}) == words


def test_a_key_that_is_held_already_stays() -> None:
    held, keys = holding(ONE)
    again = Secret(bytes(32))
    held.put(ONE, again, 5.0)
    assert (len(held), ONE in held, TWO in held) == (1, True, False)
    assert held.get(ONE) is keys[ONE]
    assert (again.wiped, keys[ONE].wiped) == (True, False)
    assert held.deadline == LIFETIME
