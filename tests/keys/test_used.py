"""No QKD key twice, and no key kept for it."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.keys import used
from qtunnel.keys.held import HeldKeys
from qtunnel.keys.quality import SeenKeys
from qtunnel.keys.used import UsedKeys
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef

ONE, OTHER = (Secret(bytes([fill]) * 32) for fill in (1, 2))


@pytest.mark.parametrize(
    ("peer", "key_id", "key", "fault", "taken"),
    [
        ("p", "b", OTHER, None, True),  # news
        ("p", "a", ONE, None, False),  # asked for twice, or offered twice: nobody's fault, and not used again
        ("p", "b", ONE, "s a", False),  # one key under two names
        ("q", "b", ONE, "s a", False),  # and to two peers
        ("p", "a", OTHER, None, False),  # two keys under one name: which of them the peer has, nobody knows
        ("q", "a", OTHER, None, True),  # another peer's names are its own
    ],
)
def test_whose_fault_a_key_is_and_whether_it_is_used_are_two_questions(
    peer: str, key_id: str, key: Secret, fault: str | None, taken: bool
) -> None:
    """After key ``a`` of source ``s`` came for peer ``p``."""
    seen, taker = SeenKeys(Secret(bytes(32))), UsedKeys(random.Random(1).randbytes)
    assert seen.taken_for("s a", ONE) is None
    assert taker.admit("p", KeyRef("s", "a", 32), ONE)
    assert seen.taken_for(f"s {key_id}", key) == fault
    assert taker.admit(peer, KeyRef("s", key_id, 32), key) is taken


def test_a_key_that_nobody_took_counts_as_delivered() -> None:
    """As one that came too late, or that was wiped for an alarm."""
    seen = SeenKeys(Secret(bytes(32)))
    seen.taken_for("s a", ONE)
    assert seen.taken_for("s b", ONE) == "s a"


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


def arrive(keys: UsedKeys, peer: str, number: int, peers: int = 1) -> bool:
    return keys.admit(peer, KeyRef("s", str(number), 32), Secret(number.to_bytes(4, "big")), peers)


def test_memory_is_bounded_and_the_oldest_go_first() -> None:
    keys = UsedKeys(random.Random(1).randbytes)
    assert all(arrive(keys, "p", number) for number in range(used.REMEMBERED + 1))
    assert len(keys) == len(keys._of["p"]) == used.REMEMBERED
    assert not arrive(keys, "p", used.REMEMBERED)
    assert arrive(keys, "p", 0)


def test_a_peer_with_many_keys_pushes_none_of_anothers_out() -> None:
    """As a hub has one that rekeys by traffic every second beside a thousand that do so every 120 s."""
    keys = UsedKeys(random.Random(1).randbytes)
    assert arrive(keys, "quiet", 0, peers=1000)
    assert all(arrive(keys, "busy", number, peers=1000) for number in range(1, 3 * used.OF_EACH_PEER))
    assert len(keys) == used.OF_EACH_PEER + 1
    assert not arrive(keys, "quiet", 0, peers=1000)
    assert not arrive(keys, "third", 0, peers=1000), "nor are its bits news of another"
    assert not arrive(keys, "busy", 3 * used.OF_EACH_PEER - 1, peers=1000)


def test_a_hub_remembers_hours_of_all_its_peers_in_the_memory_that_it_says() -> None:
    """A fiftieth of the peers, each with all it may have."""
    keys = UsedKeys(random.Random(1).randbytes)
    peers, each = 20, used.OF_EACH_PEER
    tracemalloc.start()
    for number in range(peers * each):
        assert arrive(keys, f"peer-{number % peers}", number, peers=1000)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(keys) == peers * each
    assert not arrive(keys, "peer-0", 0, peers=1000)
    assert size / (peers * each) < 250


def test_what_a_peer_took_goes_with_it() -> None:
    keys = UsedKeys(random.Random(1).randbytes)
    assert all(arrive(keys, peer, number) for number, peer in enumerate(("a", "b")))
    keys.forget("a")
    keys.forget("never there")
    assert (len(keys), list(keys._of)) == (1, ["b"])


def test_a_held_key_has_a_deadline_and_is_wiped_at_it() -> None:
    held = HeldKeys(300.0)
    assert held.deadline is None
    key = Secret(bytes(32))
    held.put(KeyRef("s", "1", 32), key, 10.0)
    assert held.deadline == 310.0
    assert held.expire(309.9) == []
    assert held.expire(310.0) == [KeyRef("s", "1", 32)]
    assert key.wiped
