"""Several keys at once, GET and POST, additional SAEs, extensions and fixed key sizes, against real KMEs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qtunnel.drivers import etsi014
from qtunnel.errors import (
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceUnavailableError,
    KeySourceUnreachableError,
)
from qtunnel.keys.source import BatchKeySource, KeyRef
from tests.drivers.front import Exchange, Front, front
from tests.support.kme import Pair, driver_options, kme_pair, run


def source(pair: Pair, server: Front, peer: dict[str, Any] | None = None, **options: Any) -> etsi014.Source:
    """Alice's source through a front."""
    hub = etsi014.Hub("metro", driver_options(pair.pki, "sae-alice", server.url, **options))
    pair.stack.push_async_callback(hub.close)
    return hub.for_peer(etsi014.PeerOptions.model_validate({"peer_sae_id": "sae-bob", **(peer or {})}))


def test_it_is_a_batch_source(pki: Path) -> None:
    hub = etsi014.Hub("metro", driver_options(pki, "sae-alice", "https://127.0.0.1:1"))
    assert isinstance(hub.for_peer(etsi014.PeerOptions(peer_sae_id="sae-bob")), BatchKeySource)


@pytest.mark.parametrize("method", ["post", "get"])
def test_keys_in_batches_of_what_the_kme_allows(pki: Path, method: str) -> None:
    async def test() -> None:
        async with kme_pair(pki, max_per_request=5) as pair:
            alice = pair.source("sae-alice", "sae-bob", method=method)
            bob = pair.source("sae-bob", "sae-alice", method=method)
            made = await alice.get_keys(32, 12)
            assert len(made) == 5
            made += await alice.get_keys(32, 2)
            assert len({ref.key_id for ref, _ in made}) == len({bytes(key.reveal()) for _, key in made}) == 7
            refs = [ref for ref, _ in made]
            fetched = await bob.get_keys_by_ids(refs)
            assert len(fetched) == 5
            fetched += await bob.get_keys_by_ids(refs[5:])
            assert fetched == [key for _, key in made]
            with pytest.raises(KeyNotFoundError) as caught:
                await bob.get_keys_by_ids(refs)
            assert caught.value.lost == 0

    run(test)


def test_a_batch_of_keys_of_two_sizes_is_fetched_size_by_size(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            alice, bob = pair.source("sae-alice", "sae-bob"), pair.source("sae-bob", "sae-alice")
            made = [*await alice.get_keys(32, 2), *await alice.get_keys(64, 2)]
            refs = [ref for ref, _ in made]
            fetched = await bob.get_keys_by_ids(refs)
            assert [len(key) for key in fetched] == [32, 32]
            fetched += await bob.get_keys_by_ids(refs[2:])
            assert fetched == [key for _, key in made]

    run(test)


def test_a_kme_that_gives_one_key_at_a_time(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, max_per_request=1) as pair:
            alice, bob = pair.source("sae-alice", "sae-bob"), pair.source("sae-bob", "sae-alice")
            [(ref, key)] = await alice.get_keys(32, 8)
            assert await bob.get_keys_by_ids([ref, ref]) == [key]

    run(test)


def test_a_batch_is_refused_before_it_is_asked_for_where_the_kme_has_no_keys_of_that_size(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, min_size=128, max_size=512) as pair, front(pki, f"https://{pair.a.listen}") as server:
            alice = source(pair, server)
            with pytest.raises(KeyRequestRejectedError, match="keys of 128 to 512 bits, and 1024 are wanted") as caught:
                await alice.get_keys(128, 2)
            assert (server.calls, caught.value.lost) == ([], 0)
            assert len(await alice.get_keys(64, 2)) == 2

    run(test)


def test_a_batch_that_the_link_has_not_made_costs_nothing(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, max_count=3, rate=1) as pair:
            alice = pair.source("sae-alice", "sae-bob")
            with pytest.raises(KeySourceUnavailableError) as caught:
                await alice.get_keys(32, 4)
            assert caught.value.lost == 0
            assert len(await alice.get_keys(32, 3)) == 3

    run(test)


@pytest.mark.parametrize("number", [1, 4])
def test_a_lost_batch_is_booked_whole(pki: Path, number: int) -> None:
    async def dropped(exchange: Exchange) -> None:
        exchange.writer.transport.abort()

    async def test() -> None:
        async with kme_pair(pki) as pair, front(pki, f"https://{pair.a.listen}") as server:
            alice = source(pair, server, method="get")
            server.fault = dropped
            with pytest.raises(KeySourceUnreachableError) as caught:
                await alice.get_keys(32, number)
            assert caught.value.lost == number
            # The HTTP library sends a GET again by itself where the connection was lost; one that consumes must not be.
            assert server.calls == ["GET enc_keys"]

    run(test)


def test_get_is_used_where_the_standard_allows_it(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair, front(pki, f"https://{pair.a.listen}") as server:
            alice = source(pair, server, method="get")
            await alice.get_key(32)
            assert server.requests[-1].path == "/api/v1/keys/sae-bob/enc_keys?number=1&size=256"
            await alice.get_keys(32, 3)
            assert server.requests[-1].path == "/api/v1/keys/sae-bob/enc_keys?number=3&size=256"
            for refs in ([KeyRef("metro", "a b", 32)], [KeyRef("metro", name, 32) for name in "xy"]):
                with pytest.raises(KeyNotFoundError):
                    await alice.get_keys_by_ids(refs)
            assert server.calls == ["GET enc_keys", "GET enc_keys", "GET dec_keys", "POST dec_keys"]
            assert server.requests[-2].path == "/api/v1/keys/sae-bob/dec_keys?key_ID=a%20b"
            extended = source(pair, server, method="get", extension_optional={"route": "direct"})
            multicast = source(pair, server, {"additional_slave_sae_ids": ["sae-carol"]}, method="get")
            for one in (extended, multicast):
                await one.get_key(32)
                assert server.calls[-1] == "POST enc_keys"

    run(test)


def test_a_further_sae_gets_the_same_key(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair, front(pki, f"https://{pair.a.listen}") as server:
            alice = source(pair, server, {"additional_slave_sae_ids": ["sae-carol"]})
            ref, key = await alice.get_key(32)
            assert server.requests[-1].fields["additional_slave_SAE_IDs"] == ["sae-carol"]
            for name in ("sae-bob", "sae-carol"):
                assert await pair.source(name, "sae-alice").get_key_by_id(ref) == key

    run(test)


def test_more_saes_than_the_kme_takes(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, max_sae_ids=0) as pair, front(pki, f"https://{pair.a.listen}") as server:
            alice = source(pair, server, {"additional_slave_sae_ids": ["sae-carol"]})
            with pytest.raises(KeyRequestRejectedError, match="too many additional_slave_SAE_IDs"):
                await alice.get_key(32)

    run(test)


@pytest.mark.parametrize("given", [{"route": "direct", "hops": 2}, [{"route": "direct"}, {"hops": 2}]])
def test_extensions_are_sent_as_the_standard_has_them(pki: Path, given: object) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair, front(pki, f"https://{pair.a.listen}") as server:
            await source(pair, server, extension_optional=given).get_key(32)
            sent = {"number": 1, "size": 256, "extension_optional": [{"route": "direct"}, {"hops": 2}]}
            assert server.requests[-1].fields == sent
            with pytest.raises(KeyRequestRejectedError) as caught:
                await source(pair, server, extension_mandatory=given).get_key(32)
            assert "not all extension_mandatory parameters are supported" in str(caught.value)
            assert "must not stand in extension_mandatory" in str(caught.value)
            assert caught.value.lost == 0

    run(test)


FIXED: dict[str, Any] = {"min_size": 128, "size": 128, "max_size": 128}


@pytest.mark.parametrize("most", [1, 3, 128])
@pytest.mark.parametrize("method", ["post", "get"])
def test_a_key_out_of_several_where_the_kme_has_one_size(pki: Path, most: int, method: str) -> None:
    async def test() -> None:
        async with kme_pair(pki, max_per_request=most, **FIXED) as pair:
            options = {"key_size": 128, "method": method}
            alice, bob = pair.source("sae-alice", "sae-bob", **options), pair.source("sae-bob", "sae-alice", **options)
            with pytest.raises(KeyRequestRejectedError, match="size is out of range"):
                await pair.source("sae-alice", "sae-bob").get_key(32)
            for size in (32, 16, 8, 40):
                ref, key = await alice.get_key(size)
                assert (len(key), ref.size, ref.key_id.count("+")) == (size, size, max(1, -(-size // 16)) - 1)
                assert await bob.get_key_by_id(ref) == key
            made = await alice.get_keys(32, 5)
            assert len(made) == {1: 1, 3: 1, 128: 5}[most]
            assert await bob.get_keys_by_ids([ref for ref, _ in made]) == [key for _, key in made]

    run(test)


def test_pieces_that_were_had_are_lost_with_the_one_that_fails(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, max_per_request=1, **FIXED) as pair, front(pki, f"https://{pair.a.listen}") as server:
            alice = source(pair, server, key_size=128)

            async def second_fails(exchange: Exchange) -> None:
                if len(server.calls) == 2:
                    exchange.writer.transport.abort()
                else:
                    await exchange.reply()

            server.fault = second_fails
            with pytest.raises(KeySourceUnreachableError) as caught:
                await alice.get_key(32)
            assert caught.value.lost == 2
            assert len((await alice.get_key(32))[1]) == 32

    run(test)


def test_ends_that_do_not_agree_on_the_key_size(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            plain, pieces = pair.source("sae-alice", "sae-bob"), pair.source("sae-bob", "sae-alice", key_size=128)
            ref, _ = await plain.get_key(32)
            with pytest.raises(KeyRequestRejectedError, match="is that the same at both ends"):
                await pieces.get_key_by_id(ref)
            ref, _ = await pieces.get_key(32)
            with pytest.raises(KeyNotFoundError):
                await plain.get_key_by_id(ref)
            with pytest.raises(KeyRequestRejectedError, match="would take 16 keys of 16 bits"):
                await pair.source("sae-alice", "sae-bob", key_size=16).get_key(32)

    run(test)


async def fewer(exchange: Exchange) -> None:
    document = exchange.document
    await exchange.reply({"keys": document["keys"][:2]})


async def more(exchange: Exchange) -> None:
    keys = exchange.document["keys"]
    await exchange.reply({"keys": [*keys, {**keys[0], "key_ID": "another"}]})


async def twice(exchange: Exchange) -> None:
    keys = exchange.document["keys"]
    await exchange.reply({"keys": [*keys[:-1], {**keys[-1], "key_ID": keys[0]["key_ID"].upper()}]})


async def backwards(exchange: Exchange) -> None:
    await exchange.reply({"keys": exchange.document["keys"][::-1]})


async def strange(exchange: Exchange) -> None:
    keys = exchange.document["keys"]
    await exchange.reply({"keys": [*keys[:-1], {**keys[-1], "key_ID": "another"}]})


def test_batches_that_are_not_what_was_asked_for(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair, front(pki, f"https://{pair.a.listen}") as server:
            alice, bob = source(pair, server), pair.source("sae-bob", "sae-alice")

            async def made() -> list[KeyRef]:
                return [ref for ref, _ in await bob.get_keys(32, 3)]

            async def refused(what: Any) -> KeySourceError:
                with pytest.raises(KeySourceProtocolError) as caught:
                    await what
                return caught.value

            server.fault = fewer
            assert len(await alice.get_keys(32, 3)) == 2
            assert (await refused(alice.get_keys_by_ids(await made()))).lost == 3
            server.fault = more
            assert (await refused(alice.get_keys(32, 3))).lost == 4
            assert (await refused(alice.get_keys_by_ids(await made()))).lost == 4
            server.fault = twice
            assert "same key_ID" in str(await refused(alice.get_keys(32, 3)))
            server.fault = strange
            assert "not those of the 3 key_IDs" in str(await refused(alice.get_keys_by_ids(await made())))
            server.fault = backwards
            theirs = await bob.get_keys(32, 3)
            assert await alice.get_keys_by_ids([ref for ref, _ in theirs]) == [key for _, key in theirs]

    run(test)


def test_nothing_asked_for_is_a_defect_of_the_caller(pki: Path) -> None:
    async def test() -> None:
        hub = etsi014.Hub("metro", driver_options(pki, "sae-alice", "https://127.0.0.1:1"))
        alice = hub.for_peer(etsi014.PeerOptions(peer_sae_id="sae-bob"))
        for call in (alice.get_keys(32, 0), alice.get_keys_by_ids([])):
            with pytest.raises(ValueError, match="at least one"):
                await call

    run(test)
