"""Other peers for an engine that runs: only what differs is said to it, and what it refuses is said again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from qtunnel.config import Config, load_config
from qtunnel.daemon.engine_keys import UNKNOWN
from qtunnel.daemon.lanes import EVERYBODY
from qtunnel.daemon.members import specs_of
from qtunnel.daemon.nudges import AGAIN, PATIENCE, Nudges
from qtunnel.daemon.settings import load_public
from qtunnel.daemon.tunnel import Tunnel
from qtunnel.engines.base import Endpoint, Lease, PeerSpec, PeerStats
from qtunnel.engines.interface import InterfaceConfig
from qtunnel.errors import EngineError
from qtunnel.events import EventStream
from qtunnel.identity import Identity
from qtunnel.rekey.model import Install
from qtunnel.secret import Secret
from tests.config.conftest import MINIMAL, identity
from tests.config.conftest import site as site  # the files that MINIMAL names
from tests.config.conftest import write as write
from tests.daemon.test_tunnel import NoInterface, RefusingEngine

BOB, HUB = (identity(name).public.wireguard for name in ("bob", "hub"))
ROAMED = ("192.0.2.99", 40000)


class ManyPeers(RefusingEngine):
    """Keeps peers, and what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "qtunnel"
        self.peers: dict[bytes, PeerSpec] = {}
        self.told: list[str] = []
        self.handshakes = 0
        self.ends: dict[bytes, float] = {}
        self.previous: int | None = None
        """Epoch of the key before, where there is one."""

    async def set_peer(self, peer: PeerSpec) -> None:
        self._check()
        self.peers[peer.public_key] = peer
        self.told.append("set")

    async def remove_peer(self, public_key: bytes) -> None:
        self._check()
        del self.peers[public_key]
        self.told.append("remove")

    async def set_endpoint(self, public_key: bytes, endpoint: Endpoint) -> None:
        self._check()
        self.peers[public_key] = replace(self.peers[public_key], endpoint=endpoint)

    async def set_psk(
        self, public_key: bytes, psk: Secret, epoch: int, previous: Secret | None = None, previous_epoch: int = 0,
        handshake_now: bool = False, record_suite: str = "", lease: Lease | None = None,
    ) -> None:  # fmt: skip
        await super().set_psk(public_key, psk, epoch, previous, previous_epoch, handshake_now, record_suite, lease)
        self.handshakes += handshake_now
        self.previous = None if previous is None else previous_epoch
        if lease is not None:
            self.ends[public_key] = lease.ends

    async def renew(self, public_key: bytes, lease: Lease) -> None:
        self._check()
        self.ends[public_key] = lease.ends
        self.told.append("renew")

    async def stats(self) -> dict[bytes, PeerStats]:
        self._check()
        return {key: PeerStats(ROAMED, None, 0, 0, None) for key in self.peers}


class Changes(NoInterface):
    def __init__(self) -> None:
        self.configs: list[InterfaceConfig] = []

    async def change(self, config: InterfaceConfig) -> None:
        self.configs.append(config)


Test = Callable[[Tunnel, ManyPeers, Config], Awaitable[None]]


def running(
    path: Path, test: Test, psk: Callable[[str], tuple[int, Secret] | None] = lambda peer: None,
    lease_of: Callable[[str], Lease | None] = lambda peer: None,
) -> None:  # fmt: skip
    async def all_of_it() -> None:
        config = load_config(path, environ={})
        tunnel = Tunnel(config, Identity.load(config.node.identity), load_public(config), EventStream(), psk, lease_of)
        engine = ManyPeers()
        tunnel.engine = engine
        tunnel._interface = Changes()  # type: ignore[assignment]
        await tunnel.start()
        engine.told.clear()
        await test(tunnel, engine, config)

    asyncio.run(all_of_it())


def with_hub(config: Config) -> Config:
    hub = config.peers[0].model_copy(update={"name": "hub", "public": config.peers[0].public.with_name("hub.public")})
    return config.model_copy(update={"peers": (*config.peers, hub)})


def specs(config: Config) -> dict[str, PeerSpec]:
    return specs_of(config, load_public(config))


def test_only_what_differs_is_said(write: Callable[[str], Path]) -> None:
    async def test(tunnel: Tunnel, engine: ManyPeers, config: Config) -> None:
        await tunnel.change(config, specs(config), set())
        assert engine.told == []
        more = with_hub(config)
        await tunnel.change(more, specs(more), set())
        assert engine.told == ["set"]
        wanted = specs(more)
        wanted["hub"] = replace(wanted["hub"], allowed_ips=(ip_network("10.9.0.0/16"),))
        await tunnel.change(more, wanted, set())
        assert engine.told == ["set", "set"]
        assert engine.peers[HUB] == replace(wanted["hub"], endpoint=ROAMED), "where it has roamed to it stays"
        await tunnel.change(config, specs(config), set())
        assert engine.told == ["set", "set", "remove"]
        assert set(engine.peers) == {BOB}

    running(write(MINIMAL), test)


def test_another_peer_of_the_same_name_takes_the_old_one_away(write: Callable[[str], Path]) -> None:
    async def test(tunnel: Tunnel, engine: ManyPeers, config: Config) -> None:
        other = {"bob": replace(specs(config)["bob"], public_key=HUB)}
        await tunnel.change(config, other, {"bob"})
        assert (engine.told, set(engine.peers)) == (["remove", "set"], {HUB})
        await tunnel.change(config, other, {"bob"})
        assert engine.told == ["remove", "set"] * 2, "also where the key is the same and what is secret is not"

    running(write(MINIMAL), test)


def test_what_is_refused_is_said_again(write: Callable[[str], Path]) -> None:
    """A peer that is to go above all; and one with the same key as one that is still there is not set before."""

    async def test(tunnel: Tunnel, engine: ManyPeers, config: Config) -> None:
        engine.refusing = True
        renamed = config.model_copy(update={"peers": (config.peers[0].model_copy(update={"name": "robert"}),)})
        with pytest.raises(EngineError):
            await tunnel.change(renamed, specs(renamed), set())
        with pytest.raises(EngineError):
            await tunnel.reconcile()
        assert (engine.told, set(engine.peers)) == ([], {BOB})
        engine.refusing = False
        await tunnel.reconcile()
        assert (engine.told, set(engine.peers)) == (["remove", "set"], {BOB})
        await tunnel.reconcile()
        assert engine.told == ["remove", "set"], "once is enough"

    running(write(MINIMAL), test)


def test_what_is_being_done_for_one_peer_keeps_no_other_from_its_turn(write: Callable[[str], Path]) -> None:
    """An epoch of hub's is on its way to the disk; bob's was refused by the engine."""
    wanted = {"bob": 3, "hub": 5}

    async def test(tunnel: Tunnel, engine: ManyPeers, config: Config) -> None:
        await tunnel.change(with_hub(config), specs(with_hub(config)), set())
        tunnel.busy = lambda peer: peer == "hub"
        tunnel._in_place = {"bob": UNKNOWN, "hub": 4}
        await tunnel.reconcile()
        assert (tunnel.epoch_in_place("bob"), tunnel.epoch_in_place("hub")) == (3, 4)
        tunnel.busy, tunnel._in_place["bob"] = (lambda peer: peer == EVERYBODY), UNKNOWN
        await tunnel.reconcile()
        assert tunnel.epoch_in_place("bob") is None, "whose key it is depends on the new configuration"
        tunnel.busy = lambda peer: False
        await tunnel.reconcile()
        assert (tunnel.epoch_in_place("bob"), tunnel.epoch_in_place("hub")) == (3, 5)

    running(write(MINIMAL), test, lambda peer: (wanted[peer], Secret(bytes(32))))


def test_an_engine_that_is_down_learns_it_at_its_start(write: Callable[[str], Path]) -> None:
    async def test(tunnel: Tunnel, engine: ManyPeers, config: Config) -> None:
        tunnel.up = False
        engine.peers.clear()
        more = with_hub(config)
        await tunnel.change(more, specs(more), set())
        assert engine.told == []
        await tunnel._bring_up()
        assert set(engine.peers) == {BOB, HUB}

    running(write(MINIMAL), test)


def test_another_end_of_a_key_in_place_is_said_until_it_is_taken(write: Callable[[str], Path]) -> None:
    """As a reload with another max_age brings; of a key that is not in place the next one brings its own."""
    ends = {"bob": 600.0, "hub": 600.0}

    async def test(tunnel: Tunnel, engine: ManyPeers, config: Config) -> None:
        more = with_hub(config)
        await tunnel.change(more, specs(more), set())
        assert engine.ends == {BOB: 600.0, HUB: 600.0}
        ends["bob"] = 300.0
        await tunnel.change(more, specs(more), set())
        assert engine.ends == {BOB: 300.0, HUB: 600.0}
        ends["bob"], engine.refusing = 100.0, True
        with pytest.raises(EngineError, match=r"^peer bob: "):
            await tunnel.change(more, specs(more), set())
        with pytest.raises(EngineError, match=r"^peer bob: "):
            await tunnel.reconcile()
        engine.refusing = False
        await tunnel.reconcile()
        assert engine.ends == {BOB: 100.0, HUB: 600.0}
        count = len(engine.told)
        await tunnel.reconcile()
        assert len(engine.told) == count, "once is enough"

    running(write(MINIMAL), test, lambda peer: (7, Secret(bytes(32))), lambda peer: Lease(ends[peer]))


def test_an_end_that_was_refused_at_a_takeover_is_said_again(write: Callable[[str], Path]) -> None:
    async def test(tunnel: Tunnel, engine: ManyPeers, config: Config) -> None:
        tunnel._in_place["bob"] = 6  # of before the restart, and nobody has its key
        engine.ends.clear()
        engine.refusing = True
        with pytest.raises(EngineError):
            await tunnel.renew("bob", Lease(600.0))
        engine.refusing = False
        tunnel._kept.add("bob")
        await tunnel.reconcile()
        assert engine.ends == {BOB: 600.0}

    running(write(MINIMAL), test, lease_of=lambda peer: Lease(600.0))


def test_a_key_in_place_never_gets_the_end_of_the_one_that_is_on_its_way(write: Callable[[str], Path]) -> None:
    ends = {"bob": 600.0}

    async def test(tunnel: Tunnel, engine: ManyPeers, config: Config) -> None:
        ends["bob"] = 900.0  # of the next epoch
        tunnel.busy = lambda peer: peer == "bob"
        await tunnel.change(config, specs(config), set())
        await tunnel.reconcile()
        assert engine.ends == {BOB: 600.0}
        tunnel.busy = lambda peer: False
        await tunnel.reconcile()
        assert engine.ends == {BOB: 900.0}

    running(write(MINIMAL), test, lambda peer: (7, Secret(bytes(32))), lambda peer: Lease(ends[peer]))


@pytest.mark.parametrize("refusing", [False, True])
def test_where_a_session_had_to_go_no_key_brings_back_the_one_before(
    write: Callable[[str], Path], refusing: bool
) -> None:
    core = {"bob": 6}

    def seventh() -> Install:
        return Install("bob", 7, Secret(bytes(32)), 6, Secret(bytes(32)), False)

    async def test(tunnel: Tunnel, engine: ManyPeers, config: Config) -> None:
        core["bob"] = 7  # on its way: the disk has it first
        tunnel.busy = lambda peer: peer == "bob"
        engine.refusing = refusing
        with contextlib.suppress(EngineError):
            await tunnel.drop_session("bob")
        engine.refusing = False
        await tunnel.install(seventh())
        assert (engine.epoch, engine.previous, engine.session) == (7, None, False)
        await tunnel.install(seventh())
        assert engine.previous == 6, "for the next one, as always"

    running(write(MINIMAL), test, lambda peer: (core[peer], Secret(bytes(32))))


class Places:
    """In place of the endpoints."""

    def __init__(self, host: str) -> None:
        self.host = host

    def of(self, peer: str) -> object:
        return self


@pytest.mark.parametrize("host", ["192.0.2.99", "192.0.2.7"])
def test_an_epoch_that_wireguard_does_not_take_up_is_nudged(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """At the address at which the rekey went through, where that is another one."""
    clock = [1000.0]
    monkeypatch.setattr("qtunnel.daemon.nudges.monotonic", lambda: clock[0])

    async def test(tunnel: Tunnel, engine: ManyPeers, config: Config) -> None:
        nudges = Nudges(tunnel, Places(host))  # type: ignore[arg-type]  # has what is used
        engine.handshakes = 0
        behind, unix_now = PeerStats(ROAMED, 5_000.0, 0, 0, 6), 6_000.0

        async def look(stats: PeerStats) -> int:
            await nudges.look("bob", 51820, stats, unix_now)
            return engine.handshakes

        assert await look(behind) == 0
        clock[0] += PATIENCE - 0.1
        assert await look(behind) == 0
        clock[0] += 0.1
        assert await look(behind) == 1
        assert engine.peers[BOB].endpoint == (None if host == ROAMED[0] else (host, 51820))
        assert await look(behind) == 1
        clock[0] += AGAIN
        assert await look(behind) == 2
        clock[0] += AGAIN
        assert await look(replace(behind, epoch_in_force=7)) == 2
        assert await look(behind) == 2, "and its patience begins anew"

    running(write(MINIMAL), test, lambda peer: (7, Secret(bytes(32))))
