"""No QKD key twice, and no key kept for it."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from qtunnel.keys import used
from qtunnel.keys.held import HeldKeys
from qtunnel.keys.used import UsedKeys
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef

names = st.text(min_size=1, max_size=3)


@given(st.lists(st.tuples(names, names, names, st.binary(min_size=4, max_size=4)), max_size=30))
def test_a_key_is_news_where_reference_and_bits_are(arrivals: list[tuple[str, str, str, bytes]]) -> None:
    keys = UsedKeys(random.Random(1).randbytes)
    refs: set[tuple[str, str, str]] = set()
    bits: set[bytes] = set()
    for peer, source, key_id, key in arrivals:
        news = (peer, source, key_id) not in refs and key not in bits
        assert keys.admit(peer, KeyRef(source, key_id, 32), Secret(key)) is news
        if news:
            refs.add((peer, source, key_id))
            bits.add(key)


def test_memory_is_bounded_and_the_oldest_go_first() -> None:
    keys = UsedKeys(random.Random(1).randbytes)

    def admit(number: int) -> bool:
        return keys.admit("p", KeyRef("s", str(number), 32), Secret(number.to_bytes(4, "big")))

    assert all(admit(number) for number in range(used.REMEMBERED + 1))
    assert len(keys._seen) <= 2 * used.REMEMBERED
    assert not admit(used.REMEMBERED)
    assert admit(0)


def test_a_held_key_has_a_deadline_and_is_wiped_at_it() -> None:
    held = HeldKeys(300.0)
    assert held.deadline is None
    key = Secret(bytes(32))
    held.put(KeyRef("s", "1", 32), key, 10.0)
    assert held.deadline == 310.0
    assert held.expire(309.9) == []
    assert held.expire(310.0) == [KeyRef("s", "1", 32)]
    assert key.wiped
