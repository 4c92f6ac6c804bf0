"""A policy that a reload makes stricter, and sessions of the epoch before the one in place: a real reload and tunnel,
with an engine that refuses on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qtunnel.config import Config, load_config
from qtunnel.daemon.epochs import Epochs
from qtunnel.daemon.reload import Apply, ConfigSource, Reloader
from qtunnel.daemon.settings import load_public
from qtunnel.daemon.tunnel import Tunnel
from qtunnel.events import EventStream
from qtunnel.handshake.suites import SUITES
from qtunnel.identity import Identity
from qtunnel.rekey.model import EpochInfo
from qtunnel.rekey.view import PeerView
from qtunnel.sd_notify import Notifier
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef
from tests.config.conftest import MINIMAL
from tests.config.conftest import site as site  # the files that MINIMAL names
from tests.config.conftest import write as write
from tests.daemon.test_tunnel import install
from tests.daemon.test_tunnel_change import Changes, ManyPeers
from tests.daemon.test_view import view

STRICT = MINIMAL
LAX = MINIMAL.replace("    qkd:\n", "    qkd:\n      policy: preferred\n")
WEAK = EpochInfo(1, SUITES[1], (), True, 0.0)
GOOD = EpochInfo(2, SUITES[1], (KeyRef("metro", "k2", 32),), True, 60.0)
BOTH = replace(view(), installed=GOOD, epochs={1: WEAK, 2: GOOD})


class Reloaded:
    """A gateway whose engine was given epochs 1 and 2, and has a session that may be of the first; then ``text`` is
    read. shows: what the core tells of the peer, first then and before."""

    def __init__(self, write: Callable[[str], Path], *shows: PeerView, relaxed: bool = False) -> None:
        self._write, self._shows = write, shows
        guard = SimpleNamespace(relaxed=relaxed)
        self._peer: Any = SimpleNamespace(context=SimpleNamespace(guard=guard), settings=None, view=lambda: shows[-1])
        self.refused = False
        self.trouble: list[str] = []

    def _parts(self, tunnel: Tunnel) -> Any:
        epochs = Epochs()
        for number, its in enumerate(self._shows):
            epochs.complete(its, 100.0 + number)

        async def prepare(config: Config, other: set[str]) -> None: ...
        async def enter(*about: object) -> None: ...

        def none(*about: object) -> None: ...

        def put(effect: Apply) -> None:
            self._running = asyncio.create_task(effect.run())

        async def nothing() -> None: ...

        return SimpleNamespace(
            core=SimpleNamespace(peers={"bob": self._peer}, change_peer=none), tunnel=tunnel,
            endpoints=SimpleNamespace(change=none, settle=nothing), plain=SimpleNamespace(adopt=none),
            sources=SimpleNamespace(prepare=prepare, adopt=none), memory=None,
            stores=SimpleNamespace(enter=enter, sweep=lambda settings: nothing()),
            work=SimpleNamespace(put=put, forget=none), flush=none, adopt=none, spawn=lambda work: work.close(),
            view=lambda name: epochs.complete(self._peer.view(), 102.0),
        )  # fmt: skip

    async def _reload(self, before: str, after: str) -> ManyPeers:
        config = load_config(self._write(before), environ={})
        own, public = Identity.load(config.node.identity), load_public(config)
        tunnel = Tunnel(config, own, public, EventStream(), lambda peer: (2, Secret(bytes(32))))
        tunnel.engine = engine = ManyPeers()
        tunnel._interface = Changes()  # type: ignore[assignment]
        await tunnel.start()
        await tunnel.install(install(2))
        path = self._write(after)
        source = ConfigSource(path, lambda: load_config(path, environ={}), lambda log: None)
        reloader = Reloader(source, config, EventStream(), Notifier(None))
        reloader.ready(self._parts(tunnel))
        engine.refusing = self.refused
        self.trouble = (await reloader.reload()).trouble
        if self.refused:
            engine.refusing = False
            await tunnel.reconcile()
        assert tunnel.epoch_in_place("bob") == engine.epoch == 2
        return engine

    def keeps_session(self, before: str, after: str) -> bool:
        return asyncio.run(self._reload(before, after)).session


def test_a_session_that_may_be_of_an_epoch_with_too_few_keys_is_dropped(write: Callable[[str], Path]) -> None:
    assert not Reloaded(write, BOTH).keeps_session(LAX, STRICT)


def test_what_the_policy_allows_goes_on(write: Callable[[str], Path]) -> None:
    good = replace(BOTH, epochs={1: replace(WEAK, keys=GOOD.keys), 2: GOOD})
    assert Reloaded(write, good).keeps_session(LAX, STRICT)
    assert Reloaded(write, BOTH).keeps_session(STRICT, LAX)
    assert Reloaded(write, BOTH).keeps_session(STRICT, STRICT), "nothing has changed"
    assert Reloaded(write, BOTH, relaxed=True).keeps_session(LAX, STRICT), "PQC alone is allowed now"


def test_an_epoch_that_the_core_has_forgotten_counts_while_a_session_can_be_of_it(write: Callable[[str], Path]) -> None:
    """An engine that tells no epoch may go on with it for 360 s, and the core forgets it after 200."""
    assert not Reloaded(write, BOTH, replace(BOTH, epochs={2: GOOD})).keeps_session(LAX, STRICT)


def test_what_the_engine_refuses_is_repeated(write: Callable[[str], Path]) -> None:
    refused = Reloaded(write, BOTH)
    refused.refused = True
    assert not refused.keeps_session(LAX, STRICT)
    assert refused.trouble


def test_a_key_of_a_source_that_went_counts_no_more(write: Callable[[str], Path]) -> None:
    before = replace(BOTH, epochs={1: replace(WEAK, keys=(KeyRef("backup", "k1", 32),)), 2: GOOD})
    assert not Reloaded(write, before).keeps_session(LAX, STRICT)
