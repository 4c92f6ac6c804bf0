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

    unanswered: whether a peer, by its name, has been silent and has not spoken since. versions: of IP, that there are
    sockets for.
    """

    def __init__(
        self,
        config: Config,
        tunnel: Tunnel,
        events: EventStream,
        unanswered: Callable[[str], bool],
        versions: Callable[[], Collection[int]],
    ) -> None:
        self._peers: dict[str, AnyPeer] = all_peers(config)
        self._tunnel, self._events = tunnel, events
        self._unanswered, self._versions = unanswered, versions
        self._port = config.node.listen[0].port  # for advice
        self._addresses: dict[str, Address] = {}
        self._names: dict[str, str] = {}
        self._doubted = {name for name, peer in self._peers.items() if peer.endpoint is not None}
        self._unresolved: set[str] = set()
        self._rewritten: set[str] = set()
        """Peers whose place the configuration says anew, until what it says was looked up."""
        self._tried: dict[str, set[str]] = {}
        """Hosts at which an attempt was in vain, of peers that have not spoken since."""
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
        self._tried.pop(peer, None)
        self._set(peer, address)
        if before is not None and (before.host, before.port) != (address.host, address.port):
            self._events.publish("endpoint.moved", peer, before=str(before), after=str(address))

    def doubt(self, peer: str) -> None:
        """Nobody answers there: look the name up again."""
        if peer in self._peers and self._peers[peer].endpoint is not None:
            self._doubted.add(peer)

    def in_vain(self, peer: str) -> None:
        """Nobody answered there in a whole attempt: if the name has other addresses, the next one has its turn.

        Not sooner: an answer takes as long as the peer's KME does, and what follows it goes to the same address.
        """
        address = self.of(peer)
        if address is not None:
            self._tried.setdefault(peer, set()).add(address.host)
        self.doubt(peer)

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
                self._rewritten.add(name)
                self._unresolved.discard(name)
                self._tried.pop(name, None)

    def _forget(self, peer: str) -> None:
        address = self.text(peer)
        if address is not None and self._names.get(address) == peer:
            del self._names[address]
        self._addresses.pop(peer, None)
        self._tried.pop(peer, None)
        for named in (self._doubted, self._rewritten, self._unresolved):
            named.discard(peer)

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
        self._tried = {name: hosts for name, hosts in self._tried.items() if self._unanswered(name)}
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
            found = await self._resolver.resolve(peer.endpoint, address_port(peer), RESOLVE_LIMIT)
            usable = [address for address in found if self._usable(peer, address)]
            if not usable:
                raise OSError(self._advice(found))
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
        rewritten = peer.name in self._rewritten
        if before is not None and self.of(peer.name) is not before and not rewritten:
            return  # the peer has proven meanwhile where it is, or another look-up has found it
        self._rewritten.discard(peer.name)
        stays = before is not None and before.host in {its.host for its in usable} and not rewritten
        address = self._choose(peer, usable)
        identity = self._id(peer)  # now: a reload may take the peer away while the engine is told
        if stays and self._tunnel.epoch_in_place(peer.name) is not None:
            # A daemon that hangs must not cost the traffic of a session which goes to an address that the name still
            # has. Where WireGuard is silent as well, ``Nudges`` leads it.
            self._set(peer.name, address)
        else:
            await self._lead(peer, address)
        if self._memory is not None and not is_numeric(peer.endpoint):
            await self._memory.remember_place(identity, Place(peer.endpoint, address.host))

    def _usable(self, peer: AnyPeer, address: Address) -> bool:
        """Whether there is a socket to reach it from; to plain peers nothing is sent from here."""
        return isinstance(peer, PlainPeerConfig) or address.version in self._versions()

    def _advice(self, found: list[Address]) -> str:
        version, other, any_host = (6, 4, "[::]") if found[0].version == 6 else (4, 6, "0.0.0.0")  # noqa: S104  # words
        hosts = ", ".join(address.host for address in found)
        return (
            f"it leads to {hosts} alone, and this gateway has no socket for IPv{version}: set {any_host}:{self._port} "
            f"under node.listen (and restart it) on a host with IPv{version}, or an endpoint with an IPv{other} address"
        )

    def _choose(self, peer: AnyPeer, found: list[Address]) -> Address:
        """Of the addresses of a peer's name: the present one, unless it was tried in vain; then one that was not, and
        once all were, another one. Plain peers get the first: that one is idle is no silence, and nobody tells them
        apart."""
        present = self.of(peer.name)
        if isinstance(peer, PlainPeerConfig) or present is None:
            return found[0]
        if self._tried.get(peer.name, set()).issuperset(address.host for address in found):
            self._tried[peer.name] = {present.host}
        tried = self._tried.get(peer.name, set())
        fresh = [address for address in found if address.host not in tried] or found
        return next((address for address in fresh if address.host == present.host), fresh[0])

    def _id(self, peer: AnyPeer) -> bytes:
        return peer.public_key if isinstance(peer, PlainPeerConfig) else self._public[peer.name].id

    def _last(self, peer: AnyPeer) -> Address | None:
        """Where the peer's name led when it last resolved. Where all traffic goes into the tunnel, so does the question
        for the name: without this, one that stays open at the start would stay open for good."""
        place = None if self._memory is None else self._memory.place_of(self._id(peer))
        if place is None or place.endpoint != peer.endpoint:
            return None
        address = Address(place.host, address_port(peer))
        return address if self._usable(peer, address) else None

    async def _lead(self, peer: AnyPeer, address: Address) -> None:
        self._set(peer.name, address)
        try:
            await self._tunnel.set_endpoint(peer.name, (address.host, peer.wireguard_port))
        except EngineError as error:
            self._events.publish("engine.trouble", peer.name, detail=str(error))
