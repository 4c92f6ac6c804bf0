"""Messages between nodes that are lost, late, forged, repeated: a key arrives as it was sent, or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.qkdnet.network import Network, NodeSpec, NoPathError
from qtunnel.qkdnet.relay import TAG_BITS, TRIES, Message, RefusedError, RelayNode
from qtunnel.secret import Secret
from tests.qkdnet.support import chain, counting, simple, spec

FIRST = 4096


def pair(number: int = 1) -> tuple[RelayNode, RelayNode]:
    """Two nodes with the same bits of a link for so many messages of 32 bytes."""
    draw = counting()
    here, there = RelayNode("a"), RelayNode("b")
    hash_key = Secret.random(draw, 16)
    for node in (here, there):
        node.agree("a-b", hash_key.copy())
    for index in range(number):
        pad, mask = Secret.random(draw, 32), Secret.random(draw, 16)
        for node in (here, there):
            node.expect("a-b", FIRST + index * 384, pad.copy(), mask.copy())
    return here, there


ALTERED = st.one_of(
    st.tuples(st.just("link"), st.sampled_from(["b-c", "", "a-b\0"])),
    st.tuples(st.just("sender"), st.sampled_from(["c", "", "b"])),
    st.tuples(st.just("receiver"), st.sampled_from(["c", "", "a"])),
    st.tuples(st.just("first"), st.sampled_from([0, FIRST - 1, FIRST + 384, 2**64])),
    st.tuples(st.just("transfer"), st.sampled_from(["k2/b/0", "", "k1/b/00"])),
    st.tuples(st.just("sealed"), st.binary(max_size=40)),
    st.tuples(st.just("sealed"), st.integers(0, 255)),
    st.tuples(st.just("tag"), st.binary(min_size=16, max_size=16)),
    st.tuples(st.just("tag"), st.binary(max_size=20)),
)


@given(ALTERED, st.binary(min_size=32, max_size=32))
def test_a_message_that_was_changed_is_refused_and_the_true_one_still_opens_once(
    change: tuple[str, object], text: bytes
) -> None:
    here, there = pair()
    held = Secret(text)
    message = here.seal("a-b", "b", FIRST, "k1/b/0", held)
    assert held.wiped
    assert here.waiting == 0
    name, value = change
    if name == "sealed" and isinstance(value, int):  # a bit of it
        sealed = bytearray(message.sealed)
        sealed[value // 8] ^= 1 << value % 8
        value = bytes(sealed)
    forged = replace(message, **{name: value})  # type: ignore[arg-type]
    if forged != message:
        with pytest.raises(RefusedError):
            there.open(forged)
    with there.open(message) as came:
        assert bytes(came.reveal()) == text
    with pytest.raises(RefusedError, match="came too late, or twice"):
        there.open(message)
    assert there.waiting == 0


def test_a_tag_says_nothing_of_another_message() -> None:
    """Whoever knows what a message carried knows its pad, and still not the tag of another text under it."""
    here, there = pair(2)
    one = here.seal("a-b", "b", FIRST, "k1/b/0", Secret(bytes(32)))
    two = here.seal("a-b", "b", FIRST + 384, "k2/b/0", Secret(bytes(range(32))))
    for forged in (replace(one, tag=two.tag), replace(two, tag=one.tag), replace(one, sealed=two.sealed)):
        with pytest.raises(RefusedError, match="is forged"):
            there.open(forged)
    assert there.waiting == 2
    there.forget("a-b", FIRST)
    with pytest.raises(RefusedError, match="came too late"):
        there.open(one)


def ring() -> Network:
    """a to d over b, and over c."""
    links = [spec(ends, ends[0], ends[1], initial=100_000) for ends in ("ab", "bd", "ac", "cd")]
    return Network([NodeSpec(name) for name in "abcd"], links, simple)


def test_a_lost_message_is_sent_again_as_it_was_and_no_bit_seals_two() -> None:
    network = chain("a", "b", "c", initial=100_000)
    seen: list[Message] = []

    def lossy(message: Message) -> Iterable[Message]:
        seen.append(message)
        return (message,) if len(seen) % TRIES == 0 else ()

    draw = counting()
    for number in range(3):
        (key,) = network.make("a", ["c"], 32, [f"k{number}"], draw, carrier=lossy)
        assert key.at_source == key.at_targets["c"]
    assert len(seen) == 3 * 2 * TRIES
    assert len(set(seen)) == 3 * 2
    for link in ("a-b", "b-c"):
        firsts = sorted({one.first for one in seen if one.link == link})
        assert firsts == [0, 256 + TAG_BITS, 2 * (256 + TAG_BITS)]
    traffic = network.relay.traffic["a-b"]
    assert (traffic.sent, traffic.unheard, traffic.refused) == (9, 6, 0)


def test_a_link_that_gets_nothing_across_is_gone_round_and_paid_for() -> None:
    network = ring()
    network.links["ab"].meddle(0.0, "lose")
    (key,) = network.make("a", ["d"], 32, ["k"], counting())
    assert key.at_source == key.at_targets["d"]
    assert key.deliveries[0].paths[0].between == ("c",)
    used = {name: link.reservoir.used for name, link in network.links.items()}
    assert used == {"ab": 384, "bd": 384, "ac": 384, "cd": 384}
    assert (network.ledger.node("b").whole, network.ledger.node("c").whole) == (0, 1)
    assert not any(node.waiting for node in network.relay.nodes.values())
    (said,) = network.advance(1.0)
    assert (said.what, said.place) == ("relay.failed", "ab")
    assert said.detail == "3 messages from a to b did not arrive as they were sent"
    network.links["cd"].meddle(1.0, "lose")
    with pytest.raises(NoPathError, match="ab gets no message across"):
        network.make("a", ["d"], 32, ["k"], counting())
    assert network.ledger.pair("a", "d").keys == 1
    network.links["ab"].restore(1.0)
    network.make("a", ["d"], 32, ["k"], counting())


def test_who_forges_messages_is_told_and_no_key_is_wrong() -> None:
    network = ring()
    network.links["ab"].meddle(0.0, "forge")
    (key,) = network.make("a", ["d"], 32, ["k"], counting())
    assert key.at_source == key.at_targets["d"]
    assert key.deliveries[0].paths[0].between == ("c",)
    told = {one.what: one.detail for one in network.advance(1.0)}
    assert told["relay.refused"] == "a message to b is forged, and 2 more"
    assert network.relay.traffic["ab"].refused == TRIES
    with pytest.raises(NoPathError, match="fewer than 2 disjoint paths"):
        network.make("a", ["d"], 32, ["k"], counting(), disjoint=2)


def test_late_messages_are_taken_while_they_are_waited_for_and_refused_after_it() -> None:
    network = chain("a", "b", "c", initial=100_000)
    draw = counting()
    network.links["b-c"].meddle(0.0, "late")
    for number in range(2):
        (key,) = network.make("a", ["c"], 32, [f"k{number}"], draw)
        assert key.at_source == key.at_targets["c"]
    network.links["b-c"].restore(0.0)
    network.make("a", ["c"], 32, ["k2"], draw)
    traffic = network.relay.traffic["b-c"]
    assert (traffic.sent, traffic.unheard, traffic.refused) == (5, 2, 2)
    assert {one.detail for one in network.advance(1.0)} == {"a message to c came too late, or twice"}


def test_a_stranger_s_messages_are_nobody_s() -> None:
    network = chain("a", "b", "c", initial=100_000)

    def crowded(message: Message) -> Iterable[Message]:
        noise = replace(message, sealed=b"", tag=b"")
        return (replace(noise, receiver="nobody"), replace(noise, receiver="c"), noise, message, message)

    (key,) = network.make("a", ["b", "c"], 32, ["k"], counting(), carrier=crowded)
    assert key.at_source == key.at_targets["b"] == key.at_targets["c"]
    assert network.relay.traffic["a-b"].unheard == 0
    assert network.relay.traffic["a-b"].refused == 2 * 4


def test_keys_count_as_lost_towards_those_for_whom_link_key_was_used() -> None:
    """The way to the first of two ends is meddled with: nothing was used towards the second."""
    links = [spec("ab", "a", "b", initial=10_000), spec("ac", "a", "c", initial=10_000)]
    network = Network([NodeSpec(name) for name in "abc"], links, simple)
    network.links["ab"].meddle(0.0, "lose")
    with pytest.raises(NoPathError):
        network.make("a", ["b", "c"], 32, ["k1", "k2"], counting())
    assert {name: link.reservoir.used for name, link in network.links.items()} == {"ab": 2 * 256 + TAG_BITS, "ac": 0}
    assert network.ledger.pair("a", "b").lost == 2
    assert network.ledger.pair("a", "c").lost == 0
    network.links["ab"].restore(0.0)
    network.links["ac"].meddle(0.0, "lose")
    with pytest.raises(NoPathError):
        network.make("a", ["b", "c"], 32, ["k3"], counting())
    assert (network.ledger.pair("a", "b").lost, network.ledger.pair("a", "c").lost) == (3, 1)
