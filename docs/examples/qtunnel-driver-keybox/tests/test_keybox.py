"""The driver between two agents: keys arrive, each once; what cannot be is refused before it costs a key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from agent import Site, two_sites
from pydantic import ValidationError
from qtunnel_keybox.driver import DRIVER, MOST_AT_ONCE
from qtunnel_keybox.options import Options, PeerOptions

from qtunnel.drivers import registry
from qtunnel.errors import (
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceError,
    KeySourceTimeoutError,
    KeySourceUnauthorizedError,
    KeySourceUnavailableError,
    KeySourceUnreachableError,
)
from qtunnel.keys.source import BatchKeySource, KeyRef


def between(directory: Path, test: Callable[[Site, Site], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(60), two_sites(directory) as (alice, bob):
            await test(alice, bob)

    asyncio.run(run())


def test_it_is_found_by_its_name() -> None:
    assert registry.find("keybox") is DRIVER


def test_two_hundred_keys_arrive_each_once(tmp_path: Path) -> None:
    async def test(alice: Site, bob: Site) -> None:
        assert isinstance(alice.source, BatchKeySource)
        seen: dict[KeyRef, bytes] = {}
        for number in range(200):
            giver, taker = (alice, bob) if number % 2 else (bob, alice)
            ref, key = await giver.source.get_key(32)
            assert await taker.source.get_key_by_id(ref) == key
            assert (ref.source, ref.size, len(key)) == ("vault", 32, 32)
            seen[ref] = bytes(key.reveal())
        assert len(seen) == len(set(seen.values())) == 200

    between(tmp_path, test)


def test_a_batch_is_one_request_at_each_end(tmp_path: Path) -> None:
    async def test(alice: Site, bob: Site) -> None:
        made = await alice.source.get_keys(32, 50)
        assert len(made) == MOST_AT_ONCE, "as many as the agent gives at once"
        assert await bob.source.get_keys_by_ids([ref for ref, _ in made]) == [key for _, key in made]
        assert (len(alice.agent.asked), len(bob.agent.asked)) == (1, 1)

    between(tmp_path, test)


def test_what_a_peer_sends_for_a_key_id_does_not_become_a_request(tmp_path: Path) -> None:
    async def test(alice: Site, _: Site) -> None:
        for key_id in ("a b", "a\nfresh box-b 256 16", "", "-" * 65, "ключ"):
            with pytest.raises(KeyRequestRejectedError) as caught:
                await alice.source.get_key_by_id(KeyRef("vault", key_id, 32))
            assert caught.value.lost == 0
            assert str(caught.value).isprintable()
        assert alice.agent.asked == []

    between(tmp_path, test)


def test_refusals_cost_no_key(tmp_path: Path) -> None:
    async def test(alice: Site, bob: Site) -> None:
        ref, _ = await alice.source.get_key(32)
        await bob.source.get_key_by_id(ref)
        denied = alice.hub.for_peer(PeerOptions(peer="box-denied"))
        alice.agent.link.stored = 0
        cases: list[tuple[Awaitable[object], type[KeySourceError], str]] = [
            (bob.source.get_key_by_id(ref), KeyNotFoundError, "given already"),
            (alice.source.get_key(32), KeySourceUnavailableError, "has not made that many"),
            (denied.get_key(32), KeySourceUnauthorizedError, "another customer"),
        ]
        for call, kind, words in cases:
            with pytest.raises(kind, match=words) as caught:
                await call
            assert caught.value.lost == 0

    between(tmp_path, test)


def test_the_status_has_stock_qber_and_alarm_and_consumes_nothing(tmp_path: Path) -> None:
    async def test(alice: Site, _: Site) -> None:
        well = await alice.source.status()
        assert (well.healthy, well.stored_keys, well.alarm) == (True, 1000, None)
        assert well.qber == pytest.approx(0.021)
        alice.agent.qber, alice.agent.alarm = 25.0, "the case was opened"
        warned = await alice.source.status()
        assert (warned.qber, warned.alarm, warned.stored_keys) == (0.25, "the case was opened", 1000)

    between(tmp_path, test)


def test_an_agent_of_another_user_is_asked_nothing(tmp_path: Path) -> None:
    async def test(alice: Site, _: Site) -> None:
        alice.hub.trusted = {65534}
        with pytest.raises(KeySourceUnauthorizedError, match="let the agent run as root") as caught:
            await alice.source.get_key(32)
        assert (caught.value.lost, alice.agent.asked) == (0, [])

    between(tmp_path, test)


def test_an_agent_that_is_not_there_costs_nothing(tmp_path: Path) -> None:
    async def test(alice: Site, _: Site) -> None:
        await alice.agent.stop()
        with pytest.raises(KeySourceUnreachableError, match="no such file") as caught:
            await alice.source.get_key(32)
        assert caught.value.lost == 0
        await alice.agent.start()
        await alice.source.get_key(32)

    between(tmp_path, test)


def test_a_call_that_is_cancelled_ends_at_once_and_is_not_repeated(tmp_path: Path) -> None:
    async def test(alice: Site, _: Site) -> None:
        alice.agent.fault = "slow"
        call = asyncio.create_task(alice.source.get_key(32))
        await alice.agent.arrived.get()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        alice.agent.fault = ""
        await alice.source.get_key(32)
        assert len(alice.agent.asked) == 2

    between(tmp_path, test)


def test_closing_ends_what_is_under_way(tmp_path: Path) -> None:
    async def test(alice: Site, _: Site) -> None:
        alice.agent.fault = "slow"
        call = asyncio.create_task(alice.source.get_keys(32, 3))
        await alice.agent.arrived.get()
        await alice.hub.close()
        with pytest.raises(KeySourceUnreachableError) as caught:
            await call
        assert caught.value.lost == 3
        with pytest.raises(KeySourceUnavailableError, match="closed"):
            await alice.source.get_key(32)

    between(tmp_path, test)


def test_no_time_is_not_a_lost_key_before_the_request_is_on_its_way(tmp_path: Path) -> None:
    async def test(alice: Site, _: Site) -> None:
        async def never(*_: object) -> None:
            await asyncio.sleep(60)

        asyncio.get_running_loop().sock_connect = never  # type: ignore[assignment]  # a queue that is full
        alice.hub.options = alice.hub.options.model_copy(update={"timeout": 0.2})
        with pytest.raises(KeySourceTimeoutError, match="accepts nobody") as caught:
            await alice.source.get_key(32)
        assert caught.value.lost == 0

    between(tmp_path, test)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "socket"),
        ({"socket": "/run/" + "x" * 120}, "107 bytes"),
        ({"socket": "/run/a", "timeout": "1m"}, "the usual is 5s"),
        ({"socket": "/run/a", "timeout": 5}, "needs a unit"),
        ({"socket": "/run/a", "sockets": 2}, "sockets"),
    ],
)
def test_options_that_cannot_be_say_what_would_be_right(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Options.model_validate(given)


def test_a_peer_name_that_would_be_two_words_is_refused() -> None:
    with pytest.raises(ValidationError, match="as its label has them"):
        PeerOptions(peer="box b")
