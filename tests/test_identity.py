"""Public files hold keys that can be used, or are refused by name."""

from __future__ import annotations

import os

import pytest

from qtunnel.crypto import dh
from qtunnel.crypto.kem import KEMS
from qtunnel.errors import IdentityFileError
from qtunnel.identity import Identity, PublicIdentity

GOOD = Identity.create(os.urandom).public
P = 2**255 - 19
LOW_ORDER = (
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    P - 1,
    P,
    P + 1,
)
"""All points of low order of Curve25519 and its twist, and their second encodings (RFC 7748 section 7)."""


def public(**changes: bytes) -> PublicIdentity:
    values = {"wireguard": GOOD.wireguard, "x25519": GOOD.x25519, **GOOD.kem, **changes}
    return PublicIdentity(values["wireguard"], values["x25519"], {name: values[name] for name in KEMS})


@pytest.mark.parametrize("name", ["wireguard", "x25519"])
@pytest.mark.parametrize("point", LOW_ORDER)
def test_a_point_of_low_order_is_refused(name: str, point: int) -> None:
    for top in (0, 1 << 255):  # the highest bit does not count
        bad = (point | top).to_bytes(dh.KEY_SIZE, "little")
        with pytest.raises(IdentityFileError, match=f"bob.public:[34]: {name} is not a usable public key"):
            PublicIdentity.parse(public(**{name: bad}).to_text(), "bob.public")


@pytest.mark.parametrize("name", list(KEMS))
def test_a_kem_key_that_fails_the_standards_check_is_refused(name: str) -> None:
    """FIPS 203 section 7.2: every coefficient is less than 3329."""
    key = bytearray(GOOD.kem[name])
    key[0], key[1] = 0x01, key[1] & 0xF0 | 0x0D  # 0xD01 is 3329
    with pytest.raises(IdentityFileError, match=f"bob.public:[56]: {name} is not a usable public key"):
        PublicIdentity.parse(public(**{name: bytes(key)}).to_text(), "bob.public")
    key[0] = 0x00
    assert PublicIdentity.parse(public(**{name: bytes(key)}).to_text()).kem[name] == bytes(key)
