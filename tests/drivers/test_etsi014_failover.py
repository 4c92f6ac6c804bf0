"""Several KMEs of one site: who is asked when one of them is not there, and what never happens twice."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.drivers import etsi014
from qtunnel.drivers.failover import RETURN_AFTER, Asked, Preference
from qtunnel.errors import (
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceCertificateError,
    KeySourceError,
    KeySourceUnavailableError,
    KeySourceUnreachableError,
)
from qtunnel.keys.source import KeyRef
from tests.drivers.front import Exchange, Front, front
from tests.support.kme import Pair, driver_options, files, kme_pair, run


@dataclass
class Site:
    """Alice's two KMEs, her source, and a clock that stands still until it is moved."""

    pair: Pair
    first: Front
    second: Front
    hub: etsi014.Hub
    alice: etsi014.Source
    now: float = 0.0

    @property
    def calls(self) -> tuple[list[str], list[str]]:
        return self.first.calls, self.second.calls


@contextlib.asynccontextmanager
async def site(pki: Path, upstreams: tuple[Pair, Pair], **options: Any) -> AsyncIterator[Site]:
    one, other = upstreams
    async with front(pki, f"https://{one.a.listen}") as first, front(pki, f"https://{other.a.listen}") as second:
        given = driver_options(pki, "sae-alice", [first.url, second.url], **{"timeout": "20s", **options})
        hub = etsi014.Hub("metro", given, clock=lambda: made.now)
        made = Site(one, first, second, hub, hub.for_peer(etsi014.PeerOptions(peer_sae_id="sae-bob")))
        try:
            yield made
        finally:
            await hub.close()


@contextlib.asynccontextmanager
async def shared(pki: Path, **options: Any) -> AsyncIterator[Site]:
    """Both KMEs hand on what one pair has."""
    async with kme_pair(pki) as pair, site(pki, (pair, pair), **options) as made:
        yield made


async def dropped(exchange: Exchange) -> None:
    exchange.writer.transport.abort()


async def busy(exchange: Exchange) -> None:
    await exchange.reply({"message": "not enough keys"}, 503)


async def failed(exchange: Exchange) -> None:
    await exchange.reply({"message": "lost the database"}, 500)


def test_the_preferred_one_is_asked_as_long_as_it_is_there(pki: Path) -> None:
    async def test() -> None:
        async with shared(pki) as here:
            for _ in range(3):
                await here.alice.get_key(32)
            assert here.calls == (["POST enc_keys"] * 3, [])
            assert (await here.alice.status()).detail.endswith(f"; asks {here.first.url}")

    run(test)


def test_another_one_is_asked_where_nobody_listens_and_the_first_one_again_after_a_while(pki: Path) -> None:
    async def test() -> None:
        async with shared(pki) as here:
            await here.first.stop()
            bob = here.pair.source("sae-bob", "sae-alice")
            ref, key = await here.alice.get_key(32)
            assert await bob.get_key_by_id(ref) == key
            status = await here.alice.status()
            assert status.healthy
            assert status.detail.endswith(f"asks {here.second.url} ({here.first.url}: connection refused)")
            await here.first.start()
            here.now += RETURN_AFTER - 1
            await here.alice.get_key(32)
            assert here.calls == ([], ["POST enc_keys"] * 2)
            here.now += 2
            await here.alice.get_key(32)
            assert here.calls == (["POST enc_keys"], ["POST enc_keys"] * 2)
            assert (await here.alice.status()).detail.endswith(f"; asks {here.first.url}")

    run(test)


def test_a_kme_whose_tls_fails_is_passed_over(pki: Path) -> None:
    async def test() -> None:
        async with shared(pki, tls_min_version=1.3) as here:
            await here.first.stop()
            await here.first.start(here.first.context(version=ssl.TLSVersion.TLSv1_2))
            await here.alice.get_key(32)
            assert here.calls == ([], ["POST enc_keys"])
            assert "no common TLS version" in (await here.alice.status()).detail

    run(test)


def test_a_kme_that_takes_the_connection_and_says_nothing_is_passed_over(pki: Path) -> None:
    async def test() -> None:
        async with shared(pki, timeout="10s") as here:
            await here.first.stop()
            with socket.create_server(("127.0.0.1", here.first.port)):
                await here.alice.get_key(32)
                assert here.calls == ([], ["POST enc_keys"])
                assert f"({here.first.url}: no connection within 5 s)" in (await here.alice.status()).detail

    run(test)


def test_a_kme_without_keys_is_passed_over(pki: Path) -> None:
    async def test() -> None:
        async with shared(pki) as here:
            here.first.fault, here.first.before = busy, True
            await here.alice.get_key(32)
            await here.alice.get_key(32)
            assert here.calls == (["POST enc_keys"], ["POST enc_keys"] * 2)

    run(test)


@pytest.mark.parametrize("fault", [dropped, failed])
def test_a_call_that_may_have_cost_a_key_goes_nowhere_else(pki: Path, fault: Any) -> None:
    async def test() -> None:
        async with shared(pki) as here:
            here.first.fault = fault
            with pytest.raises(KeySourceError) as caught:
                await here.alice.get_key(32)
            assert caught.value.lost == 1
            assert here.calls == (["POST enc_keys"], [])
            await here.alice.get_key(32)
            assert here.calls == (["POST enc_keys"], ["POST enc_keys"]), "but the next call does"

    run(test)


@pytest.mark.parametrize("fault", [None, dropped])
def test_a_key_is_never_asked_for_at_a_second_kme(pki: Path, fault: Any) -> None:
    """Delivered by the first one, or perhaps so: no other is asked for it, even when the first one is down."""

    async def test() -> None:
        async with shared(pki) as here:
            ref, _ = await here.pair.source("sae-bob", "sae-alice").get_key(32)
            if fault is None:
                await here.alice.get_key_by_id(ref)
            else:
                here.first.fault = fault
                with pytest.raises(KeySourceUnreachableError) as caught:
                    await here.alice.get_key_by_id(ref)
                assert caught.value.lost == 1
            await here.first.stop()
            again = KeyRef(ref.source, ref.key_id.upper(), ref.size)
            for asked in (ref, again):
                with pytest.raises(KeySourceUnreachableError, match="connection refused"):
                    await here.alice.get_key_by_id(asked)
            assert here.second.calls == []

    run(test)


def test_a_key_that_the_first_one_does_not_have_may_be_at_the_second(pki: Path) -> None:
    """Two links with keys of their own; the other end got this key over the second."""

    async def test() -> None:
        async with kme_pair(pki) as one, kme_pair(pki) as other, site(pki, (one, other)) as here:
            ref, key = await other.source("sae-bob", "sae-alice").get_key(32)
            assert await here.alice.get_key_by_id(ref) == key
            assert here.calls == (["POST dec_keys"], ["POST dec_keys"])
            with pytest.raises(KeyNotFoundError) as caught:
                await here.alice.get_key_by_id(KeyRef("metro", "nowhere", 32))
            assert here.first.url in str(caught.value)
            assert here.second.url in str(caught.value)
            await here.alice.get_key(32)
            assert here.first.calls[-1] == "POST enc_keys", "not to have a key is no reason to be left"

    run(test)


def test_what_is_refused_is_not_asked_for_elsewhere(pki: Path) -> None:
    async def test() -> None:
        async with shared(pki) as here:
            with pytest.raises(KeyRequestRejectedError, match="size is out of range"):
                await here.alice.get_key(1)
            assert here.calls == (["POST enc_keys"], [])

    run(test)


def test_all_of_them_down(pki: Path) -> None:
    async def test() -> None:
        async with shared(pki) as here:
            await here.first.stop()
            here.second.fault, here.second.before = busy, True
            for _ in range(2):
                with pytest.raises(KeySourceError) as caught:
                    await here.alice.get_key(32)
                assert isinstance(caught.value, KeySourceUnreachableError | KeySourceUnavailableError)
                for words in (here.first.url, "connection refused", here.second.url, "HTTP 503"):
                    assert words in str(caught.value)
                assert caught.value.retryable
                assert caught.value.lost == 0
            await here.first.start()
            await here.alice.get_key(32)

    run(test)


def test_each_kme_has_its_own_name(pki: Path) -> None:
    async def test() -> None:
        async with shared(pki, check_hostname=False, kme_id=["kme-a", "kme-b"]) as here:
            await here.second.stop()
            await here.second.start(here.second.context(files(pki, "kme-b")))
            await here.alice.get_key(32)
            await here.first.stop()
            await here.alice.get_key(32)
            await here.second.stop()
            await here.second.start()
            with pytest.raises(KeySourceError, match="names kme-a, localhost, not kme-b"):
                await here.alice.get_key(32)

    run(test)


def test_the_status_says_which_is_used_with_the_kme_that_claims_to_be_another(pki: Path) -> None:
    async def test() -> None:
        async with shared(pki, kme_id=["kme-z", "kme-a"], kme_id_check="status") as here:
            await here.alice.get_key(32)
            assert here.calls == ([], ["POST enc_keys"])
            assert "says it is kme-a, not kme-z" in (await here.alice.status()).detail
            await here.second.stop()
            with pytest.raises((KeySourceCertificateError, KeySourceUnreachableError)):
                await here.alice.get_key(32)

    run(test)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(0, 2 * RETURN_AFTER)), max_size=30))
def test_the_order_is_that_of_preference_among_those_that_have_not_failed(steps: list[tuple[int, bool, float]]) -> None:
    preference, now = Preference(4), 0.0
    failed_at: dict[int, float] = {}
    for number, works, pause in steps:
        now += pause
        if works:
            preference.works(number)
            failed_at.pop(number, None)
        else:
            preference.failed(number, now)
            failed_at[number] = now
        resting = {one for one, at in failed_at.items() if now - at < RETURN_AFTER}
        well = [one for one in range(4) if one not in resting]
        assert preference.order(now) == [*well, *sorted(resting)]


def test_where_a_key_was_asked_for_is_remembered_for_so_many() -> None:
    asked = Asked(remembered=2)
    asked.note(["A", "b"], 0)
    asked.note(["a"], 1)
    assert [asked.at(name) for name in "aBc"] == [0, 0, None]
    asked.note(["c"], 1)
    assert [asked.at(name) for name in "aBc"] == [None, 0, 1]
