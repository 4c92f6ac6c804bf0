"""Ways through networks, against a search through all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.qkdnet.routing import Edge, Path, disjoint_paths, explain

NODES = "abcdef"


@st.composite
def graphs(draw: st.DrawFn) -> list[Edge]:
    pairs = list(itertools.combinations(NODES, 2))
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=12))  # a pair may come twice: parallel links
    return [Edge(f"l{index}", pair, draw(st.sampled_from([0.0, 0.25, 0.5, 1.0]))) for index, pair in enumerate(chosen)]


def all_paths(edges: list[Edge], start: str, goal: str, relays: frozenset[str]) -> Iterator[Path]:
    def walk(nodes: tuple[str, ...], links: tuple[str, ...]) -> Iterator[Path]:
        for edge in edges:
            if nodes[-1] not in edge.ends:
                continue
            node = edge.ends[edge.ends[0] == nodes[-1]]
            if node == goal:
                yield Path((*nodes, node), (*links, edge.name))
            elif node in relays and node not in nodes:
                yield from walk((*nodes, node), (*links, edge.name))

    yield from walk((start,), ())


def best(edges: list[Edge], start: str, goal: str, number: int, relays: frozenset[str]) -> float | None:
    """The least cost of so many disjoint ways, by trying all sets of them."""
    cost = {edge.name: edge.cost for edge in edges}
    found = None
    for several in itertools.combinations(all_paths(edges, start, goal, relays), number):
        nodes = [node for path in several for node in path.between]
        links = [link for path in several for link in path.links]
        if len(set(nodes)) == len(nodes) and len(set(links)) == len(links):
            price = sum(cost[link] for link in links)
            found = price if found is None else min(found, price)
    return found


@given(graphs(), st.integers(1, 3), st.frozensets(st.sampled_from(NODES)))
def test_ways_are_disjoint_lead_there_and_cost_least(edges: list[Edge], number: int, relays: frozenset[str]) -> None:
    found = disjoint_paths(edges, "a", "f", number, relays=relays)
    wanted = best(edges, "a", "f", number, relays - {"a", "f"})
    if wanted is None:
        assert found is None
        return
    assert found is not None
    assert len(found) == number
    by_name = {edge.name: edge for edge in edges}
    for path in found:
        assert (path.nodes[0], path.nodes[-1]) == ("a", "f")
        assert set(path.between) <= relays - {"a", "f"}
        for link, (one, other) in zip(path.links, itertools.pairwise(path.nodes), strict=True):
            assert set(by_name[link].ends) == {one, other}
    nodes = [node for path in found for node in path.between]
    links = [link for path in found for link in path.links]
    assert len(set(nodes)) == len(nodes)
    assert len(set(links)) == len(links)
    assert sum(by_name[link].cost for link in links) == pytest.approx(wanted)


@given(graphs(), st.randoms(use_true_random=False))
def test_the_same_network_gives_the_same_way_in_whatever_order_it_is_told(edges: list[Edge], random: object) -> None:
    relays = frozenset(NODES)
    mixed = list(edges)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert disjoint_paths(edges, "a", "f", 1, relays=relays) == disjoint_paths(mixed, "a", "f", 1, relays=relays)


def test_a_full_detour_is_preferred_to_an_empty_link_but_not_to_a_full_one() -> None:
    def ways(filled: float) -> tuple[str, ...]:
        edges = [Edge("direct", ("a", "b"), filled), Edge("to", ("a", "c")), Edge("from", ("c", "b"))]
        found = disjoint_paths(edges, "a", "b", 1, relays=frozenset("c"))
        assert found is not None
        return found[0].links

    assert ways(1.0) == ("direct",)
    assert ways(0.05) == ("to", "from")


def test_a_way_joins_two_nodes_and_there_is_one_at_least() -> None:
    for goal, number in (("a", 1), ("b", 0)):
        with pytest.raises(ValueError, match="a way joins two nodes"):
            disjoint_paths([Edge("ab", ("a", "b"))], "a", goal, number, relays=frozenset())


def test_a_node_that_does_not_relay_is_no_way() -> None:
    edges = [Edge("to", ("a", "c")), Edge("from", ("c", "b"))]
    assert disjoint_paths(edges, "a", "b", 1, relays=frozenset()) is None


def test_words_name_the_first_hindrances_and_how_many_more() -> None:
    text = explain("a", "b", 2, [f"link{index} is cut" for index in range(9)])
    assert text.startswith("fewer than 2 disjoint paths from a to b with enough keys: link0 is cut;")
    assert text.endswith("; and 3 more")
