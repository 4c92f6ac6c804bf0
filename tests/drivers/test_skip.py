"""The skip driver against real key providers over TLS with certificates."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from qtunnel.drivers import registry, skip
from qtunnel.errors import (
    ConfigError,
    FilePermissionError,
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceCertificateError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceUnauthorizedError,
    KeySourceUnavailableError,
    KeySourceUnreachableError,
)
from qtunnel.keys.source import KeyRef
from tests.support.kme import files, run, until
from tests.support.skip import Exchange, Fault, driver_options, key_providers, response, server_context

KEY = "ad229dfb8a276e74c1f3b6c09349a69fb2fed73c541270663f0e5cbbfb031670"
KEY_ID = "1726e9AE76234FB1dd1283d4dca1911e1f93864d70f3069e"


async def failing(call: Awaitable[object]) -> KeySourceError:
    with pytest.raises(KeySourceError) as caught:
        await call
    error = caught.value
    shown = f"{error} {error!r} {error.__cause__!r}"
    assert str(error).isprintable()
    assert KEY not in shown.lower()
    return error


def raw(data: bytes) -> Fault:
    """The whole answer, instead of the real one; the connection ends after it."""

    async def fault(exchange: Exchange) -> None:
        await exchange.write(data)

    return fault


def answering(status: int, body: object, kind: str = "application/json") -> Fault:
    return raw(response(status, body if isinstance(body, str | bytes) else json.dumps(body), kind))


def test_the_registry_finds_it() -> None:
    assert registry.find("skip") is skip.DRIVER


def test_two_hundred_keys_reach_both_ends(pki: Path) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair:
            alice, bob = pair.source("Alice"), pair.source("Bob")
            assert (alice.name, alice.description) == ("kp", "skip:kp")
            refs: list[KeyRef] = []
            for number in range(200):
                one, other = (alice, bob) if number % 2 else (bob, alice)
                size = (16, 32, 64)[number % 3]
                ref, key = await one.get_key(size)
                assert (ref.source, ref.size, len(key)) == ("kp", size, size)
                assert await other.get_key_by_id(ref) == key
                refs.append(ref)
            assert len({ref.key_id.lower() for ref in refs}) == 200
            # Once each, and not before every key.
            assert [len(one.asked("capabilities")) for one in (pair.alice, pair.bob)] == [1, 1]
            assert [one.connections for one in (pair.alice, pair.bob)] == [1, 1]
            with pytest.raises(KeyNotFoundError, match=r"key not found.*malformed, or it has no such key"):
                await alice.get_key_by_id(refs[-2])

    run(test)


def test_what_is_asked_is_that_of_the_draft(pki: Path) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair:
            ref, _ = await pair.source("Alice").get_key(32)
            await pair.source("Bob").get_key_by_id(ref)
            assert pair.alice.requests == ["/capabilities", "/key?remoteSystemID=Bob&size=256"]
            assert pair.bob.requests == ["/capabilities", f"/key/{ref.key_id}?remoteSystemID=Alice"]

    run(test)


def test_a_hundred_at_once_get_a_hundred_keys_for_one_look(pki: Path) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair:
            alice, bob = pair.source("Alice"), pair.source("Bob")
            made = await asyncio.gather(*(alice.get_key(32) for _ in range(100)))
            assert len({ref for ref, _ in made}) == 100
            fetched = await asyncio.gather(*(bob.get_key_by_id(ref) for ref, _ in made))
            assert fetched == [key for _, key in made]
            assert len(pair.alice.asked("capabilities")) == len(pair.bob.asked("capabilities")) == 1

    run(test)


def test_status(pki: Path) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair:
            alice = pair.source("Alice")
            status = await alice.status()
            assert (status.healthy, status.detail) == (True, "Alice to Bob, keys by PRF")
            pair.alice.gives_keys = False
            status = await alice.status()
            assert not status.healthy
            assert "gives no keys" in status.detail
            assert not pair.alice.asked("key")

    run(test)


def test_entropy(pki: Path) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair:
            hub = pair.hub("Alice")
            one, other = await hub.entropy(32), await hub.entropy(16)
            assert (len(one), len(other)) == (32, 16)
            assert pair.alice.asked("entropy") == ["/entropy?minentropy=256", "/entropy?minentropy=128"]
            for body, said in (
                ({"randomStr": KEY, "minentropy": 128}, "128 bits of entropy where 256"),
                ({"randomStr": KEY}, "does not say how much"),
                ({"randomStr": KEY[2:], "minentropy": 256}, "248 bits where 256"),
                ({"randomStr": "z" * 64, "minentropy": 256}, "is not hex"),
                ({"minentropy": 256}, "random string is missing"),
            ):
                pair.alice.faults["entropy"] = answering(200, body)
                error = await failing(hub.entropy(32))
                assert (type(error), error.lost) == (KeySourceProtocolError, 0)
                assert said in error.detail
            pair.alice.faults["entropy"] = answering(503, "")
            error = await failing(hub.entropy(32))
            assert type(error) is KeySourceUnavailableError
            assert "no random number generator at hand" in error.detail
            pair.alice.faults.clear()
            pair.alice.gives_entropy = False
            assert "gives no entropy" in (await failing(hub.entropy(32))).detail

    run(test)


def test_no_key_is_asked_of_who_says_that_it_has_none(pki: Path) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair:
            for remote, kind, said in (
                ("Dave", KeyRequestRejectedError, "no keys with Dave, only with Bob, Carol, KP_*_LOC[12]; see remote"),
                ("Alice", KeyRequestRejectedError, "is the key provider of this site itself"),
            ):
                error = await failing(pair.source("Alice", remote).get_key(32))
                assert (type(error), error.lost) == (kind, 0)
                assert said in error.detail
            bob = pair.source("Bob")
            pair.bob.gives_keys = False
            error = await failing(bob.get_key_by_id(KeyRef("kp", "aa", 32)))
            assert (type(error), error.lost) == (KeySourceUnavailableError, 0)
            assert not pair.alice.asked("key") + pair.bob.asked("key")
            pair.bob.gives_keys = True
            await bob.get_key(32)  # the capabilities were looked at again

    run(test)


def test_a_system_id_that_a_pattern_covers_is_quoted(pki: Path) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair:
            odd = "KP_ä b&size=8#?/_LOC2"
            pair.alice.partners[odd] = pair.bob
            await pair.source("Alice", odd).get_key(32)
            assert pair.alice.requests[-1] == ("/key?remoteSystemID=KP_%C3%A4%20b%26size%3D8%23%3F%2F_LOC2&size=256")

    run(test)


def test_capabilities_are_looked_at_again_after_errors(pki: Path) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair:
            alice, late = pair.source("Alice"), pair.source("Alice", "Late")
            await alice.get_key(32)
            await failing(late.get_key(32))
            pair.alice.remote.append("Late")
            pair.alice.partners["Late"] = pair.bob
            await late.get_key(32)
            looks = len(pair.alice.asked("capabilities"))
            pair.alice.faults["key"] = answering(500, {"message": "zeroization failed"})
            hub = pair.hub("Alice")
            source = hub.for_peer(skip.PeerOptions(remote_system_id="Bob"))
            await failing(source.get_key(32))
            pair.alice.faults.clear()
            await source.get_key(32)
            await source.get_key(32)
            assert len(pair.alice.asked("capabilities")) == looks + 2

    run(test)


def test_the_key_provider_that_must_answer(pki: Path) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair:
            await pair.source("Alice", local_system_id="Alice").get_key(32)
            error = await failing(pair.source("Alice", local_system_id="Alicia").get_key(32))
            assert type(error) is KeySourceCertificateError
            assert "says it is Alice, not Alicia (local_system_id)" in error.detail

    run(test)


@pytest.mark.parametrize("key_id", ["", "abc", "zz", "../capabilities", "aa?size=8", "a" * 256])
def test_a_key_id_that_is_none_is_not_asked(pki: Path, key_id: str) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair:
            error = await failing(pair.source("Bob").get_key_by_id(KeyRef("kp", key_id, 32)))
            assert (type(error), error.lost) == (KeyRequestRejectedError, 0)
            assert pair.bob.requests == []

    run(test)


UNUSABLE = [
    ("", "the answer is empty"),
    ("<html><title>" + KEY + "</title></html>", "the answer is HTML where JSON"),
    (KEY, "something else where JSON"),
    (b"\xff\xfe", "something else where JSON"),
    ("[" * 100_000, "something else where JSON"),
    ([KEY], "not a JSON object"),
    ({"keyId": "aa", "key": KEY, "Key": KEY}, "a field is there twice"),
    ({"key": KEY}, "no usable keyId"),
    ({"keyId": 17, "key": KEY}, "no usable keyId"),
    ({"keyId": "a-b", "key": KEY}, "no usable keyId"),
    ({"keyId": "a" * 256, "key": KEY}, "no usable keyId"),
    ({"keyId": "aa"}, "the key is missing"),
    ({"keyId": "aa", "key": [KEY]}, "the key is missing"),
    ({"keyId": "aa", "key": KEY[:-1]}, "the key is not hex"),
    ({"keyId": "aa", "key": "0x" + KEY}, "the key is not hex"),
    ({"keyId": "aa", "key": " ".join([KEY[:32], KEY[32:]])}, "the key is not hex"),
    ({"keyId": "aa", "key": KEY[:32]}, "the key has 128 bits where 256 were asked for"),
    ({"keyId": "aa", "key": "rSKd+4onbnTB87bAk0mmn7L+1zxUEnBmPw5cu/sDFnA="}, "seems to be base64"),
]


@pytest.mark.parametrize(("body", "said"), UNUSABLE, ids=lambda value: str(value)[:20])
def test_answers_that_are_not_of_the_draft(pki: Path, body: object, said: str) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair:
            pair.alice.faults["key"] = answering(200, body)
            alice = pair.source("Alice")
            for call in (alice.get_key(32), alice.get_key_by_id(KeyRef("kp", "aa", 32))):
                error = await failing(call)
                assert (type(error), error.lost) == (KeySourceProtocolError, 1)
                assert said in error.detail
            assert len(pair.alice.asked("key")) == 2

    run(test)


def test_another_spelling_is_the_same_key_and_another_key_id_is_refused(pki: Path) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair:
            alice = pair.source("Alice")
            pair.alice.faults["key"] = answering(200, {"KEYID": KEY_ID.upper(), "Key": KEY.upper(), "vendor": 1})
            key = await alice.get_key_by_id(KeyRef("kp", KEY_ID, 32))
            assert bytes(key.reveal()).hex() == KEY
            error = await failing(alice.get_key_by_id(KeyRef("kp", "aa", 32)))
            assert (type(error), error.lost) == (KeySourceProtocolError, 1)
            assert "where aa was asked" in error.detail

    run(test)


REFUSALS: list[tuple[str, int, object, type[KeySourceError], int, str]] = [
    ("new", 400, {"message": "bad size"}, KeyRequestRejectedError, 0, "HTTP 400: bad size"),
    ("new", 400, {"message": "not enough keys"}, KeySourceUnavailableError, 0, "not enough keys"),
    ("new", 401, "", KeySourceUnauthorizedError, 0, "no reason given"),
    ("new", 403, "<h1>Go away</h1>", KeySourceUnauthorizedError, 0, "an HTML page, Go away"),
    ("new", 404, "", KeyRequestRejectedError, 0, "no path of SKIP there; is url that of the key provider?"),
    ("new", 405, "", KeyRequestRejectedError, 0, "takes no GET"),
    ("new", 429, "slow down", KeySourceUnavailableError, 0, "slow down"),
    ("new", 500, "", KeySourceUnavailableError, 1, "failed while it read or wiped the key"),
    ("new", 502, "<title>Bad Gateway</title>", KeySourceUnavailableError, 1, "an HTML page, Bad Gateway"),
    ("new", 503, {"message": f"busy {KEY}"}, KeySourceUnavailableError, 0, "busy [removed]"),
    ("new", 204, "", KeySourceProtocolError, 1, "HTTP 204 where SKIP has 200, 400,"),
    ("new", 302, "", KeySourceProtocolError, 0, "redirects elsewhere"),
    ("new", 400, "<title>No required SSL certificate was sent</title>", KeySourceCertificateError, 0, "certificate"),
    ("by id", 400, "", KeyNotFoundError, 0, "the keyId is malformed, or it has no such key"),
    ("by id", 400, {"message": "malformed keyId"}, KeyRequestRejectedError, 0, "malformed keyId"),
    ("by id", 404, "", KeyNotFoundError, 0, "it has no such key"),
    ("by id", 500, "", KeySourceUnavailableError, 1, "failed while it read or wiped the key"),
    ("by id", 500, {"message": "Key not found"}, KeyNotFoundError, 0, "Key not found"),
]


@pytest.mark.parametrize(("call", "status", "body", "kind", "lost", "said"), REFUSALS)
def test_refusals_have_the_names_of_the_draft(
    pki: Path, call: str, status: int, body: object, kind: type[KeySourceError], lost: int, said: str
) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair:
            pair.alice.faults["key"] = answering(status, body, "text/html" if str(body)[:1] == "<" else "")
            alice = pair.source("Alice")
            error = await failing(alice.get_key(32) if call == "new" else alice.get_key_by_id(KeyRef("kp", "aa", 32)))
            assert (type(error), error.lost) == (kind, lost)
            assert said in error.detail

    run(test)


@pytest.mark.parametrize("change", ["key", "localSystemID", "remoteSystemID"])
@pytest.mark.parametrize("value", [None, 17, "", [], [""], [17], "x" * 300])
def test_capabilities_that_cannot_be_used(pki: Path, change: str, value: object) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair:

            async def fault(exchange: Exchange) -> None:
                await exchange.reply(**{change: value})

            pair.alice.faults["capabilities"] = fault
            error = await failing(pair.source("Alice").get_key(32))
            assert (type(error), error.lost, error.call) == (KeySourceProtocolError, 0, "capabilities")
            assert not pair.alice.asked("key")

    run(test)


def test_a_look_that_one_gives_up_goes_on_for_the_others(pki: Path) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair:
            go = asyncio.Event()

            async def slow(exchange: Exchange) -> None:
                await go.wait()
                await exchange.reply()

            pair.alice.faults["capabilities"] = slow
            alice = pair.source("Alice")
            first, second = (asyncio.create_task(alice.get_key(32)) for _ in range(2))
            await until(lambda: asyncio.sleep(0, bool(pair.alice.requests)))
            first.cancel()
            go.set()
            await second
            with pytest.raises(asyncio.CancelledError):
                await first

    run(test)


def test_a_closed_source_says_so(pki: Path) -> None:
    async def test() -> None:
        async with key_providers(pki) as pair:
            hub = pair.hub("Alice")
            source = hub.for_peer(skip.PeerOptions(remote_system_id="Bob"))
            await source.get_key(32)
            await hub.close()
            error = await failing(source.get_key(32))
            assert (type(error), error.lost) == (KeySourceUnreachableError, 0)
            assert "closed" in error.detail

    run(test)


def test_the_key_provider_alone_shows_a_certificate(pki: Path) -> None:
    async def test() -> None:
        def one_sided(_: str) -> Any:
            return server_context(files(pki, "kme-a"), mutual=False)

        nobody = {"certificate": None, "private_key": None}
        async with key_providers(pki, one_sided) as pair:
            assert len((await pair.source("Alice", **nobody).get_key(32))[1]) == 32
        async with key_providers(pki) as pair:
            error = await failing(pair.source("Alice", **nobody).get_key(32))
            assert type(error) is KeySourceCertificateError
            assert "wants a client certificate and got none; set certificate and private_key" in error.detail
        (doubt,) = skip.DRIVER.doubts(driver_options(pki, "https://127.0.0.1:1", **nobody))
        assert "everybody who reaches it" in doubt
        assert not list(skip.DRIVER.doubts(driver_options(pki, "https://127.0.0.1:1")))

    run(test)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "needs ca"),
        ({"psk_identity": "a"}, "psk_identity and psk_file belong together"),
        ({"psk_file": "ca.pem"}, "psk_identity and psk_file belong together"),
        ({"ca": "ca.pem", "certificate": "sae-alice.pem"}, "certificate and private_key belong together"),
        ({"ca": "ca.pem", "psk_identity": "a", "psk_file": "ca.pem"}, "a PSK proves both ends; remove ca"),
        ({"ca": "ca.pem", "psk_identity": "ä" * 65, "psk_file": "ca.pem"}, "not a PSK identity"),
        ({"ca": "ca.pem", "local_system_id": ""}, "not a system ID"),
        ({"ca": "ca.pem", "timeout": "1ms"}, "no key provider answers that fast"),
    ],
)
def test_options_that_contradict_each_other(pki: Path, options: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        skip.Options.model_validate({"url": "https://127.0.0.1:1", **options}, context={"directory": pki})


def test_files_that_cannot_be_used(pki: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        skip.Hub("kp", driver_options(pki, "https://127.0.0.1:1", ca=tmp_path / "none.pem"))
    nobody = {"certificate": None, "private_key": None}
    with pytest.raises(ConfigError, match="no such file"):
        skip.Hub("kp", driver_options(pki, "https://127.0.0.1:1", ca=tmp_path / "none.pem", **nobody))
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(ConfigError, match="no certificate in PEM"):
        skip.Hub("kp", driver_options(pki, "https://127.0.0.1:1", ca=tmp_path / "ca.pem", **nobody))
    open_key = tmp_path / "open.key"
    open_key.write_bytes(files(pki, "sae-alice").private_key.read_bytes())
    open_key.chmod(0o644)
    with pytest.raises(FilePermissionError, match="chmod 600"):
        skip.Hub("kp", driver_options(pki, "https://127.0.0.1:1", private_key=open_key))
