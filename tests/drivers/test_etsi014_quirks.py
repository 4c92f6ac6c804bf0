"""What real KMEs were seen to do besides, or in place of, what the standard says; each over a real KME."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.drivers import etsi014, etsi014_answers
from qtunnel.errors import (
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceUnauthorizedError,
    KeySourceUnavailableError,
    KeySourceUnreachableError,
)
from qtunnel.keys.source import KeyRef
from qtunnel.secret import Secret
from tests.drivers.front import Exchange, Fault, Front, front
from tests.support.kme import Pair, answer, driver_options, kme_pair, run


class Ends:
    """Alice through a front, and Bob; a key made by Bob is one that Alice fetches."""

    def __init__(self, pair: Pair, server: Front) -> None:
        self.pair, self.server = pair, server
        self.bob = pair.source("sae-bob", "sae-alice")
        self.alice = self.of_alice()

    def of_alice(self, **options: Any) -> etsi014.Source:
        hub = etsi014.Hub("metro", driver_options(self.pair.pki, "sae-alice", self.server.url, **options))
        self.pair.stack.push_async_callback(hub.close)
        return hub.for_peer(etsi014.PeerOptions(peer_sae_id="sae-bob"))

    async def both_ways(self) -> None:
        """A key of Alice's reaches Bob, and one of Bob's Alice."""
        ref, key = await self.alice.get_key(32)
        assert await self.bob.get_key_by_id(KeyRef(ref.source, ref.key_id.lower(), ref.size)) == key
        ref, key = await self.bob.get_key(32)
        assert await self.alice.get_key_by_id(ref) == key

    async def failing(self, call: str) -> KeySourceError:
        ref, _ = await self.bob.get_key(32)
        with pytest.raises(KeySourceError) as caught:
            await (self.alice.get_key(32) if call == "enc_keys" else self.alice.get_key_by_id(ref))
        return caught.value


@contextlib.asynccontextmanager
async def ends(pki: Path, **key: Any) -> AsyncIterator[Ends]:
    async with kme_pair(pki, **key) as pair, front(pki, f"https://{pair.a.listen}") as server:
        yield Ends(pair, server)


def changed(change: Callable[[dict[str, Any]], Any]) -> Fault:
    """The answer's document, changed in place or for what is returned."""

    async def fault(exchange: Exchange) -> None:
        document = exchange.document
        await exchange.reply(change(document) or document)

    return fault


def each_key(change: Callable[[str], str], name: str = "key") -> Fault:
    def apply(document: dict[str, Any]) -> None:
        for entry in document["keys"]:
            entry[name] = change(entry[name])

    return changed(apply)


def to_url(text: str) -> str:
    return text.translate(str.maketrans("+/", "-_"))


async def http_1_0(exchange: Exchange) -> None:
    """No length: the answer ends with the connection."""
    await exchange.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + exchange.body)


async def chunked(exchange: Exchange) -> None:
    await exchange.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
    for start in range(0, len(exchange.body), 7):
        piece = exchange.body[start : start + 7]
        await exchange.write(f"{len(piece):x};extension=1\r\n".encode() + piece + b"\r\n")
    await exchange.write(b"0\r\nTrailer: x\r\n\r\n")


def with_everything(document: dict[str, Any]) -> dict[str, Any]:
    keys = [{**key, "key_ID_extension": None, "key_extension": {"qber": 0.02}, "size": 256} for key in document["keys"]]
    return {"Keys": keys, "key_container_extension": ["vendor", {"x": 1}], "status": "ok"}


TOLERATED: dict[str, Fault] = {
    "Keys": changed(lambda document: {"Keys": document["keys"]}),
    "extensions": changed(with_everything),
    "base64url": each_key(to_url),
    "without padding": each_key(lambda text: text.rstrip("=")),
    "base64url without padding": each_key(lambda text: to_url(text).rstrip("=")),
    "key_ID in upper case": each_key(str.upper, "key_ID"),
    "HTTP/1.0": http_1_0,
    "chunked": chunked,
}


@pytest.mark.parametrize("quirk", TOLERATED)
def test_what_leaves_no_doubt_is_tolerated(pki: Path, quirk: str) -> None:
    async def test() -> None:
        async with ends(pki) as here:
            here.server.fault = TOLERATED[quirk]
            for _ in range(3):
                await here.both_ways()

    run(test)


async def cut_http_1_0(exchange: Exchange) -> None:
    await exchange.write(b"HTTP/1.0 200 OK\r\n\r\n" + exchange.body[: len(exchange.body) // 2])


async def cut_chunk(exchange: Exchange) -> None:
    await exchange.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n" + exchange.body[:20])


@pytest.mark.parametrize("call", ["enc_keys", "dec_keys"])
@pytest.mark.parametrize(
    ("fault", "expected", "said"),
    [
        (cut_http_1_0, KeySourceProtocolError, "something else where JSON is expected"),
        (cut_chunk, KeySourceUnreachableError, "lost in the middle"),
        (each_key(lambda text: "+-" + text[2:]), KeySourceProtocolError, "the key is not base64"),
        (each_key(lambda text: text + "=="), KeySourceProtocolError, "the key is not base64"),
        (each_key(lambda text: text[:22] + "\r\n" + text[22:]), KeySourceProtocolError, "the key is not base64"),
        (
            each_key(lambda text: base64.b64encode(base64.b64decode(text) * 2).decode()),
            KeySourceProtocolError,
            "512 bits where 256 were asked for; where the KME has keys of this size only, set key_size: 512",
        ),
        (changed(lambda document: {"keys": document["keys"][0]}), KeySourceProtocolError, "no array of keys"),
    ],
)
def test_what_leaves_a_doubt_is_refused_and_booked(
    pki: Path, call: str, fault: Fault, expected: type[KeySourceError], said: str
) -> None:
    async def test() -> None:
        async with ends(pki) as here:
            here.server.fault = fault
            error = await here.failing(call)
            assert type(error) is expected
            assert said in str(error)
            assert error.lost == 1
            assert here.server.calls == [f"POST {call}"]

    run(test)


@pytest.mark.parametrize("call", ["enc_keys", "dec_keys"])
@pytest.mark.parametrize(
    ("status", "body", "lost"),
    [
        (400, {"message": "bad"}, 0),
        (401, {"message": "no SAE of ours"}, 0),
        (404, {}, 0),
        (408, {}, 0),
        (422, {"detail": [{"msg": "bad"}]}, 0),
        (429, {}, 0),
        (495, {}, 0),
        (500, {"message": "the database failed"}, 1),
        (501, {}, 0),
        (502, "<html><title>502 Bad Gateway</title></html>", 1),
        (503, {"message": "not now"}, 0),
        (504, "<html><title>504 Gateway Time-out</title></html>", 1),
        (507, {}, 1),
        (307, {}, 0),
        (201, {}, 1),
        (204, "", 1),
        (299, {}, 1),
    ],
)
def test_what_a_refusal_may_have_cost(pki: Path, call: str, status: int, body: Any, lost: int) -> None:
    async def test() -> None:
        async with ends(pki) as here:

            async def refuse(exchange: Exchange) -> None:
                text = body if isinstance(body, str) else json.dumps(body)
                await exchange.write(answer(f"{status} Word", text))

            here.server.fault, here.server.before = refuse, True
            assert (await here.failing(call)).lost == lost

    run(test)


@pytest.mark.parametrize(
    ("status", "words", "call", "expected"),
    [
        (500, "key not found", "dec_keys", KeyNotFoundError),
        (500, "insufficient keys", "enc_keys", KeySourceUnavailableError),
        (401, "one or more keys specified are not found on KME", "dec_keys", KeySourceUnauthorizedError),
        (422, "one or more keys specified are not found on KME", "dec_keys", KeyNotFoundError),
        (503, "one or more keys specified are not found on KME", "dec_keys", KeyNotFoundError),
        (422, "size shall be a multiple of 8", "enc_keys", KeyRequestRejectedError),
    ],
)
def test_other_codes_than_the_standards_are_known_by_their_words(
    pki: Path, status: int, words: str, call: str, expected: type[KeySourceError]
) -> None:
    async def test() -> None:
        async with ends(pki) as here:

            async def refuse(exchange: Exchange) -> None:
                await exchange.write(answer(f"{status} Word", json.dumps({"detail": words})))

            here.server.fault, here.server.before = refuse, True
            error = await here.failing(call)
            assert type(error) is expected
            assert error.lost == 0

    run(test)


def test_a_kme_whose_paths_end_with_a_slash(pki: Path) -> None:
    async def test() -> None:
        async with ends(pki) as here:

            async def redirect(exchange: Exchange) -> None:
                if exchange.path.endswith("/"):
                    return await exchange.reply()
                headers = f"Location: {here.server.url}{exchange.path}/\r\n"
                return await exchange.write(answer("307 Temporary Redirect", headers=headers))

            here.server.fault, here.server.before = redirect, True
            for call in ("enc_keys", "dec_keys"):
                error = await here.failing(call)
                assert "set trailing_slash: true" in str(error)
                assert error.lost == 0
            here.server.before = False
            here.alice = here.of_alice(trailing_slash=True)
            await here.both_ways()
            assert here.server.requests[-1].path == "/api/v1/keys/sae-bob/dec_keys/"
            assert (await here.alice.status()).healthy

    run(test)


def test_a_kme_whose_next_key_makes_it_forget_the_last_one(pki: Path) -> None:
    """Bob does not get the first of two keys that were asked for at once; the next one is well again."""

    async def test() -> None:
        async with ends(pki) as here:
            waiting: list[dict[str, Any]] = []

            async def forgets(exchange: Exchange) -> None:
                for key in waiting:
                    ids = {"key_IDs": [{"key_ID": key["key_ID"]}]}
                    await here.pair.sae("sae-bob").ask("POST", "sae-alice/dec_keys", ids)
                waiting[:] = exchange.document["keys"]
                await exchange.reply()

            here.server.fault = forgets
            first, _ = await here.alice.get_key(32)
            second, key = await here.alice.get_key(32)
            with pytest.raises(KeyNotFoundError) as caught:
                await here.bob.get_key_by_id(first)
            assert caught.value.lost == 0
            assert await here.bob.get_key_by_id(second) == key

    run(test)


def test_a_kme_that_delivers_a_key_again(pki: Path) -> None:
    """It is the same key, and whoever used it knows that by the reference."""

    async def test() -> None:
        async with ends(pki) as here:
            bodies: dict[str, bytes] = {}

            async def again(exchange: Exchange) -> None:
                key_id = exchange.fields["key_IDs"][0]["key_ID"]
                if exchange.status == 200:
                    bodies[key_id] = exchange.body
                await exchange.write(answer("200 OK", bodies[key_id]))

            here.server.fault = again
            ref, key = await here.bob.get_key(32)
            for _ in range(2):
                assert await here.alice.get_key_by_id(ref) == key

    run(test)


def test_a_status_that_cannot_be(pki: Path) -> None:
    """As one KME was seen to report: more keys than it can store."""
    fields = {"stored_key_count": 96000, "max_key_count": 10, "max_key_per_request": 0, "min_key_size": 512}
    status = etsi014_answers.source_status("metro", fields)
    assert (status.healthy, status.stored_keys, status.max_keys, status.key_size) == (True, 96000, 10, None)
    limits = etsi014_answers.limits({**fields, "max_key_size": 256})
    assert (limits.max_per_request, limits.problem(32)) == (1, None), "limits that contradict each other are none"
    assert etsi014_answers.limits({}).problem(256) is None


@given(st.binary(min_size=1, max_size=64), st.booleans(), st.booleans())
def test_every_key_comes_out_of_both_alphabets_with_padding_and_without(data: bytes, url: bool, padded: bool) -> None:
    text = (base64.urlsafe_b64encode if url else base64.b64encode)(data).decode()
    body = json.dumps({"keys": [{"key_ID": "x", "key": text if padded else text.rstrip("=")}]}).encode()
    assert etsi014_answers.keys_of("here", "enc_keys", body, len(data), 1) == [("x", Secret(data))]


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode), st.integers(1, 4))
def test_whatever_a_kme_answers_is_an_error_of_the_source(body: bytes, asked: int) -> None:
    with pytest.raises(KeySourceProtocolError) as caught:
        etsi014_answers.keys_of("here", "enc_keys", body, 32, asked)
    assert caught.value.lost == asked
    assert str(caught.value).isprintable()
