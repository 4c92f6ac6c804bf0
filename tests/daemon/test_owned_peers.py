"""``manage: psk`` peer by peer: what fails with one peer of somebody else's interface keeps no other from its turn.

The interface here stands in memory and refuses on demand; with a real one: test_owned_interface.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import pytest

from qtunnel.config import load_config
from qtunnel.daemon.settings import load_public
from qtunnel.daemon.tunnel import REFUSALS, Tunnel
from qtunnel.engines import existing
from qtunnel.engines.device import Device, DevicePeer, Line, mark_of_psk
from qtunnel.engines.existing import ExistingEngine
from qtunnel.errors import EngineError, MissingPeerError
from qtunnel.events import EventStream
from qtunnel.identity import Identity
from qtunnel.rekey.model import Install
from qtunnel.secret import Secret
from tests.config.conftest import MINIMAL, identity
from tests.config.conftest import site as site  # the files that MINIMAL names
from tests.config.conftest import write as write

NAMES = ("hub", "bob", "branch")
KEY = {name: identity(name).public.wireguard for name in NAMES}
OWNERS = bytes(32)
"""The preshared key that the owner's tools put there: none."""
TUNNEL = "  interface: qt0\n  addresses: [10.77.0.1/24]\n"
PEER = "  - name: {name}\n    public: {name}.public\n    endpoint: 192.0.2.9\n    qkd: {{policy: off}}\n"


class MemoryDevice:
    """Peers with a preshared key and a session each, as an interface has them; refuses what names a peer of
    ``refusing``, and every question while ``silent``."""

    def __init__(self) -> None:
        self.psk = dict.fromkeys(KEY.values(), OWNERS)
        self.sessions = set(KEY.values())
        self.refusing: set[bytes] = set()
        self.silent = False

    async def get(self, *, always: bool = True) -> Device:
        if self.silent:
            raise EngineError("engine of qt0: no answer")
        return Device(peers={key: DevicePeer(key, psk_mark=mark_of_psk(psk)) for key, psk in self.psk.items()})

    async def set(self, lines: Iterable[Line], *, always: bool = False) -> None:
        key, only_known = b"", False
        for name, value in lines:
            if name == "public_key":
                key, only_known = bytes.fromhex(str(value)), False
                if key in self.refusing:
                    raise EngineError("engine of qt0: refused")
            elif name == "update_only":
                only_known = True
            elif name == "remove":
                self.psk.pop(key, None)
                self.sessions.discard(key)
            elif isinstance(value, Secret) and (key in self.psk or not only_known):
                self.psk[key] = bytes(value.reveal())

    def leave(self, name: str) -> None:
        """The owner takes a peer away."""
        del self.psk[KEY[name]]
        self.sessions.discard(KEY[name])

    def come(self, name: str) -> None:
        """The owner adds it again, and it speaks at once."""
        self.psk[KEY[name]] = OWNERS
        self.sessions.add(KEY[name])


class Site:
    """A tunnel over such an interface; wanted: the epoch that each peer should have."""

    def __init__(self, path: Path) -> None:
        config = load_config(path, environ={})
        self.wanted: dict[str, int] = {}
        self.events = EventStream()
        self.tunnel = Tunnel(
            config, Identity.load(config.node.identity), load_public(config), self.events, self._psk
        )  # fmt: skip
        self.device = MemoryDevice()
        assert isinstance(self.tunnel.engine, ExistingEngine)
        self.engine = self.tunnel.engine

    def _psk(self, peer: str) -> tuple[int, Secret] | None:
        epoch = self.wanted.get(peer)
        return None if epoch is None else (epoch, Secret(bytes([epoch]) * 32))

    async def agree(self, name: str, epoch: int) -> None:
        self.wanted[name] = epoch
        await self.tunnel.install(Install(name, epoch, Secret(bytes([epoch]) * 32), None, None, False))

    def has(self, name: str, epoch: int) -> bool:
        return self.device.psk.get(KEY[name]) == bytes([epoch]) * 32

    def blocked(self, name: str) -> bool:
        """A key that is neither the owner's nor an epoch's, and no session."""
        psk = self.device.psk[KEY[name]]
        return len(set(psk)) > 1 and KEY[name] not in self.device.sessions


@pytest.fixture
def owned(write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Callable[[], Site]:
    monkeypatch.setattr(existing, "index_of", lambda interface: 7)

    def made() -> Site:
        head = MINIMAL.split("key_sources:")[0].replace(TUNNEL, "  interface: qt0\n  manage: psk\n")
        site = Site(write(head + "peers:\n" + "".join(PEER.format(name=name) for name in NAMES)))

        async def found() -> MemoryDevice:
            return site.device

        monkeypatch.setattr(site.engine, "_find_client", found)
        return site

    return made


def running(owned: Callable[[], Site], test: Callable[[Site], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        await test(owned())

    asyncio.run(all_of_it())


def test_a_start_blocks_those_that_are_there_and_names_who_is_not(owned: Callable[[], Site]) -> None:
    async def test(site: Site) -> None:
        site.device.leave("hub")
        site.device.refusing.add(KEY["bob"])
        await site.tunnel.start()
        assert site.blocked("branch")
        told = {event.peer: str(event.fields["detail"]) for event in site.events.history() if event.peer}
        assert "has no peer" in told["hub"]
        assert "refused" in told["bob"]
        await site.agree("branch", 3)
        assert site.has("branch", 3)
        # And once they can be had they get a random key first, then what they should have.
        site.wanted["hub"] = 4
        site.device.come("hub")
        site.device.refusing.clear()
        await site.tunnel.mend()
        await site.tunnel.reconcile()
        assert (site.has("hub", 4), site.blocked("bob"), site.has("branch", 3)) == (True, True, True)
        assert KEY["hub"] not in site.device.sessions

    running(owned, test)


def test_what_was_refused_at_the_start_is_repeated_peer_by_peer(owned: Callable[[], Site]) -> None:
    async def test(site: Site) -> None:
        site.device.refusing |= {KEY["hub"], KEY["bob"]}
        await site.tunnel.start()
        site.device.refusing.remove(KEY["bob"])
        with pytest.raises(EngineError, match=r"^peer hub: "):
            await site.tunnel.reconcile()
        assert site.blocked("bob")
        assert site.device.psk[KEY["hub"]] == OWNERS
        site.device.refusing.clear()
        await site.tunnel.reconcile()
        assert site.blocked("hub")

    running(owned, test)


def test_a_start_without_any_of_its_peers_is_refused(owned: Callable[[], Site]) -> None:
    async def test(site: Site) -> None:
        for name in NAMES:
            site.device.leave(name)
        with pytest.raises(MissingPeerError, match=r"has no peer .*; add it there, or correct wireguard_key"):
            await site.tunnel.start()

    running(owned, test)


def test_a_peer_that_was_taken_away_keeps_no_other_from_being_blocked(owned: Callable[[], Site]) -> None:
    async def test(site: Site) -> None:
        await site.tunnel.start()
        for name in NAMES:
            await site.agree(name, 3)
        site.device.sessions = set(KEY.values())
        site.device.leave("hub")
        site.wanted.clear()  # all of them are too old
        with pytest.raises(MissingPeerError):
            await site.tunnel.block("hub")
        site.device.refusing.add(KEY["bob"])
        for _ in range(2 * REFUSALS):
            with pytest.raises(EngineError, match=r"^peer bob: "):
                await site.tunnel.reconcile()
            await site.tunnel.mend()
            assert site.tunnel.up, "nothing of an owner's interface ends with its engine"
            assert site.blocked("branch")
        assert "missing: peer hub; no protection" in str(site.tunnel.trouble)
        assert site.tunnel.epoch_in_place("hub") is None
        site.device.refusing.clear()
        await site.tunnel.reconcile()
        assert site.blocked("bob")

    running(owned, test)


def test_what_is_put_back_is_put_back_for_all(owned: Callable[[], Site]) -> None:
    async def test(site: Site) -> None:
        await site.tunnel.start()
        for name in NAMES:
            await site.agree(name, 3)
        site.device.leave("hub")
        for name in ("bob", "branch"):
            site.device.come(name)
        site.device.refusing.add(KEY["bob"])
        with pytest.raises(EngineError, match=r"^peer bob: "):
            await site.tunnel.mend()
        assert site.has("branch", 3)
        assert KEY["branch"] not in site.device.sessions
        assert site.tunnel.epoch_in_place("bob") is None
        site.device.refusing.clear()
        site.device.come("hub")
        await site.tunnel.reconcile()
        await site.tunnel.mend()
        await site.tunnel.reconcile()
        await site.tunnel.mend()
        assert all(site.has(name, 3) and KEY[name] not in site.device.sessions for name in NAMES)
        assert site.tunnel.trouble is None

    running(owned, test)


def test_whoever_comes_back_has_a_random_key_first(owned: Callable[[], Site]) -> None:
    async def test(site: Site) -> None:
        await site.tunnel.start()
        await site.agree("hub", 3)
        site.device.leave("hub")
        await site.tunnel.mend()
        with pytest.raises(MissingPeerError):
            await site.agree("hub", 4)
        assert site.tunnel.epoch_in_place("hub") is None
        site.device.come("hub")
        site.wanted.clear()
        await site.tunnel.mend()
        await site.tunnel.reconcile()
        assert site.blocked("hub")

    running(owned, test)


@pytest.mark.parametrize("silent", [False, True])
def test_nothing_is_given_up_before_all_are_blocked(
    owned: Callable[[], Site], silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an interface that tells nothing any more, by keys alone: what sessions there are end by themselves."""

    async def test(site: Site) -> None:
        await site.tunnel.start()
        for name in NAMES:
            await site.agree(name, 3)
        site.device.sessions = set(KEY.values())
        site.device.refusing.add(KEY["hub"])
        site.device.silent = silent

        async def refuses() -> dict[bytes, object]:
            raise EngineError("engine of qt0: no answer")

        monkeypatch.setattr(site.engine, "stats", refuses)
        for _ in range(REFUSALS):
            assert all(site.has(name, 3) for name in NAMES)
            with pytest.raises(EngineError):
                await site.tunnel.stats()
        assert not site.tunnel.up
        for name in ("bob", "branch"):
            assert not site.has(name, 3)
            assert silent or site.blocked(name)
        told = [str(event.fields["detail"]) for event in site.events.history() if event.kind == "engine.trouble"]
        assert len(told) == 1
        assert told[0].startswith(f"not certainly blocked: {'hub, bob, branch' if silent else 'hub'};")

    running(owned, test)
