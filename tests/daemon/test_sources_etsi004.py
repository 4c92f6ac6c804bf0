"""What a gateway does with keys of etsi004: both ends' sources, booked, with real KMEs."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from qtunnel.config import Config, KeySourceConfig, PeerConfig, QkdConfig
from qtunnel.daemon.source_status import status_of
from qtunnel.daemon.sources import KeySources
from qtunnel.drivers.etsi004_options import Options
from qtunnel.events import EventStream
from qtunnel.rekey.model import FetchById, FetchNew
from tests.support.etsi004 import GET, kme_pair, peer_options
from tests.support.kme import run
from tests.support.reliance import Heard


def sources_of(end: str, options: Options) -> KeySources:
    """Of the gateway at one end, for its peer at the other."""
    rules = KeySourceConfig.model_fields["rules"].default
    source = KeySourceConfig.model_construct(driver="etsi004", options=options, rules=rules)
    towards: dict[str, BaseModel] = {"fibre": peer_options(end)}
    peer: dict[str, Any] = {
        "name": "other",
        "rekey": PeerConfig.model_fields["rekey"].default,
        "qkd": QkdConfig.model_construct(sources=towards),
    }
    config: dict[str, Any] = {"key_sources": {"fibre": source}, "peers": (PeerConfig.model_construct(**peer),)}
    return KeySources(Config.model_construct(**config), EventStream(), Heard())


def test_both_gateways_get_the_same_key_and_a_lost_one_is_booked() -> None:
    async def test() -> None:
        async with kme_pair() as pair:
            alice, bob = (sources_of(end, pair.options(end)) for end in "ab")
            new = FetchNew("other", 1, ("fibre",), 32, 1)
            try:
                for taker, fetcher in ((alice, bob), (bob, alice)):
                    ((ref, key),) = (await taker.fetch(new)).keys
                    ((_, same),) = (await fetcher.fetch(FetchById("other", 1, (ref,)))).keys
                    assert same == key
                pair.kmes["a"].faults[GET] = ["short", "2"]
                assert "the chunk has 31 bytes" in str((await alice.fetch(new)).failures)
                assert "status 2: not enough key" in str((await alice.fetch(new)).failures)
                (status,) = status_of(alice.book)
                assert (status.keys_taken, status.keys_lost) == (2, 1)
                assert len((await alice.fetch(new)).keys) == 1
            finally:
                await alice.close()
                await bob.close()

    run(test)
