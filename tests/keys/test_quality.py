"""Which keys are refused for what is seen of them alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.keys.quality import SeenKeys, defect
from qtunnel.secret import Secret

RANDOM = bytes.fromhex("8f1d0c5a7be2469342f1b8a90e37d56c21c4fa8873915ed0ab64029c1f7de835")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (bytes(32), "all zeros"),
        (b"\x01" * 32, "one byte over and over"),
        (RANDOM[:16] * 2, "repeats itself after 16 bytes"),
        ((RANDOM[:10] * 4)[:32], "repeats itself after 10 bytes"),
        (bytes(range(32)), "count by 1"),
        (bytes(range(250, 218, -1)), "count by 255"),
        (bytes(7 * i % 256 for i in range(64)), "count by 7"),
        ((RANDOM[:8] + RANDOM[7::-1] + RANDOM[2:8] + RANDOM[:2] + RANDOM[1:8] + RANDOM[:1]), "only 8 different"),
        (RANDOM[:16] + bytes(16), "one byte is in it 12 times in a row"),
        (b"\xff" * 12 + RANDOM[:20], "one byte is in it 12 times in a row"),
        (RANDOM[:16].hex().encode(), "text in hexadecimal"),
        (RANDOM.hex().upper().encode(), "text in hexadecimal"),
        (RANDOM[:15], "15 bytes"),
        (b"", "0 bytes"),
    ],
)
def test_keys_that_no_working_source_delivers(key: bytes, said: str) -> None:
    found = defect(Secret(key))
    assert found is not None
    assert said in found


@given(st.binary(min_size=16, max_size=16).filter(lambda part: len(set(part)) > 8))
def test_a_repeated_block_is_found_in_any_key(block: bytes) -> None:
    assert defect(Secret(block + block)) is not None


def test_a_random_key_passes() -> None:
    assert defect(Secret(RANDOM)) is None
    assert defect(Secret(RANDOM[:16])) is None
    assert defect(Secret(RANDOM[:16] + RANDOM[:15] + b"\x00")) is None
    assert defect(Secret(RANDOM[:10] + bytes(11) + RANDOM[10:21])) is None
    assert defect(Secret(RANDOM[:8].hex().encode())) is None, "too short to tell"


def test_the_same_bytes_under_another_key_id_are_noticed() -> None:
    seen = SeenKeys(Secret(bytes(32)))
    assert seen.taken_for("a", Secret(RANDOM)) is None
    assert seen.taken_for("a", Secret(RANDOM)) is None  # the peer offered it twice
    assert seen.taken_for("b", Secret(RANDOM[::-1])) is None
    assert seen.taken_for("c", Secret(RANDOM)) == "a"


def test_what_is_remembered_is_bounded() -> None:
    seen = SeenKeys(Secret(bytes(32)), remembered=2)
    for key_id, fill in (("a", 1), ("b", 2), ("c", 3)):
        seen.taken_for(key_id, Secret(bytes([fill]) * 32))
    assert seen.taken_for("d", Secret(bytes([3]) * 32)) == "c"
    assert seen.taken_for("e", Secret(bytes([1]) * 32)) is None


def test_keys_that_only_look_a_little_like_a_bad_one_pass() -> None:
    nine = bytes([*range(9), 3, 1, 4, 1, 5, 2, 6, 5, 3, 5, 8, 7, 0, 7, 2, 3, 8, 4, 6, 2, 6, 4, 3])
    assert len(nine) == 32
    for key in (
        bytes(range(31)) + b"\xff",  # counts, but not to its end
        nine,  # of nine different bytes
        RANDOM[:9] + RANDOM[:7],  # begins as it ends, with less than half of it
    ):
        assert defect(Secret(key)) is None


def test_text_in_hexadecimal_may_have_every_digit() -> None:
    found = defect(Secret(b"0123456789abcdefABCDEF" + b"9f3c07A1e8"))
    assert found == "it is text in hexadecimal"


def test_so_many_keys_are_remembered_and_no_more() -> None:
    seen, keys = SeenKeys(Secret(bytes(32)), 2), [Secret(bytes([number]) + RANDOM[1:]) for number in range(3)]
    for name, key in zip("ab", keys, strict=False):
        assert seen.taken_for(name, key) is None
    assert seen.taken_for("again", keys[0]) == "a"
    assert seen.taken_for("c", keys[2]) is None
    assert seen.taken_for("again", keys[1]) == "b"
    assert seen.taken_for("again", keys[0]) is None, "it was the oldest"
