"""What the engine was told is repeated until the engine has it: a block above all.

The engine here refuses on demand, which real ones do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from qtunnel.config import load_config
from qtunnel.daemon.settings import load_public
from qtunnel.daemon.tunnel import REFUSALS, Tunnel
from qtunnel.engines.base import Endpoint, Lease, Left, PeerSpec, PeerStats
from qtunnel.engines.clocks import SYSTEM
from qtunnel.engines.ledger import EpochLedger
from qtunnel.engines.peers import DeviceEngine
from qtunnel.engines.uapi_client import UapiClient
from qtunnel.errors import EngineError, ShortageError
from qtunnel.events import EventStream
from qtunnel.identity import Identity
from qtunnel.rekey.model import Install
from qtunnel.secret import Secret
from tests.config.conftest import MINIMAL
from tests.config.conftest import site as site  # the files that MINIMAL names
from tests.config.conftest import write as write


class RefusingEngine:
    """Keeps one PSK per peer; refuses while ``refusing``."""

    name, interface, index, replaced = "refusing", "qt0", 7, None

    def __init__(self) -> None:
        self.refusing = False
        self.psk: bytes | None = None
        self.epoch: int | None = None
        self.record_suite = ""
        self.endpoint: Endpoint | None = None
        self.starts = 0
        self.alive: asyncio.Event = asyncio.Event()
        self.dead: asyncio.Event = asyncio.Event()
        self.pid: int | None = None
        self.left: dict[bytes, Left] | None = None
        self.removed: list[bytes] = []
        self.session = True
        """Whether one is there that is older than the key in place."""

    def _check(self) -> None:
        if self.refusing:
            raise EngineError("engine refusing of qt0 refuses")

    async def start(self) -> None:
        self._check()
        self.starts, self.pid = self.starts + 1, 1
        self.dead.clear()

    async def adopt(self, public_key: bytes, listen_port: int, mark: int = 0) -> dict[bytes, Left] | None:
        return self.left

    async def remove_peer(self, public_key: bytes) -> None:
        self.removed.append(public_key)

    async def renew(self, public_key: bytes, lease: Lease) -> None: ...

    async def configure_device(self, private_key: Secret, listen_port: int, mark: int = 0) -> None:
        self._check()

    async def set_peer(self, peer: PeerSpec) -> None:
        self._check()
        self.psk, self.epoch, self.endpoint = b"random", None, peer.endpoint

    async def set_endpoint(self, public_key: bytes, endpoint: Endpoint) -> None:
        self._check()
        self.endpoint = endpoint

    async def set_psk(
        self, public_key: bytes, psk: Secret, epoch: int, previous: Secret | None = None, previous_epoch: int = 0,
        handshake_now: bool = False, record_suite: str = "", lease: Lease | None = None,
    ) -> None:  # fmt: skip
        await asyncio.sleep(0)
        self._check()
        self.psk, self.epoch, self.record_suite = bytes(psk.reveal()), epoch, record_suite

    async def block(self, public_key: bytes, psk: Secret) -> None:
        self._check()
        self.psk, self.epoch, self.session = b"random", None, False

    async def drop_sessions(self, public_key: bytes) -> None:
        self._check()
        self.session = False

    async def stats(self) -> dict[bytes, PeerStats]:
        self._check()
        return {}

    async def wait_dead(self) -> str:
        await self.dead.wait()
        return "stopped"

    async def stop(self) -> None:
        self.pid = None
        self.dead.set()


class NoInterface:
    """Stands in for the network interface, which the real tests make."""

    warnings: tuple[str, ...] = ()

    async def up(self, index: int | None = None) -> None: ...
    async def down(self) -> None: ...
    async def undo(self) -> None: ...


class Wanted:
    """What the rekeying core wants for the one peer."""

    def __init__(self) -> None:
        self.epoch: int | None = None

    def psk(self, peer: str) -> tuple[int, Secret] | None:
        return None if self.epoch is None else (self.epoch, Secret(bytes([self.epoch]) * 32))


Made = tuple[Tunnel, RefusingEngine, Wanted]


@pytest.fixture
def make(write: Callable[[str], Path]) -> Callable[[], Made]:
    def build() -> Made:
        config = load_config(write(MINIMAL), environ={})
        wanted = Wanted()
        tunnel = Tunnel(config, Identity.load(config.node.identity), load_public(config), EventStream(), wanted.psk)
        engine = RefusingEngine()
        tunnel.engine = engine
        tunnel._interface = NoInterface()  # type: ignore[assignment]
        return tunnel, engine, wanted

    return build


def install(epoch: int) -> Install:
    return Install("bob", epoch, Secret(bytes([epoch]) * 32), None, None, False)


def running(make: Callable[[], Made], test: Callable[[Tunnel, RefusingEngine, Wanted], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        tunnel, engine, wanted = make()
        await tunnel.start()
        await test(tunnel, engine, wanted)

    asyncio.run(all_of_it())


def test_a_refused_block_is_repeated_until_it_holds(make: Callable[[], Made]) -> None:
    async def test(tunnel: Tunnel, engine: RefusingEngine, wanted: Wanted) -> None:
        wanted.epoch = 3
        await tunnel.install(install(3))
        assert tunnel.epoch_in_place("bob") == engine.epoch == 3
        wanted.epoch, engine.refusing = None, True
        with pytest.raises(EngineError):
            await tunnel.block("bob")
        with pytest.raises(EngineError):
            await tunnel.reconcile()
        assert tunnel.epoch_in_place("bob") is None
        engine.refusing = False
        await tunnel.reconcile()
        assert engine.psk == b"random"

    running(make, test)


@pytest.mark.parametrize("then", ["nothing", "an epoch", "a block"])
def test_a_session_that_has_to_go_goes_although_the_engine_refused_once(make: Callable[[], Made], then: str) -> None:
    async def test(tunnel: Tunnel, engine: RefusingEngine, wanted: Wanted) -> None:
        wanted.epoch = 3
        await tunnel.install(install(3))
        assert engine.session
        engine.refusing = True
        with pytest.raises(EngineError):
            await tunnel.drop_session("bob")
        with pytest.raises(EngineError):
            await tunnel.reconcile()
        engine.refusing = False
        if then == "an epoch":
            wanted.epoch = 4
            await tunnel.install(install(4))
        elif then == "a block":
            wanted.epoch = None
            await tunnel.block("bob")
        else:
            await tunnel.reconcile()
        assert not engine.session
        assert tunnel.epoch_in_place("bob") == engine.epoch == wanted.epoch
        engine.session = True
        await tunnel.reconcile()
        assert engine.session, "once is enough"

    running(make, test)


def test_record_mode_comes_back_with_an_engine_that_was_down(make: Callable[[], Made]) -> None:
    async def test(tunnel: Tunnel, engine: RefusingEngine, wanted: Wanted) -> None:
        wanted.epoch, tunnel.up = 3, False
        await tunnel.install(replace(install(3), record_suite="aes-256-gcm"))
        assert engine.record_suite == ""
        await tunnel._bring_up()
        assert (tunnel.epoch_in_place("bob"), engine.record_suite) == (3, "aes-256-gcm")

    running(make, test)


def test_a_refused_key_is_not_in_place_until_it_is(make: Callable[[], Made]) -> None:
    async def test(tunnel: Tunnel, engine: RefusingEngine, wanted: Wanted) -> None:
        wanted.epoch = 3
        await tunnel.install(install(3))
        wanted.epoch, engine.refusing = 4, True
        with pytest.raises(EngineError):
            await tunnel.install(install(4))
        assert tunnel.epoch_in_place("bob") is None
        engine.refusing = False
        await tunnel.reconcile()
        assert (engine.psk, tunnel.epoch_in_place("bob")) == (b"\x04" * 32, 4)

    running(make, test)


def test_an_engine_that_goes_on_refusing_is_stopped_and_its_restart_is_right(make: Callable[[], Made]) -> None:
    async def test(tunnel: Tunnel, engine: RefusingEngine, wanted: Wanted) -> None:
        wanted.epoch = 3
        await tunnel.install(install(3))
        supervisor = asyncio.create_task(tunnel.supervise())
        wanted.epoch, engine.refusing = None, True
        for _ in range(REFUSALS):
            with pytest.raises(EngineError):
                await tunnel.reconcile()
        assert not tunnel.up  # and so nothing passes
        engine.refusing = False
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if tunnel.up:
                break
        assert engine.starts == 2
        assert engine.psk == b"random"
        supervisor.cancel()

    running(make, test)


def test_what_is_wanted_while_the_engine_restarts_is_not_lost(make: Callable[[], Made]) -> None:
    async def test(tunnel: Tunnel, engine: RefusingEngine, wanted: Wanted) -> None:
        wanted.epoch = 3
        async with tunnel._lock:  # a restart is under way
            tunnel.up = False
            waiting = asyncio.create_task(tunnel.block("bob"))
            await asyncio.sleep(0)
            await tunnel._bring_up()
            wanted.epoch = None  # expired after the restart had asked for the key
        await waiting
        assert (engine.psk, engine.epoch) == (b"random", None)

    running(make, test)


def test_an_install_that_was_overtaken_by_a_block_changes_nothing(make: Callable[[], Made]) -> None:
    async def test(tunnel: Tunnel, engine: RefusingEngine, wanted: Wanted) -> None:
        await tunnel.install(install(5))
        assert engine.epoch is None
        wanted.epoch = 6
        await tunnel.install(install(5))
        assert engine.epoch is None

    running(make, test)


def left(endpoint: Endpoint, *, in_force: bool) -> Left:
    session = (3, "") if in_force else None
    return Left(PeerSpec(bytes(32), endpoint, (ip_network("10.77.0.2/32"),)), (3, ""), session)


def taken_over(
    make: Callable[[], Made], its: Left, test: Callable[[Tunnel, RefusingEngine, Wanted], Awaitable[None]]
) -> None:
    """``test`` of a tunnel whose engine was there before."""

    async def all_of_it() -> None:
        tunnel, engine, wanted = make()
        engine.left = {tunnel.key_of("bob"): its, b"nobody's": its}
        engine.psk = b"of before"
        await tunnel.start()
        assert (engine.starts, engine.removed) == (0, [b"nobody's"])
        await test(tunnel, engine, wanted)

    asyncio.run(all_of_it())


def test_what_was_taken_over_stays_until_something_takes_its_place(make: Callable[[], Made]) -> None:
    async def test(tunnel: Tunnel, engine: RefusingEngine, wanted: Wanted) -> None:
        for _ in range(3):
            await tunnel.reconcile()
        assert engine.session
        engine.refusing = True
        with pytest.raises(EngineError):
            await tunnel.drop_session("bob")
        engine.refusing = False
        await tunnel.reconcile()
        assert not engine.session, "its session goes, and nobody has its key, which could not come back"
        assert (engine.psk, tunnel.epoch_in_place("bob")) == (b"of before", 3)
        wanted.epoch = 4
        await tunnel.install(install(4))
        assert (engine.psk, tunnel.epoch_in_place("bob")) == (b"\x04" * 32, 4)
        wanted.epoch = None
        await tunnel.reconcile()
        assert engine.psk == b"random", "from here on it is a key as any other"

    taken_over(make, left(("192.0.2.7", 51820), in_force=True), test)


def test_what_was_taken_over_can_be_blocked(make: Callable[[], Made]) -> None:
    async def test(tunnel: Tunnel, engine: RefusingEngine, wanted: Wanted) -> None:
        await tunnel.block("bob")
        await tunnel.reconcile()
        assert (engine.psk, tunnel.epoch_in_place("bob")) == (b"random", None)

    taken_over(make, left(("192.0.2.7", 51820), in_force=True), test)


def test_a_block_that_the_engine_refuses_is_repeated_there_too(make: Callable[[], Made]) -> None:
    async def test(tunnel: Tunnel, engine: RefusingEngine, wanted: Wanted) -> None:
        engine.refusing = True
        with pytest.raises(EngineError):
            await tunnel.block("bob")
        engine.refusing = False
        await tunnel.reconcile()
        assert engine.psk == b"random"

    taken_over(make, left(("192.0.2.7", 51820), in_force=True), test)


@pytest.mark.parametrize("in_force", [True, False])
def test_a_peer_that_is_heard_stays_where_it_is(make: Callable[[], Made], in_force: bool) -> None:
    async def test(tunnel: Tunnel, engine: RefusingEngine, wanted: Wanted) -> None:
        assert engine.endpoint == (("192.0.2.7", 51820) if in_force else ("192.0.2.9", 51820))

    def prepared() -> Made:
        made = make()
        made[0]._specs["bob"] = replace(made[0]._specs["bob"], endpoint=("192.0.2.9", 51820))
        made[1].endpoint = ("192.0.2.7", 51820)
        return made

    taken_over(prepared, left(("192.0.2.7", 51820), in_force=in_force), test)


def test_a_refused_endpoint_is_placed_later(make: Callable[[], Made]) -> None:
    async def test(tunnel: Tunnel, engine: RefusingEngine, wanted: Wanted) -> None:
        engine.refusing = True
        with pytest.raises(EngineError):
            await tunnel.set_endpoint("bob", ("192.0.2.9", 51820))
        engine.refusing = False
        await tunnel.reconcile()
        assert engine.endpoint == ("192.0.2.9", 51820)

    running(make, test)


def test_an_engine_that_could_not_be_asked_for_want_of_descriptors_goes_on(make: Callable[[], Made]) -> None:
    async def test(tunnel: Tunnel, engine: RefusingEngine, wanted: Wanted) -> None:
        async def stats() -> dict[bytes, PeerStats]:
            raise ShortageError("too many open files")

        engine.stats = stats  # type: ignore[method-assign]
        for _ in range(2 * REFUSALS):
            with pytest.raises(ShortageError):
                await tunnel.stats()
        assert tunnel.up

    running(make, test)


def test_an_engine_that_does_not_answer_is_stopped_too(make: Callable[[], Made]) -> None:
    async def test(tunnel: Tunnel, engine: RefusingEngine, wanted: Wanted) -> None:
        engine.refusing = True
        for _ in range(REFUSALS):
            assert tunnel.up
            with pytest.raises(EngineError):
                await tunnel.stats()
            await tunnel.reconcile()  # has nothing to put right
        assert not tunnel.up

    running(make, test)


class HungEngine(DeviceEngine):
    """Asked through a socket, where nobody ever answers."""

    def __init__(self, path: Path, peer: bytes, *, updates: bool) -> None:
        client = UapiClient("qt0", str(path), 0.05)
        super().__init__("foreign", "qt0", client, updates=updates, random_bytes=os.urandom)
        self._peers[peer] = PeerSpec(peer)
        self._ledgers[peer] = EpochLedger(SYSTEM.moment())

    async def stop(self) -> None: ...


@pytest.mark.parametrize("updates", [True, False])
@pytest.mark.parametrize("what", ["install", "block"])
def test_an_engine_that_hangs_is_stopped_however_much_waits_for_it(
    make: Callable[[], Made], tmp_path: Path, what: str, updates: bool
) -> None:
    """As at a hub, where more comes than an engine that takes the limit for everything would be done with."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\n\n"))
        await reader.read()
        writer.close()

    async def test(tunnel: Tunnel, engine: RefusingEngine, wanted: Wanted) -> None:
        wanted.epoch = 1 if what == "install" else None
        async with await asyncio.start_unix_server(serve, path=tmp_path / "s"):
            tunnel.engine = HungEngine(tmp_path / "s", tunnel.key_of("bob"), updates=updates)  # type: ignore[assignment]
            changes = [tunnel.install(install(1)) if what == "install" else tunnel.block("bob") for _ in range(200)]
            waiting = [asyncio.create_task(change) for change in changes]
            looks = 0
            while tunnel.up:
                for look in (tunnel.reconcile, tunnel.stats):
                    with contextlib.suppress(EngineError):
                        await look()
                looks += 1
            found = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(its, EngineError) for its in found)
        assert looks <= REFUSALS
        assert len(asked) <= 1 + REFUSALS

    running(make, test)
