"""Keys by the etsi004 driver from real KMEs of its framing, over TCP and over mutual TLS."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest

from qtunnel.drivers import etsi004, etsi004_roles, registry
from qtunnel.drivers.etsi004_answers import parse_key_id
from qtunnel.errors import (
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnavailableError,
    KeySourceUnreachableError,
)
from qtunnel.keys.source import KeyRef
from tests.support.etsi004 import CLOSE, GET, OPEN, Kme, kme_pair, peer_options
from tests.support.kme import run, until


@pytest.mark.parametrize("tls", [False, True])
def test_200_keys_both_ways_over_one_connection_for_each_stream(pki: Path, tls: bool) -> None:
    async def test() -> None:
        async with kme_pair(pki if tls else None) as pair:
            alice, bob = pair.source("a"), pair.source("b")
            seen = set()
            for number in range(200):
                taker, fetcher = (alice, bob) if number % 2 else (bob, alice)
                ref, key = await taker.get_key(32)
                assert await fetcher.get_key_by_id(ref) == key
                assert ref.source == "fibre"
                assert ref.size == len(key) == 32
                seen.add((ref.key_id, bytes(key.reveal())))
            assert len({key_id for key_id, _ in seen}) == len({key for _, key in seen}) == 200
            for kme in pair.kmes.values():
                assert kme.connections == 2
                assert kme.services.count(OPEN) == 2
        assert pair.kmes["a"].services.count(CLOSE) == 2

    run(test)


def test_both_ends_at_once_and_many_at_a_time() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            alice, bob = pair.source("a"), pair.source("b")
            taken = await asyncio.gather(*(end.get_key(32) for _ in range(20) for end in (alice, bob)))
            assert len({ref.key_id for ref, _ in taken}) == 40
            fetched = await asyncio.gather(
                *((bob, alice)[at % 2].get_key_by_id(ref) for at, (ref, _) in reversed(list(enumerate(taken))))
            )
            assert [key for _, key in taken] == fetched[::-1]

    run(test)


def test_registered() -> None:
    driver = registry.find("etsi004")
    assert driver is etsi004.DRIVER
    assert isinstance(driver.options, type)


@pytest.mark.parametrize(
    ("chunk", "size", "indexes"), [(16, 32, [0, 2, 4]), (16, 40, [0, 3, 6]), (32, 32, [0, 1, 2]), (64, 32, [0, 1, 2])]
)
def test_a_key_takes_whole_chunks_and_no_byte_twice(chunk: int, size: int, indexes: list[int]) -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            alice, bob = pair.source("a", chunk_size=chunk), pair.source("b", chunk_size=chunk)
            taken = [await alice.get_key(size) for _ in indexes]
            places = [parse_key_id(ref.key_id) for ref, _ in taken]
            assert [place.index for place in places if place] == indexes
            (stream,) = pair.link.streams.values()
            for index, (ref, key) in zip(indexes, taken, strict=True):
                count = -(-size // chunk)
                of_link = b"".join(stream.chunks[at] for at in range(index, index + count))[:size]
                assert bytes(key.reveal()) == of_link
                assert await bob.get_key_by_id(ref) == key
            assert len(stream.chunks) == len(indexes) * -(-size // chunk)

    run(test)


def test_sizes_may_change_from_key_to_key() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            alice, bob = pair.source("a", chunk_size=16), pair.source("b", chunk_size=16)
            for size in (16, 64, 1, 17, 32):
                ref, key = await alice.get_key(size)
                assert await bob.get_key_by_id(ref) == key
                assert len(key) == size

    run(test)


@pytest.mark.parametrize(
    "key_id",
    ["", "17", "x:0:32", f"{uuid.UUID(int=0)}:0:32", f"{uuid.UUID(int=7)}:0:1", f"{uuid.UUID(int=7)}:4294967296:32",
     f"{uuid.UUID(int=7)}:4294967295:16", f"{uuid.UUID(int=7)}:00:32", f"{uuid.UUID(int=7)}:0:32\n"],
)  # fmt: skip
def test_references_that_are_not_ours_ask_nobody(key_id: str) -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            bob = pair.source("b")
            with pytest.raises(KeyNotFoundError) as caught:
                await bob.get_key_by_id(KeyRef("fibre", key_id, 32))
            assert caught.value.lost == 0
            assert pair.kmes["b"].asked == []

    run(test)


def test_not_enough_key_costs_nothing_and_the_same_index_comes_next() -> None:
    async def test() -> None:
        async with kme_pair(stock=3) as pair:
            alice, bob = pair.source("a", chunk_size=16), pair.source("b", chunk_size=16)
            ref, key = await alice.get_key(32)
            assert await bob.get_key_by_id(ref) == key
            with pytest.raises(KeySourceUnavailableError, match="status 2: not enough key available") as caught:
                await alice.get_key(32)  # its first chunk is there, its second is not
            assert caught.value.lost == 0
            assert "status 2" in (await alice.status()).detail
            pair.link.stock = 4
            ref, key = await alice.get_key(32)
            assert ref.key_id.endswith(":2:16")
            assert await bob.get_key_by_id(ref) == key
            assert (await alice.status()).healthy

    run(test)


def test_a_chunk_that_is_lost_takes_those_before_it_along() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            alice, bob = pair.source("a", chunk_size=16), pair.source("b", chunk_size=16)
            pair.kmes["a"].faults[GET] = ["", "short"]
            with pytest.raises(KeySourceProtocolError) as caught:
                await alice.get_key(32)
            assert caught.value.lost == 1
            ref, key = await alice.get_key(32)
            assert ref.key_id.endswith(":2:16")
            assert await bob.get_key_by_id(ref) == key

    run(test)


def test_a_chunk_missing_at_the_fetching_end_costs_the_key() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            alice, bob = pair.source("a", chunk_size=16), pair.source("b", chunk_size=16)
            ref, _ = await alice.get_key(32)
            pair.kmes["b"].faults[GET] = ["", "2"]
            with pytest.raises(KeySourceUnavailableError) as caught:
                await bob.get_key_by_id(ref)
            assert caught.value.lost == 1
            ref, _ = await alice.get_key(32)
            pair.kmes["b"].inject("2")
            with pytest.raises(KeySourceUnavailableError) as caught:
                await bob.get_key_by_id(ref)
            assert caught.value.lost == 0

    run(test)


@pytest.mark.parametrize("opens_anyway", [True, False])
def test_a_counter_proposal_is_taken_where_it_will_do(opens_anyway: bool) -> None:
    async def test() -> None:
        async with kme_pair(most_chunk=16, most_bps=100, opens_anyway=opens_anyway) as pair:
            alice, bob = pair.source("a"), pair.source("b", chunk_size=64)
            ref, key = await alice.get_key(32)
            assert ref.key_id.endswith(":0:16")
            assert await bob.get_key_by_id(ref) == key  # it asks for chunks of the peer's size
            ref, key = await bob.get_key(32)
            assert await alice.get_key_by_id(ref) == key

    run(test)


@pytest.mark.parametrize(
    ("link", "options", "said"),
    [
        ({"most_chunk": 8}, {}, "chunks of 8 bytes, and 16 to 65536 can be used"),
        ({"most_bps": 100}, {"qos": {"min_bps": 200}}, r"at most 100 bit/s \(max_bps\), and qos.min_bps is 200"),
        ({"ttl": 5}, {}, "a TTL of 5 s, and a key may have to wait 90 s"),
    ],
)
def test_a_counter_proposal_that_will_not_do(link: dict[str, Any], options: dict[str, Any], said: str) -> None:
    async def test() -> None:
        async with kme_pair(**link) as pair:
            with pytest.raises(KeyRequestRejectedError, match="status 7: the QoS.*it offers " + said) as caught:
                await pair.source("a", **options).get_key(32)
            assert caught.value.lost == 0

    run(test)


def test_two_kmes_that_disagree_on_the_chunks() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            ref, _ = await pair.source("a").get_key(32)
            pair.link.most_chunk = 16
            with pytest.raises(KeyRequestRejectedError, match=r"offers chunks of 16 bytes .* the peer's has 32"):
                await pair.source("b").get_key_by_id(ref)

    run(test)


def test_more_metadata_than_was_asked_for_is_asked_for_again() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            alice, bob = pair.source("a", metadata_size=4), pair.source("b")
            ref, key = await alice.get_key(32)
            assert ref.key_id.endswith(":0:32")
            assert await bob.get_key_by_id(ref) == key
            await alice.get_key(32)
            assert pair.kmes["a"].services == [OPEN, GET, GET, GET]
            pair.link.metadata = bytes(100_000)
            with pytest.raises(KeyRequestRejectedError, match="status 8: more metadata than was asked for"):
                await alice.get_key(32)

    run(test)


def test_all_indexes_used_begin_a_new_stream() -> None:
    async def test() -> None:
        async with kme_pair(stock=2**33) as pair:
            alice = pair.source("a", chunk_size=16)
            await alice.get_key(32)
            memories = alice._taker._memories
            (old,) = memories
            memories[old].next = alice._taker._next = alice._taker._end = 2**32 - 1
            ref, _ = await alice.get_key(32)
            assert ref.key_id.endswith(":0:16")
            assert not ref.key_id.startswith(str(old))

    run(test)


def test_waiting_for_others_is_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            alice = pair.source("a", timeout="20s")
            first, _ = await alice.get_key(32)
            monkeypatch.setattr(etsi004_roles, "CALL_LIMIT", 0.2)
            pair.kmes["a"].inject("hang")
            ended = await asyncio.gather(*(alice.get_key(32) for _ in range(3)), return_exceptions=True)
            assert all(isinstance(error, KeySourceTimeoutError) for error in ended)
            assert sorted(error.lost for error in ended if isinstance(error, KeySourceError)) == [0, 0, 1]
            monkeypatch.undo()
            second, _ = await alice.get_key(32)
            assert second.key_id[:36] != first.key_id[:36]  # the KME still hangs with the old one

    run(test)


def test_a_closed_source_says_so_and_nobody_there_is_named() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            hub = etsi004.Hub("fibre", pair.options("a"))
            source = hub.for_peer(peer_options("a"))
            await hub.close()
            with pytest.raises(KeySourceUnreachableError, match="the source is closed"):
                await source.get_key(32)
            await pair.kmes["a"].stop()
            with pytest.raises(KeySourceUnreachableError, match="OPEN_CONNECT: connection refused"):
                await pair.source("a").status()
            await pair.kmes["a"].start()

    run(test)


def test_the_end_cuts_a_call_off() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            hub = etsi004.Hub("fibre", pair.options("a"))
            source = hub.for_peer(peer_options("a"))
            await source.get_key(32)
            pair.kmes["a"].inject("hang")
            asking = asyncio.create_task(source.get_key(32))
            await until(lambda: _asked(pair.kmes["a"], 2))
            await hub.close()
            with pytest.raises(KeySourceUnreachableError) as caught:
                await asking
            assert caught.value.lost == 1
            assert CLOSE not in pair.kmes["a"].services

    run(test)


async def _asked(kme: Kme, count: int) -> bool:
    return kme.services.count(GET) == count


def test_a_close_that_is_not_answered_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qtunnel.drivers.etsi004_stream.CLOSE_LIMIT", 0.1)

    async def test() -> None:
        async with kme_pair() as pair:
            hub = etsi004.Hub("fibre", pair.options("a"))
            await hub.for_peer(peer_options("a")).get_key(32)
            pair.kmes["a"].inject("hang", CLOSE)
            await hub.close()

    run(test)
