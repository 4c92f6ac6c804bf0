"""Tags that no computing power forges: the published vector, and misuse."""

from __future__ import annotations

import pytest

from qtunnel.crypto.onetime import tag, verifies
from qtunnel.secret import Secret

KEY = bytes.fromhex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")
TEXT = b"Cryptographic Forum Research Group"
TAG = bytes.fromhex("a8061dc1305136c6c22b8baf0c0127a9")


def test_the_vector_of_rfc_8439_section_2_5_2() -> None:
    hash_key, mask = Secret(KEY[:16]), Secret(KEY[16:])
    assert tag(hash_key, mask, TEXT) == TAG
    assert verifies(hash_key, mask, TEXT, TAG)
    assert not verifies(hash_key, mask, TEXT + b".", TAG)
    assert not verifies(hash_key, Secret(bytes(16)), TEXT, TAG)
    assert not verifies(hash_key, mask, TEXT, TAG[:-1])
    assert not verifies(hash_key, mask, TEXT, b"")


def test_keys_of_another_length_are_a_defect() -> None:
    with pytest.raises(ValueError, match="a key of 15 and a mask of 16 bytes"):
        tag(Secret(bytes(15)), Secret(bytes(16)), TEXT)
