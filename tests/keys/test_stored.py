"""The file of keys agreed ahead: what comes out is what went in, and of anything else nothing comes out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.errors import StoreError
from qtunnel.keys.stored import FORMAT, SALT_SIZE, Image, StoredKey, seal, unseal
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef

KEY = Secret(bytes(range(32)))
ENDS = (b"a" * 64, b"b" * 64)
SALT = b"\x05" * SALT_SIZE
PLAIN = bytes.fromhex("8f1d0c5a7be2469342f1b8a90e37d56c21c4fa8873915ed0ab64029c1f7de835")


def stored(name: str, key: bytes = PLAIN, state: int = 0, source: str = "metro") -> StoredKey:
    return StoredKey(KeyRef(source, name, len(key)), Secret(key), 1_700_000_000_123, state)


names = st.text(min_size=1, max_size=60)
keys = st.builds(
    lambda source, name, key, since, state: StoredKey(KeyRef(source, name, len(key)), Secret(key), since, state),
    names, names, st.binary(min_size=1, max_size=64), st.integers(0, 1 << 50), st.integers(0, 2),
)  # fmt: skip
lists = st.lists(keys, max_size=5, unique_by=lambda entry: entry.ref).map(tuple)
images = st.builds(
    Image, st.binary(min_size=8, max_size=8), st.none() | st.binary(min_size=8, max_size=8), lists, lists
)


def one() -> bytes:
    image = Image(b"12345678", b"abcdefgh", (stored("1", state=2), stored("2")), (stored("3", state=1),))
    return seal(image, 7, KEY, SALT, ENDS)


@given(images, st.integers(0, 1 << 62), st.binary(min_size=SALT_SIZE, max_size=SALT_SIZE))
def test_it_comes_back_whole(image: Image, generation: int, salt: bytes) -> None:
    content = seal(image, generation, KEY, salt, ENDS)
    assert unseal(content, KEY, ENDS) == (generation, image)


def test_no_key_and_no_key_id_is_readable_in_it() -> None:
    image = Image(b"12345678", None, (stored("a-certain-key-id"),), ())
    content = seal(image, 7, KEY, SALT, ENDS)
    assert not any(part in content for part in (PLAIN, PLAIN[:8], b"a-certain-key-id", b"metro"))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_one_changed_byte_anywhere_and_it_does_not_open(place: int, change: int) -> None:
    content = bytearray(one())
    content[place % len(content)] ^= change
    with pytest.raises(StoreError):
        unseal(bytes(content), KEY, ENDS)


@given(st.integers(0, 10_000))
def test_what_is_cut_short_does_not_open(size: int) -> None:
    content = one()
    with pytest.raises(StoreError):
        unseal(content[: size % len(content)], KEY, ENDS)


@given(st.binary(max_size=400))
def test_anything_else_is_an_error_in_words(junk: bytes) -> None:
    for content in (junk, FORMAT + junk, one() + b"0" + junk):
        with pytest.raises(StoreError) as caught:
            unseal(content, KEY, ENDS)
        assert str(caught.value).startswith("it")


def test_it_opens_for_nobody_else() -> None:
    content = one()
    for key, ends in (
        (Secret(bytes(32)), ENDS),
        (KEY, (ENDS[1], ENDS[0])),
        (KEY, (ENDS[0], b"c" * 64)),
    ):
        with pytest.raises(StoreError, match="another key, or of another pair"):
            unseal(content, key, ends)


def test_two_files_of_the_same_keys_have_nothing_in_common() -> None:
    image = Image(b"12345678", None, (stored("1"),), ())
    first, second = (seal(image, 7, KEY, bytes([salt]) * SALT_SIZE, ENDS)[len(FORMAT) + 8 :] for salt in (1, 2))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < len(first) // 8


def test_the_same_key_twice_is_refused() -> None:
    image = Image(b"12345678", None, (stored("1"), stored("1")), ())
    with pytest.raises(StoreError, match="not what this version writes"):
        unseal(seal(image, 7, KEY, SALT, ENDS), KEY, ENDS)
