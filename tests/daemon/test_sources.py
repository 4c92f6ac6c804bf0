"""All sources of a gateway together, with real KMEs and servers: which are asked, which rest, which are left alone."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from qtunnel.config import Config, KeySourceConfig, PeerConfig, QkdConfig
from qtunnel.control.messages import KeySourceStatus, SourcePeerStatus
from qtunnel.daemon.source_status import status_of
from qtunnel.daemon.sources import KeySources
from qtunnel.drivers import etsi014
from qtunnel.errors import ControlError, UnknownSourceError
from qtunnel.events import EventStream
from qtunnel.keys import trust
from qtunnel.rekey.model import FetchById, Fetched, FetchNew
from qtunnel.terms import KeyRef
from tests.support.kme import answer, broken_server, driver_options, files, free_ports, kme_pair, make_pki, run
from tests.support.reliance import Heard

KEY = bytes.fromhex("8f1d0c5a7be2469342f1b8a90e37d56c21c4fa8873915ed0ab64029c1f7de835")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pki(tmp_path_factory.mktemp("pki"))


def config_of(*peers: str, **options: etsi014.Options) -> Config:
    """Of alice, whose keys with bob, or these, come from these sources; all else is of no meaning here."""
    rules = KeySourceConfig.model_fields["rules"].default
    sources = {
        name: KeySourceConfig.model_construct(driver="etsi014", options=its, rules=rules)
        for name, its in options.items()
    }
    given = []
    for name in peers or ("bob",):
        towards: dict[str, BaseModel] = {its: etsi014.PeerOptions(peer_sae_id=f"sae-{name}") for its in options}
        peer: dict[str, Any] = {
            "name": name,
            "rekey": PeerConfig.model_fields["rekey"].default,
            "qkd": QkdConfig.model_construct(sources=towards),
        }
        given.append(PeerConfig.model_construct(**peer))
    config: dict[str, Any] = {"key_sources": sources, "peers": tuple(given)}
    return Config.model_construct(**config)


class Bench:
    def __init__(self, config: Config) -> None:
        self.events = EventStream()
        self.heard = Heard()
        self.sources = KeySources(config, self.events, self.heard)

    async def new(self, *names: str, enough: int | None = None, peer: str = "bob") -> Fetched:
        return await self.sources.fetch(FetchNew(peer, 1, names, 32, len(names) if enough is None else enough))

    async def by_id(self, source: str, key_id: str) -> Fetched:
        return await self.sources.fetch(FetchById("bob", 1, (KeyRef(source, key_id, 32),)))

    def told(self) -> list[str]:
        """Kinds of all events."""
        return [event.kind for event in self.events.history()]

    def status(self, name: str) -> KeySourceStatus:
        return next(its for its in status_of(self.sources.book) if its.name == name)

    def towards(self, name: str, peer: str = "bob") -> SourcePeerStatus:
        return next(its for its in self.status(name).towards if its.peer == peer)


@contextlib.asynccontextmanager
async def bench(config: Config) -> AsyncIterator[Bench]:
    its = Bench(config)
    try:
        yield its
    finally:
        await its.sources.close()


def nobody(pki: Path) -> etsi014.Options:
    """A source at a port where nobody listens."""
    with free_ports(1) as (port,):
        return driver_options(pki, "sae-alice", f"https://127.0.0.1:{port}")


def served(pki: Path, port: int) -> etsi014.Options:
    return driver_options(pki, "sae-alice", f"https://127.0.0.1:{port}")


def key_answer(key_id: str, key: bytes = KEY) -> bytes:
    return answer("200 OK", json.dumps({"keys": [{"key_ID": key_id, "key": base64.b64encode(key).decode()}]}))


def status_answer(**extension: Any) -> bytes:
    said = {"source_KME_ID": "kme-a", "stored_key_count": 7, "max_key_count": 10, "status_extension": extension}
    return answer("200 OK", json.dumps(said))


WELL = status_answer()
"""What a look before the first key finds."""


def test_all_sources_that_deliver_are_mixed(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            good = pair.options("sae-alice")
            async with bench(config_of(one=good, two=good, three=nobody(pki))) as its:
                got = await its.new("one", "two", "three")
                assert [ref.source for ref, _ in got.keys] == ["one", "two"]
                assert [name for name, _ in got.failures] == ["three"]
                assert its.status("one").keys_taken == 1
                assert its.status("three").state == "failing"

    run(test)


def test_the_next_source_is_asked_only_where_the_first_fails(pki: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            good = pair.options("sae-alice")
            async with bench(config_of(down=nobody(pki), one=good, two=good)) as its:
                got = await its.new("down", "one", "two", enough=1)
                assert [ref.source for ref, _ in got.keys] == ["one"]
                assert [name for name, _ in got.failures] == ["down"]
                assert its.status("two").state == "not asked yet"
                got = await its.new("down", "one", "two", enough=2)
                assert [ref.source for ref, _ in got.keys] == ["one", "two"]

    run(test)


def test_a_source_that_is_down_is_not_asked_for_every_key(pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "AGAIN", 0.0)

    async def test() -> None:
        async with (
            broken_server(files(pki, "kme-a"), None) as server,
            bench(config_of(metro=served(pki, server.port))) as its,
        ):
            for _ in range(3):
                assert not (await its.new("metro")).keys
            assert its.status("metro").state == "resting"
            asked = len(server.lines)
            refused = await its.new("metro")
            assert "asked again in" in refused.failures[0][1]
            assert len(server.lines) == asked
            assert its.told().count("source.down") == 1

    run(test)


def test_a_peer_that_offers_the_keys_of_others_puts_no_source_to_rest(pki: Path) -> None:
    """A KME refuses them with 401 (ETSI GS QKD 014 clause 5.4), which otherwise means that it does not know us."""

    async def test() -> None:
        replies = [answer("401 Unauthorized", '{"message": "not yours"}')] * 4
        async with (
            broken_server(files(pki, "kme-a"), WELL, *replies, key_answer("11")) as server,
            bench(config_of(metro=served(pki, server.port))) as its,
        ):
            for number in range(4):
                assert not (await its.by_id("metro", str(number))).keys
            assert its.status("metro").state == "failing"
            assert [ref.key_id for ref, _ in (await its.new("metro")).keys] == ["11"]
            assert its.status("metro").state == "well"

    run(test)


@pytest.mark.parametrize(
    ("key", "said"),
    [(bytes(32), "all zeros"), (b"\x07" * 32, "one byte"), (KEY[:16] * 2, "repeats itself")],
    ids=["zeros", "constant", "repeating"],
)
@pytest.mark.parametrize("by_id", [False, True])
def test_keys_that_are_not_random_are_refused_and_booked(pki: Path, key: bytes, said: str, by_id: bool) -> None:
    async def test() -> None:
        async with (
            broken_server(files(pki, "kme-a"), WELL, key_answer("11", key)) as server,
            bench(config_of(metro=served(pki, server.port))) as its,
        ):
            got = await (its.by_id("metro", "11") if by_id else its.new("metro"))
            assert not got.keys
            assert said in got.failures[0][1]
            assert base64.b64encode(key).decode() not in got.failures[0][1]
            assert its.status("metro").keys_lost == 1
            assert its.told() == ["source.up", "source.keys-lost", "source.down"]

    run(test)


def test_a_key_that_came_before_is_refused_also_from_another_source(pki: Path) -> None:
    async def test() -> None:
        async with (
            broken_server(files(pki, "kme-a"), WELL, key_answer("11"), key_answer("12")) as one,
            broken_server(files(pki, "kme-a"), WELL, key_answer("13")) as two,
            bench(config_of(one=served(pki, one.port), two=served(pki, two.port))) as its,
        ):
            assert (await its.new("one")).keys
            again = await its.new("one")
            assert "delivered before as one 11" in again.failures[0][1]
            other = await its.new("two")
            assert "delivered before as one 11" in other.failures[0][1]

    run(test)


def test_the_same_key_under_its_own_key_id_again_is_not_the_sources_fault(pki: Path) -> None:
    """Whether it is used again is for the core, which takes it once: tests/keys/test_used.py, tests/rekey."""

    async def test() -> None:
        async with (
            broken_server(files(pki, "kme-a"), WELL, key_answer("11")) as server,
            bench(config_of(metro=served(pki, server.port))) as its,
        ):
            first, again = [await its.by_id("metro", "11") for _ in range(2)]
            assert first.keys == again.keys
            assert its.status("metro").keys_lost == 0
            assert not (await its.by_id("metro", "12")).keys

    run(test)


def test_another_source_stands_in_for_one_that_gives_a_key_out_twice(pki: Path) -> None:
    async def test() -> None:
        async with (
            broken_server(files(pki, "kme-a"), WELL, key_answer("11"), key_answer("12")) as one,
            kme_pair(pki) as pair,
            bench(config_of(one=served(pki, one.port), good=pair.options("sae-alice"))) as its,
        ):
            assert (await its.new("one")).keys
            got = await its.new("one", "good", enough=1)
            assert [ref.source for ref, _ in got.keys] == ["good"]
            assert its.status("one").keys_lost == 1

    run(test)


def test_an_alarm_is_quarantine_until_an_operator_clears_it(pki: Path) -> None:
    async def test() -> None:
        replies = [status_answer(qber=0.13), WELL, key_answer("11")]
        async with (
            broken_server(files(pki, "kme-a"), *replies) as server,
            kme_pair(pki) as pair,
            bench(config_of(metro=served(pki, server.port), other=pair.options("sae-alice"))) as its,
        ):
            await its.sources._ask("bob", "metro")
            assert its.told() == ["source.quarantined"]
            found = its.status("metro")
            assert (found.state, found.healthy, found.qber) == ("in quarantine", False, 0.13)
            got = await its.new("metro", "other")
            assert [ref.source for ref, _ in got.keys] == ["other"]  # the others go on
            assert "QBER 13.0%" in got.failures[0][1]
            assert "sources clear" in (await its.by_id("metro", "11")).failures[0][1]
            with pytest.raises(UnknownSourceError):
                its.sources.clear("metra")
            with pytest.raises(ControlError, match="not in quarantine"):
                its.sources.clear("other")
            its.sources.clear("metro")
            assert (await its.new("metro")).keys
            assert len(server.lines) == 3  # nothing was asked in between

    run(test)


def test_a_changed_configuration_does_not_end_a_quarantine(pki: Path) -> None:
    async def test() -> None:
        async with (
            broken_server(files(pki, "kme-a"), status_answer(qber=0.13)) as server,
            bench(config_of(metro=served(pki, server.port))) as its,
        ):
            await its.sources._ask("bob", "metro")
            changed = config_of(metro=served(pki, server.port).model_copy(update={"timeout": 3.0}))
            its.sources.adopt(await its.sources.prepare(changed, ["metro"]))
            assert its.status("metro").state == "in quarantine"

    run(test)
