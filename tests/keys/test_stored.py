"""The file of keys agreed ahead: what comes out is what went in, and of anything else nothing comes out."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.crypto.aead import CHACHA20_POLY1305
from qtunnel.crypto.kdf import Label, derive, frame
from qtunnel.errors import StoreError
from qtunnel.keys.stored import FORMAT, FORMER, SALT_SIZE, Image, StoredKey, seal, unseal
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
marks = st.lists(st.binary(min_size=8, max_size=8), max_size=5, unique=True).map(tuple)
looks = st.dictionaries(names, st.integers(0, 1 << 50), max_size=3).map(lambda its: tuple(its.items()))
images = st.builds(
    Image, st.binary(min_size=8, max_size=8), st.none() | st.binary(min_size=8, max_size=8), lists, lists, marks, looks
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


def test_a_wiped_image_holds_no_key() -> None:
    image = Image(b"12345678", None, (stored("1"),), (stored("2"),))
    image.wipe()
    assert all(entry.key.wiped for entry in (*image.own, *image.theirs))


HEAD = struct.Struct(">8sB8sHH")
MORE = struct.Struct(">HH")
ENTRY = struct.pack(">BQBBH", 0, 5, 1, 1, 2) + b"sk" + b"!?"
"""A key of two bytes, of a source and with a key_ID of one each."""


def sealed(form: bytes, plain: bytes) -> bytes:
    head = struct.pack(f">8sQ{SALT_SIZE}s", form, 7, SALT)
    with derive(KEY, Label.RESERVOIR_STORE, SALT, 32) as own:
        return head + CHACHA20_POLY1305.seal(own, 0, plain, frame(head, *ENDS))


def test_a_file_of_the_former_format_is_read_and_has_neither_marks_nor_looks() -> None:
    plain = HEAD.pack(b"12345678", 1, b"abcdefgh", 1, 1) + ENTRY + ENTRY.replace(b"sk", b"st")
    generation, image = unseal(sealed(FORMER, plain), KEY, ENDS)
    assert generation == 7
    assert [entry.ref.key_id for entry in (*image.own, *image.theirs)] == ["k", "t"]
    assert (image.withdrawn, image.vouched) == ((), ())
    assert unseal(sealed(FORMAT, plain + MORE.pack(0, 0)), KEY, ENDS) == (7, image)


@pytest.mark.parametrize(
    "behind",
    [
        b"",
        MORE.pack(0, 0)[:-1],
        MORE.pack(0, 0) + b"!",
        MORE.pack(1, 0) + b"1234567",
        MORE.pack(2, 0) + b"12345678" * 2,  # a mark twice
        MORE.pack(0, 1) + struct.pack(">QB", 5, 2) + b"m",
        MORE.pack(0, 1) + struct.pack(">QB", 5, 1),
        MORE.pack(0, 2) + (struct.pack(">QB", 5, 1) + b"m") * 2,  # a source twice
        MORE.pack(0, 1) + struct.pack(">QB", 5, 1) + b"\xff",
    ],
)
def test_marks_and_looks_that_are_not_what_this_version_writes_are_refused_with_all_keys(behind: bytes) -> None:
    plain = HEAD.pack(b"12345678", 1, b"abcdefgh", 1, 0) + ENTRY
    with pytest.raises(StoreError, match="its content is not what this version writes"):
        unseal(sealed(FORMAT, plain + behind), KEY, ENDS)


@pytest.mark.parametrize(("form", "behind"), [(FORMER, b""), (FORMAT, bytes(4))])
@pytest.mark.parametrize(
    "plain",
    [
        HEAD.pack(b"12345678", 2, b"abcdefgh", 1, 0) + ENTRY,  # neither known nor not
        HEAD.pack(b"12345678", 1, b"abcdefgh", 2, 0) + ENTRY,  # one key less than it says
        HEAD.pack(b"12345678", 1, b"abcdefgh", 1, 0) + ENTRY[:-1],
        HEAD.pack(b"12345678", 1, b"abcdefgh", 1, 0) + ENTRY + b"!",
        HEAD.pack(b"12345678", 1, b"abcdefgh", 0, 2) + ENTRY + ENTRY,
        HEAD.pack(b"12345678", 1, b"abcdefgh", 1, 0) + b"\x03" + ENTRY[1:],  # a state that there is not
        HEAD.pack(b"12345678", 1, b"abcdefgh", 1, 0) + struct.pack(">BQBBH", 0, 5, 1, 1, 0) + b"sk",  # without bits
        HEAD.pack(b"12345678", 1, b"abcdefgh", 1, 0) + ENTRY.replace(b"sk", b"s\xff"),
        b"1234",
    ],
)
def test_what_another_version_may_have_sealed_is_refused_whole(plain: bytes, form: bytes, behind: bytes) -> None:
    """It opens, as whoever wrote it had the key; but it is not what this version writes."""
    with pytest.raises(StoreError, match="its content is not what this version writes"):
        unseal(sealed(form, plain + behind), KEY, ENDS)


def test_a_key_of_both_ends_may_have_one_reference() -> None:
    """Sources name their keys by themselves, each end's apart; the same one is refused only within an end's."""
    image = Image(b"12345678", b"abcdefgh", (stored("1"),), (stored("1"),))
    assert unseal(seal(image, 7, KEY, SALT, ENDS), KEY, ENDS) == (7, image)
    twice = Image(b"12345678", None, (), (stored("1"), stored("1")))
    with pytest.raises(StoreError, match="not what this version writes"):
        unseal(seal(twice, 7, KEY, SALT, ENDS), KEY, ENDS)


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "it is empty"), (b"q", "it is cut short"), (b"q" * 48, "it is no store of keys, .*")]
)
def test_what_is_no_store_is_told_apart(content: bytes, words: str) -> None:
    with pytest.raises(StoreError, match=f"^{words}"):
        unseal(content, KEY, ENDS)
