"""Where peers are: names resolved, addresses learned from authenticated messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

from qtunnel.addresses import is_numeric
from qtunnel.config import Config, PlainPeerConfig
from qtunnel.daemon.members import AnyPeer, all_peers
from qtunnel.daemon.memory import StateDirectory
from qtunnel.daemon.records import Place
from qtunnel.daemon.resolver import Resolver
from qtunnel.daemon.steady import Steady
from qtunnel.daemon.transport import Address
from qtunnel.daemon.tunnel import Tunnel
from qtunnel.errors import EngineError
from qtunnel.events import EventStream
from qtunnel.identity import PublicIdentity
from qtunnel.rekey.model import Heard

RESOLVE_LIMIT = 5.0
"""Seconds for one look-up; a resolver's own default of 5 s a try is the usual."""
RESOLVE_RETRY = 10.0
"""Seconds between look-ups of names that did not resolve or whose address does not answer."""


def address_port(peer: AnyPeer) -> int:
    """Of the address that is looked after: where the key handshake goes, which plain peers do not have."""
    return peer.wireguard_port if isinstance(peer, PlainPeerConfig) else peer.handshake_port


def _place(peer: AnyPeer) -> tuple[str | None, int, int]:
    return peer.endpoint, address_port(peer), peer.wireguard_port


class Endpoints:
    """The handshake address of each peer, and the WireGuard endpoint that goes with it.

    unanswered: whether a peer, by its name, has been silent and has not spoken since.
    """

    def __init__(self, config: Config, tunnel: Tunnel, events: EventStream, unanswered: Callable[[str], bool]) -> None:
        self._peers: dict[str, AnyPeer] = all_peers(config)
        self._tunnel, self._events, self._unanswered = tunnel, events, unanswered
        self._addresses: dict[str, Address] = {}
        self._names: dict[str, str] = {}
        self._doubted = {name for name, peer in self._peers.items() if peer.endpoint is not None}
        self._unresolved: set[str] = set()
        self._resolver = Resolver()
        self._memory: StateDirectory | None = None
        self._public: Mapping[str, PublicIdentity] = {}

    def of(self, peer: str) -> Address | None:
        return self._addresses.get(peer)

    def hosts(self) -> set[str]:
        """The addresses at which peers are believed to be."""
        return {address.host for address in self._addresses.values()}

    def text(self, peer: str) -> str | None:
        """For the status."""
        address = self._addresses.get(peer)
        return None if address is None else str(address)

    def peer_at(self, address: str) -> str | None:
        """The peer that is expected at that address, as ``text`` writes it; what comes from there proves nothing."""
        name = self._names.get(address)
        return name if name is not None and self.text(name) == address else None

    def _set(self, peer: str, address: Address) -> None:
        before = self.text(peer)
        if before is not None and self._names.get(before) == peer:
            del self._names[before]
        self._addresses[peer] = address
        self._names.setdefault(str(address), peer)

    def heard(self, heard: Heard, address: Address) -> None:
        """A peer spoke from ``address``: it is there where it proved it, or where nothing better is known."""
        peer = heard.peer
        before = self._addresses.get(peer)
        if before is not None and not heard.proven:
            return
        self._set(peer, address)
        if before is not None and (before.host, before.port) != (address.host, address.port):
            self._events.publish("endpoint.moved", peer, before=str(before), after=str(address))

    def doubt(self, peer: str) -> None:
        """Nobody answers there: look the name up again."""
        if peer in self._peers and self._peers[peer].endpoint is not None:
            self._doubted.add(peer)

    def change(self, config: Config, public: Mapping[str, PublicIdentity], others: Collection[str]) -> None:
        """Other peers from now on. others: names whose peer is another one than before. Those whose place is written
        anew are looked up by ``settle``; where the others are stays as it is known."""
        before, self._peers, self._public = self._peers, all_peers(config), public
        for name in before:
            if name not in self._peers or name in others:
                self._forget(name)
        for name, peer in self._peers.items():
            old = None if name in others else before.get(name)
            if old is not None and _place(old) == _place(peer):
                self._peers[name] = old  # a look-up under way goes by it, and is of use still
            elif peer.endpoint is None:
                self._doubted.discard(name)
            else:
                self._doubted.add(name)
                self._unresolved.discard(name)

    def _forget(self, peer: str) -> None:
        address = self.text(peer)
        if address is not None and self._names.get(address) == peer:
            del self._names[address]
        self._addresses.pop(peer, None)
        self._doubted.discard(peer)
        self._unresolved.discard(peer)

    async def settle(self) -> None:
        """Look up at once what is in doubt."""
        await self._look_up()

    async def first(self, memory: StateDirectory, public: Mapping[str, PublicIdentity]) -> None:
        """Look all names up once, at the same time. memory: says where those led that do not resolve now, and keeps
        where they lead; public: by the peer's name."""
        self._memory, self._public = memory, public
        await self._look_up()

    async def watch(self) -> None:
        """Look up again what is in doubt, and who is silent until it speaks; runs until cancelled."""
        steady = Steady("endpoints")
        while True:
            await asyncio.sleep(RESOLVE_RETRY)
            with steady.look():
                await self.look_again()

    async def look_again(self) -> None:
        """One look of ``watch``. An address in the configuration stays what it is, however silent its peer."""
        for name, peer in self._peers.items():
            if self._unanswered(name) and peer.endpoint is not None and not is_numeric(peer.endpoint):
                self._doubted.add(name)
        await self._look_up()

    async def _look_up(self) -> None:
        doubted, self._doubted = self._doubted, set()
        try:
            await asyncio.gather(*(self._resolve(self._peers[name]) for name in doubted))
        except BaseException:
            self._doubted |= doubted & self._peers.keys()  # nothing is known of them yet
            raise

    async def _resolve(self, peer: AnyPeer) -> None:
        assert peer.endpoint is not None
        before = self.of(peer.name)
        try:
            address = await self._resolver.resolve(peer.endpoint, address_port(peer), RESOLVE_LIMIT)
        except (OSError, TimeoutError, UnicodeError) as error:
            if self._peers.get(peer.name) is not peer:
                return
            self._doubted.add(peer.name)
            detail = str(error) or "no answer from the resolver"
            last = self._last(peer) if self.of(peer.name) is None else None
            if peer.name not in self._unresolved:
                self._unresolved.add(peer.name)
                if last is not None:
                    detail += f"; meanwhile at {last.host}, where it led before"
                self._events.publish("endpoint.unresolved", peer.name, endpoint=peer.endpoint, detail=detail)
            if last is not None:
                await self._lead(peer, last)
            return
        if self._peers.get(peer.name) is not peer:
            return  # the configuration has changed meanwhile, and what it says now is looked up by itself
        self._unresolved.discard(peer.name)
        if before is not None and self.of(peer.name) is not before:
            return  # the peer has proven meanwhile where it is, or another look-up has found it
        identity = self._id(peer)  # now: a reload may take the peer away while the engine is told
        await self._lead(peer, address)
        if self._memory is not None and not is_numeric(peer.endpoint):
            await self._memory.remember_place(identity, Place(peer.endpoint, address.host))

    def _id(self, peer: AnyPeer) -> bytes:
        return peer.public_key if isinstance(peer, PlainPeerConfig) else self._public[peer.name].id

    def _last(self, peer: AnyPeer) -> Address | None:
        """Where the peer's name led when it last resolved. Where all traffic goes into the tunnel, so does the question
        for the name: without this, one that stays open at the start would stay open for good."""
        place = None if self._memory is None else self._memory.place_of(self._id(peer))
        return None if place is None or place.endpoint != peer.endpoint else Address(place.host, address_port(peer))

    async def _lead(self, peer: AnyPeer, address: Address) -> None:
        self._set(peer.name, address)
        try:
            await self._tunnel.set_endpoint(peer.name, (address.host, peer.wireguard_port))
        except EngineError as error:
            self._events.publish("engine.trouble", peer.name, detail=str(error))
