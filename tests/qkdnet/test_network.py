"""Keys over several hops and several ways: the same at both ends, used once, and known to whom the ledger says."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.qkdnet.conditions import Meddling
from qtunnel.qkdnet.ledger import Delivery
from qtunnel.qkdnet.link import Happening
from qtunnel.qkdnet.network import Network, NodeSpec, NoPathError
from qtunnel.qkdnet.pad import combined
from qtunnel.qkdnet.relay import TAG_BITS, overhead
from qtunnel.qkdnet.reservoir import ShortageError
from qtunnel.secret import Secret
from tests.qkdnet.support import RATE, chain, counting, simple, spec


def ring(**options: object) -> Network:
    """a to d over b, over c, and over e and f."""
    ends = ["ab", "bd", "ac", "cd", "ae", "ef", "fd"]
    return Network([NodeSpec(name) for name in "abcdef"], [spec(e, e[0], e[1], **options) for e in ends], simple)


def known_to(delivery: Delivery, nodes: str) -> bool:
    """Whether these nodes together know the key: one on each of its ways, or one of its ends."""
    together = set(nodes)
    if together & {delivery.source, delivery.target}:
        return True
    return all(together & set(path.between) for path in delivery.paths)


def test_both_ends_have_the_key_and_every_link_on_the_way_paid_for_it() -> None:
    network = chain("a", "b", "c", "d")
    network.advance(1.0)
    keys = network.make("a", ["d"], 32, ["k1", "k2"], counting())
    assert [key.at_source == key.at_targets["d"] for key in keys] == [True, True]
    assert keys[0].at_source != keys[1].at_source
    assert [link.reservoir.used for link in network.links.values()] == [512 + TAG_BITS] * 3
    assert {name: network.ledger.node(name).whole for name in "abcd"} == {"a": 0, "b": 2, "c": 2, "d": 0}
    assert network.ledger.pair("d", "a").relayed == 2


def test_a_key_over_one_hop_is_known_to_its_ends_alone() -> None:
    network = chain("a", "b")
    network.advance(1.0)
    (key,) = network.make("a", ["b"], 32, ["k"], counting())
    assert not key.deliveries[0].relayed
    assert key.deliveries[0].knowing == frozenset()
    assert [known_to(key.deliveries[0], one) for one in "abc"] == [True, True, False]


def test_over_disjoint_ways_no_node_knows_the_key_and_one_of_each_way_together_do() -> None:
    network = ring()
    network.advance(1.0)
    (key,) = network.make("a", ["d"], 32, ["k"], counting(), disjoint=3)
    assert key.at_source == key.at_targets["d"]
    delivery = key.deliveries[0]
    assert {path.between for path in delivery.paths} == {("b",), ("c",), ("e", "f")}
    assert not any(known_to(delivery, name) for name in "bcef")
    assert not known_to(delivery, "bef")
    assert known_to(delivery, "bce")
    assert all(network.ledger.node(name).shares == 1 for name in "bcef")
    assert all(network.ledger.node(name).whole == 0 for name in "bcef")


def test_shares_of_a_key_whose_other_way_fails_are_thrown_away_and_it_goes_on_two_others() -> None:
    network = ring()
    network.advance(1.0)
    network.links["cd"].meddle(0.0, "lose")
    (key,) = network.make("a", ["d"], 32, ["k"], counting(), disjoint=2)
    assert key.at_source == key.at_targets["d"]
    assert {path.between for path in key.deliveries[0].paths} == {("b",), ("e", "f")}
    assert [network.ledger.node(name).shares for name in "bcef"] == [1, 0, 1, 1], "what was thrown away is in no book"
    assert not any(node.waiting for node in network.relay.nodes.values())


@given(st.integers(1, 3), st.integers(8, 64), st.integers(1, 4))
def test_what_nodes_hold_is_what_the_ledger_says(ways: int, size: int, number: int) -> None:
    """Each node on a way holds its share; the exclusive or over the ways, and nothing less, is the keys."""
    ends = [pair for n in range(ways) for pair in (("a", f"r{n}"), (f"r{n}", f"s{n}"), (f"s{n}", "z"))]
    nodes = [NodeSpec(name) for name in sorted({end for pair in ends for end in pair})]
    network = Network(nodes, [spec("-".join(pair), *pair, initial=10_000) for pair in ends], simple)
    held: dict[str, bytes] = {}
    key_ids = [f"k{n}" for n in range(number)]
    keys = network.make(
        "a", ["z"], size, key_ids, counting(), disjoint=ways,
        see=lambda node, share: held.update({node: bytes(share.reveal())}),
    )  # fmt: skip
    text = b"".join(key.at_source.reveal() for key in keys)
    assert text == b"".join(key.at_targets["z"].reveal() for key in keys)
    assert all(held[f"r{n}"] == held[f"s{n}"] for n in range(ways))
    total = bytes(len(text))
    for n in range(ways):
        if ways > 1:
            assert held[f"r{n}"] != text
        total = bytes(x ^ y for x, y in zip(total, held[f"r{n}"], strict=True))
    assert total == text


def test_the_ways_of_one_request_fail_together_where_there_are_too_few() -> None:
    network = ring()
    network.advance(1.0)
    before = [link.reservoir.used for link in network.links.values()]
    with pytest.raises(NoPathError, match="fewer than 4 disjoint paths from a to d"):
        network.make("a", ["d"], 32, ["k"], counting(), disjoint=4)
    assert [link.reservoir.used for link in network.links.values()] == before
    assert network.ledger.pair("a", "d").refused == 1


def test_a_key_is_paid_for_on_all_links_of_its_way_or_on_none() -> None:
    network = chain("a", "b", "c")
    network.advance(1.0)
    paths = network.paths("a", "c", 256)
    network.links["b-c"].take(network.links["b-c"].reservoir.stored)
    with pytest.raises(ShortageError):
        network.spend(paths, 256)
    assert network.links["a-b"].reservoir.used == 0


def test_several_targets_get_the_same_key_and_share_what_their_ways_have_in_common() -> None:
    network = chain("a", "b", "c")
    network.advance(1.0)
    (key,) = network.make("a", ["b", "c"], 32, ["k"], counting())
    assert key.at_source == key.at_targets["b"] == key.at_targets["c"]
    assert [link.reservoir.used for link in network.links.values()] == [2 * 384, 384]
    with pytest.raises(NoPathError, match="a-b has"):
        network.make("a", ["b", "c"], 32, [f"k{n}" for n in range(6)], counting())


def test_a_lost_node_is_gone_round_and_without_a_detour_it_is_named() -> None:
    network = ring()
    network.advance(1.0)
    network.stop_node("b")
    (key,) = network.make("a", ["d"], 32, ["k"], counting())
    assert key.deliveries[0].paths[0].between == ("c",)
    network.stop_node("c")
    network.stop_node("f")
    with pytest.raises(NoPathError, match="ab has lost b"):
        network.make("a", ["d"], 32, ["k"], counting())
    network.start_node("b")
    network.make("a", ["d"], 32, ["k"], counting())


def test_an_alarmed_link_is_gone_round_and_without_a_detour_it_is_named() -> None:
    network = ring()
    network.advance(1.0)
    network.links["ab"].eavesdrop(1.0, "intercept-resend")
    assert [one.what for one in network.advance(2.0)] == ["link.alarm"]
    assert network.paths("a", "d", 256)[0].between == ("c",)
    for name in ("ac", "ae"):
        network.links[name].cut(2.0)
        network.links[name].take(network.links[name].reservoir.stored)
    with pytest.raises(NoPathError) as failure:
        network.paths("a", "d", 256)
    assert [link.name for link in failure.value.alarmed] == ["ab"]
    assert "ab warns: QBER above the threshold of 11.0%" in str(failure.value)


def test_an_alarm_comes_before_a_hundred_further_keys_are_delivered() -> None:
    """However full the store is: a tunnel takes ten keys in each hundredth of a second."""
    network = chain("a", "b", initial=2_560_000)
    network.links["a-b"].eavesdrop(0.0, "intercept-resend")
    delivered, now, draw = 0, 0.0, counting()
    while network.links["a-b"].usable:
        network.make("a", ["b"], 32, [f"k{delivered + n}" for n in range(10)], draw)
        delivered += 10
        now += 0.01
        network.advance(now)
    assert delivered < 100
    assert network.links["a-b"].keys_until_alarm == delivered


def test_an_eavesdropper_on_one_of_two_ways_has_shares_and_on_both_the_keys() -> None:
    network = ring(watched=False)
    network.links["ab"].eavesdrop(0.0, "blind")
    network.advance(1.0)
    network.make("a", ["d"], 32, ["k"], counting(), disjoint=3)
    assert (network.ledger.eavesdropper.whole, network.ledger.eavesdropper.shares) == (0, 1)
    network.make("a", ["b"], 32, ["k"], counting())
    assert network.ledger.eavesdropper.whole == 1


MEDDLE: dict[str, Meddling] = {"lose": "lose", "late": "late", "forge": "forge"}

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0, 5), st.just("")),
        st.tuples(st.just("make"), st.integers(1, 3), st.sampled_from(["ad", "be", "cf", "fa"])),
        st.tuples(
            st.sampled_from(["cut", "restore", "eavesdrop", "blind", "noise", *MEDDLE]),
            st.floats(0, 1),
            st.sampled_from(["ab", "bd", "ac", "cd", "ae", "ef", "fd"]),
        ),
        st.tuples(st.sampled_from(["stop", "start"]), st.just(0), st.sampled_from("abcdef")),
    ),
    max_size=40,
)


@given(STEPS, st.booleans())
def test_whatever_happens_the_books_are_right(steps: list[tuple[str, float, str]], waits: bool) -> None:
    network = ring(capacity=20_000, watched=False, waits=waits)
    now, draw = 0.0, counting()
    deliveries: list[Delivery] = []
    said: list[Happening] = []
    for what, amount, place in steps:
        if what == "wait":
            now += amount
            said += network.advance(now)
        elif what == "make":
            try:
                made = network.make(place[0], [place[1]], 16, ["k"], draw, disjoint=int(amount))
            except NoPathError:
                continue
            assert made[0].at_source == made[0].at_targets[place[1]]
            deliveries += made[0].deliveries
        elif what in ("stop", "start"):
            (network.stop_node if what == "stop" else network.start_node)(place)
        else:
            link = network.links[place]
            if what == "cut":
                link.cut(now)
            elif what == "restore":
                link.restore(now)
            elif what == "noise":
                link.add_noise(now, amount / 4)
            elif what in MEDDLE:
                link.meddle(now, MEDDLE[what], amount)
            else:
                link.eavesdrop(now, "blind" if what == "blind" else "intercept-resend", amount)
        for link in network.links.values():
            store = link.reservoir
            assert store.made == store.used + store.stored + store.overflowed + store.discarded
            assert 0 <= store.stored <= store.capacity
            assert store.made <= RATE * now + 1
        assert not any(node.waiting for node in network.relay.nodes.values())
    if waits and not any(what == "blind" for what, _, _ in steps):
        assert not network.ledger.eavesdropper.whole + network.ledger.eavesdropper.shares
    said += network.advance(now)
    uses: Counter[str] = Counter()
    for one in deliveries:
        uses.update({name: 128 + overhead(one.paths) for path in one.paths for name in path.links})
    if any(one.what == "relay.failed" for one in said):  # which costs bits, and brings nothing
        assert all(link.reservoir.used >= uses[name] for name, link in network.links.items())
    else:
        assert {name: link.reservoir.used for name, link in network.links.items()} == {
            name: uses[name] for name in network.links
        }
    for name in "abcdef":
        learned = network.ledger.node(name)
        assert learned.own == sum(name in (one.source, one.target) for one in deliveries)
        assert learned.whole == sum(name in one.knowing for one in deliveries)
        assert learned.shares == sum(name in one.sharing for one in deliveries)


def test_a_pad_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a pad of 3 bytes for a message of 4"):
        combined(Secret(bytes(4)), Secret(bytes(3)))
