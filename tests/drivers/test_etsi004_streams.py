"""The streams that keys of etsi004 come from: opened, lost, forgotten, agreed on."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from qtunnel.drivers import etsi004, etsi004_roles, etsi004_stream
from qtunnel.errors import (
    KeyNotFoundError,
    KeySourceUnavailableError,
)
from tests.support.etsi004 import CLOSE, GET, OPEN, Kme, kme_pair, peer_options
from tests.support.kme import run, until


def agreed(directory: Path, end: str) -> dict[str, Any]:
    """A peer's options with streams that both ends agreed on."""
    mine, theirs = (uuid.UUID(int=1 << 100), uuid.UUID(int=2 << 100))[:: 1 if end == "a" else -1]
    return {"key_stream_id": mine, "peer_key_stream_id": theirs, "index_file": directory / f"{end}.index"}


def test_the_stream_is_opened_again_after_a_loss_and_its_indexes_go_on() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            alice, bob = pair.source("a"), pair.source("b")
            first, key = await alice.get_key(32)
            assert await bob.get_key_by_id(first) == key
            for kme in pair.kmes.values():
                kme.drop()
            await until(lambda: _nobody(pair.kmes))
            second, key = await alice.get_key(32)
            assert await bob.get_key_by_id(second) == key
            (ksid,) = pair.link.streams
            assert [first.key_id, second.key_id] == [f"{ksid}:0:32", f"{ksid}:1:32"]

    run(test)


async def _nobody(kmes: dict[str, Kme]) -> bool:
    return not any(kme.connections for kme in kmes.values())


def test_a_kme_that_forgot_the_stream_gets_a_new_one() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            alice, bob = pair.source("a"), pair.source("b")
            first, _ = await alice.get_key(32)
            # The connections stay, and the KME has lost what it knew of the stream.
            pair.link.streams.clear()
            second, key = await alice.get_key(32)
            assert second.key_id.endswith(":0:32")
            assert second.key_id != first.key_id
            assert await bob.get_key_by_id(second) == key

    run(test)


def test_a_kme_that_gives_an_old_stream_as_a_new_one_does_not_make_us_begin_again() -> None:
    async def test() -> None:
        async with kme_pair(new_id=uuid.UUID(int=7)) as pair:
            alice, bob = pair.source("a"), pair.source("b")
            first, _ = await alice.get_key(32)
            pair.link.streams.clear()
            second, key = await alice.get_key(32)
            assert [first.key_id[-5:], second.key_id[-5:]] == [":0:32", ":2:32"]
            assert await bob.get_key_by_id(second) == key

    run(test)


def test_a_peer_whose_kme_forgot_the_stream_opens_it_again() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            alice, bob = pair.source("a"), pair.source("b")
            ref, key = await alice.get_key(32)
            assert await bob.get_key_by_id(ref) == key
            ref, key = await alice.get_key(32)
            pair.kmes["b"].inject("3")
            next(iter(pair.link.streams.values())).open.discard("b")
            assert await bob.get_key_by_id(ref) == key
            assert pair.kmes["b"].services == [OPEN, GET, GET, OPEN, GET]

    run(test)


def test_a_stream_that_the_kme_does_not_let_us_have_again_is_replaced() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            alice = pair.source("a")
            first, _ = await alice.get_key(32)
            pair.kmes["a"].drop()
            await until(lambda: _nobody(pair.kmes))
            pair.kmes["a"].faults[OPEN] = ["5"] * (1 + len(etsi004_stream.IN_USE_PAUSES))
            second, _ = await alice.get_key(32)
            assert second.key_id.endswith(":0:32")
            assert second.key_id != first.key_id

    run(test)


def test_a_stream_that_the_kme_still_holds_for_our_old_connection_is_waited_for() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            alice, bob = pair.source("a"), pair.source("b")
            first, _ = await alice.get_key(32)
            await bob.get_key_by_id(first)
            for kme in pair.kmes.values():
                kme.drop()
                kme.faults[OPEN] = ["5", "5"]
            await until(lambda: _nobody(pair.kmes))
            second, key = await alice.get_key(32)
            assert second.key_id[:36] == first.key_id[:36]
            assert await bob.get_key_by_id(second) == key

    run(test)


def test_our_own_stream_is_never_fetched_from() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            alice = pair.source("a")
            ref, _ = await alice.get_key(32)
            with pytest.raises(KeyNotFoundError, match="is the one that we take keys from"):
                await alice.get_key_by_id(ref)
            assert pair.kmes["a"].services == [OPEN, GET]

    run(test)


def test_streams_of_a_peer_that_starts_again_and_again_are_given_up() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            bob = pair.source("b")
            for _ in range(etsi004_roles.STREAMS_OF_PEER + 2):
                hub = etsi004.Hub("fibre", pair.options("a"))
                ref, key = await hub.for_peer(peer_options("a")).get_key(32)
                assert await bob.get_key_by_id(ref) == key
                await hub.close()
            await until(lambda: _connected(pair.kmes["b"], etsi004_roles.STREAMS_OF_PEER))
            assert pair.kmes["b"].services.count(CLOSE) == 2

    run(test)


async def _connected(kme: Kme, count: int) -> bool:
    return kme.connections == count


def test_strict_kmes_need_agreed_streams(tmp_path: Path) -> None:
    async def test() -> None:
        async with kme_pair(both_first=True) as pair:
            alone = pair.source("a")
            with pytest.raises(KeySourceUnavailableError, match="status 3: the peer has not connected") as caught:
                await alone.get_key(32)
            assert caught.value.lost == 0
            assert "agree on key_stream_id and peer_key_stream_id" in str(caught.value)
            assert (await alone.status()).healthy is False
            alice, bob = (pair.source(end, agreed(tmp_path, end)) for end in "ab")
            for first, second in ((alice, bob), (bob, alice)):  # either may be the first to open
                await first.status()
                await second.status()
                ref, key = await first.get_key(32)
                assert await second.get_key_by_id(ref) == key

    run(test)


def test_status_1_then_0_as_the_ends_come(tmp_path: Path) -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            alice, bob = (pair.source(end, agreed(tmp_path, end)) for end in "ab")
            status = await alice.status()
            assert status.healthy
            assert status.key_size == 32
            assert status.detail.endswith("is open, chunks of 32 bytes; the peer has not connected to it")
            assert "not connected" not in (await bob.status()).detail
            ref, key = await alice.get_key(32)
            assert await bob.get_key_by_id(ref) == key
            assert (await alice.status()).detail.endswith("chunks of 32 bytes; keys come over 2 hops")
            assert pair.kmes["a"].services == [OPEN, OPEN, GET]

    run(test)


def test_an_agreed_stream_goes_on_after_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            bob, refs = pair.source("b", agreed(tmp_path, "b")), []
            for _ in range(3):
                hub = etsi004.Hub("fibre", pair.options("a"))
                alice = hub.for_peer(peer_options("a", **agreed(tmp_path, "a")))
                for _ in range(2):
                    ref, key = await alice.get_key(32)
                    assert await bob.get_key_by_id(ref) == key
                    refs.append(ref.key_id)
                await hub.close()
                await until(lambda: _only_bob(pair.kmes))
            assert refs == [f"{uuid.UUID(int=1 << 100)}:{index}:32" for index in range(6)]
            assert CLOSE not in pair.kmes["a"].services

    run(test)


async def _only_bob(kmes: dict[str, Kme]) -> bool:
    return not kmes["a"].connections


def test_an_agreed_stream_with_other_chunks_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            await pair.source("a", agreed(tmp_path, "a")).get_key(32)
            pair.kmes["a"].drop()
            await until(lambda: _nobody(pair.kmes))
            with pytest.raises(
                KeySourceUnavailableError, match="had chunks of 32 bytes before, and now has 16"
            ) as caught:
                await pair.source("a", agreed(tmp_path, "a"), chunk_size=16).get_key(32)
            assert caught.value.lost == 0

    run(test)


def test_only_the_agreed_stream_of_the_peer_is_fetched_from(tmp_path: Path) -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            ref, _ = await pair.source("a").get_key(32)
            with pytest.raises(KeyNotFoundError, match="is not peer_key_stream_id"):
                await pair.source("b", agreed(tmp_path, "b")).get_key_by_id(ref)

    run(test)


def test_whose_uri_comes_first() -> None:
    async def test() -> None:
        async with kme_pair(same_uris=False) as pair:
            alice, bob = (pair.source(end, {"own_uri_first": True}) for end in "ab")
            ref, key = await alice.get_key(32)
            assert await bob.get_key_by_id(ref) == key
            assert pair.kmes["b"].asked[0][1].startswith(b"qkd://bob\0qkd://alice\0")
            ref, key = await pair.source("a").get_key(32)
            assert await pair.source("b").get_key_by_id(ref) == key
            assert pair.kmes["b"].asked[-2][1].startswith(b"qkd://alice\0qkd://bob\0")

    run(test)


def test_chunks_of_another_size_after_a_loss_begin_a_new_stream() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            alice = pair.source("a")
            first, _ = await alice.get_key(32)
            pair.kmes["a"].drop()
            await until(lambda: _nobody(pair.kmes))
            pair.link.most_chunk = 16
            second, _ = await alice.get_key(32)
            assert second.key_id.endswith(":0:16")
            assert first.key_id[:36] != second.key_id[:36]

    run(test)


def test_the_same_peer_has_one_source_and_a_changed_one_takes_its_stream_over(tmp_path: Path) -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            hub = etsi004.Hub("fibre", pair.options("a"))
            pair.stack.push_async_callback(hub.close)
            options = peer_options("a", **agreed(tmp_path, "a"))
            assert hub.for_peer(options) is hub.for_peer(options.model_copy())
            await hub.for_peer(options).get_key(32)
            changed = hub.for_peer(options.model_copy(update={"own_uri_first": True}))
            await until(lambda: _nobody(pair.kmes))
            ref, _ = await changed.get_key(32)
            assert ref.key_id.endswith(":1:32")

    run(test)
