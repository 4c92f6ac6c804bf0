"""An interface that somebody else made and owns: only the preshared keys of its peers are ours.

Addresses, routes, private key, port, endpoints and allowed IPs belong to the owner (wg-quick, systemd-networkd, a
script), and so do all peers that are not in the configuration. The peers that are, are found by their WireGuard public
key, and have to be there. Kernel or userspace is found out.

What ends a session: the kernel and most programs have no word for it. A new private key, or the link set down, would
end those of all peers. So the peer is removed and added again in one operation, with endpoint, allowed IPs and
keepalive as they were read right before; nothing of it passes in between, as a packet without a peer goes nowhere. Its
counters begin anew, and it stands last in the list.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
from collections.abc import Collection
from pathlib import Path

from qtunnel.constants import UAPI_DIRECTORY
from qtunnel.engines.base import KEY_SIZE, Endpoint, Lease, PeerSpec, PeerStats
from qtunnel.engines.child import WATCH_POLL
from qtunnel.engines.clocks import SYSTEM, Clocks, Moment
from qtunnel.engines.device import Client, DevicePeer, Line, added, existing, mark_of_psk, removed, spec_of
from qtunnel.engines.host import index_of, is_other
from qtunnel.engines.kernel_client import KernelClient
from qtunnel.engines.ledger import EpochLedger
from qtunnel.engines.peers import DeviceEngine
from qtunnel.engines.uapi_client import UapiClient, taken_by
from qtunnel.errors import EngineError, InterfaceError, MissingPeerError
from qtunnel.secret import RandomBytes, Secret

WITHOUT_UPDATES = "boringtun"
"""Begins the name of the program that cannot change a peer (qtunnel/engines/programs.py)."""

BLOCK_ALL_LIMIT = 20.0
"""Seconds to block all peers in: 1,000 take a second or two, and one that does not answer has the time of four
operations, while whoever waits for the engine meanwhile waits no longer than for its restart."""


class ExistingEngine(DeviceEngine):
    """Manages the PSKs of one interface. Start finds it and stop leaves it, each without a change."""

    def __init__(
        self, interface: str, *, clocks: Clocks = SYSTEM, random_bytes: RandomBytes = os.urandom,
        socket_directory: str = UAPI_DIRECTORY,
    ) -> None:  # fmt: skip
        super().__init__("existing", interface, KernelClient(interface), clocks=clocks, random_bytes=random_bytes)
        self._socket = Path(socket_directory) / f"{interface}.sock"
        self._server: int | None = None
        """The process that served it at the start."""
        self._index: int | None = None
        self._marks: dict[bytes, bytes] = {}

    @property
    def pid(self) -> int | None:
        return None

    @property
    def index(self) -> int | None:
        return self._index

    async def start(self) -> None:
        if self._index is not None:
            raise self._error("is in use already")
        index = index_of(self._interface)
        self._client = await self._find_client()
        if isinstance(self._client, KernelClient):
            self._client.index = index
        self._forget_all()
        self._index = index

    async def _find_client(self) -> Client:
        if index_of(self._interface) is None:
            raise InterfaceError(
                f"interface {self._interface} does not exist; with tunnel.manage: psk somebody else makes it (wg-quick "
                f"up {self._interface}): do that first, or remove that line"
            )
        kernel = KernelClient(self._interface, marks=True)
        try:
            await kernel.get()
        except EngineError as refusal:
            uapi = UapiClient(self._interface, str(self._socket), marks=True, server=lambda: self._server)
            self._server = await uapi.served_by()
            if self._server is None and _forbidden(self._socket):
                raise InterfaceError(
                    f"interface {self._interface}: {self._socket}: permission denied; run the program that serves it "
                    "and qtunnel as the same user (docs/operations.md)"
                ) from None
            if self._server is None:
                raise InterfaceError(
                    f"interface {self._interface} is no WireGuard interface: {self._socket} does not answer, and the "
                    f"kernel says: {refusal}"
                ) from None
            self._name, self._updates = "existing (userspace)", not _runs(self._server, WITHOUT_UPDATES)
            return uapi
        self._name, self._updates = "existing (kernel)", True
        return kernel

    async def fwmark(self) -> int:
        """What the owner marks WireGuard's datagrams with, so that they go around the tunnel; 0 is none.

        Can be asked before the start.
        """
        return (await (await self._find_client()).get()).fwmark

    async def configure_device(self, private_key: Secret, listen_port: int, mark: int = 0) -> None:
        """The owner's; not touched."""

    async def adopt(self, public_key: bytes, listen_port: int, mark: int = 0) -> None:
        """Nothing: the interface and what is in place there stay when a daemon ends, but whose keys and how old they
        are it does not tell; ``set_peer`` puts random ones in their place."""

    async def renew(self, public_key: bytes, lease: Lease) -> None:
        """No lease: while a daemon runs it blocks what is too old; where none runs a key stays until somebody replaces
        it (docs/operations.md)."""

    async def set_peer(self, peer: PeerSpec) -> None:
        """A peer that is there gets a random key and loses its sessions; of ``peer`` only the public key matters."""
        if peer.public_key in self._peers:
            return
        self._peers[peer.public_key] = peer
        self._ledgers[peer.public_key] = EpochLedger(self._clocks.moment())
        try:
            with Secret.random(self._random_bytes, KEY_SIZE) as psk:
                await self.block(peer.public_key, psk)
        except EngineError:
            self._forget(peer.public_key)
            raise

    async def remove_peer(self, public_key: bytes) -> None:
        """The peer is the owner's; it keeps the key that it has."""
        self._forget(public_key)

    async def set_endpoint(self, public_key: bytes, endpoint: Endpoint) -> None:
        """The owner's; not touched."""

    async def _replaced(self, peer: PeerSpec, psk: Secret) -> list[Line]:
        found = (await self._client.get(always=False)).peers.get(peer.public_key)
        if found is None:
            raise self._no_peer(peer.public_key)
        return self._made_again(found, psk)

    def _made_again(self, found: DevicePeer, psk: Secret) -> list[Line]:
        try:
            spec = spec_of(found)
        except ValueError as error:
            raise self._error(f"cannot keep the settings of peer {_text(found.public_key)}: {error}") from None
        return [*removed(found.public_key), *added(spec, psk)]

    def _known(self, public_key: bytes) -> PeerSpec:
        if public_key not in self._peers:
            raise self._no_peer(public_key)
        return super()._known(public_key)

    def _no_peer(self, public_key: bytes) -> MissingPeerError:
        return MissingPeerError(str(self._error(f"has no peer {_text(public_key)}; {_remedy(self._interface)}")))

    async def block_all(self) -> list[bytes]:
        """Block every peer that is there, whatever becomes of the others; those for which that is not certain.

        To be called before the interface is given up: unlike an engine of ours it goes on with the keys that it has.
        Where it does not tell what it has, peers get random keys, and the sessions that are there end by themselves
        within ``SESSION_TIME``.
        """
        there: dict[bytes, DevicePeer] | None = None
        with contextlib.suppress(EngineError):
            there = (await self._client.get()).peers
        left = [key for key in self._peers if there is None or key in there]
        if there is None and not self._updates:
            return left  # a new key would end the program, and with it what is none of ours
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BLOCK_ALL_LIMIT):
                for public_key in tuple(left):
                    with contextlib.suppress(EngineError), Secret.random(self._random_bytes, KEY_SIZE) as psk:
                        lines = [*existing(public_key), ("preshared_key", psk)]
                        lines = lines if there is None else self._made_again(there[public_key], psk)
                        await self._give(lines, always=True)
                        self._hold(public_key, psk, None)
                        self._ledgers[public_key].blocked()
                        if there is not None:
                            left.remove(public_key)
        return left

    async def _prompt(self, public_key: bytes, keepalive: int) -> None:
        found = (await self._client.get(always=False)).peers.get(public_key)
        if found is not None:
            await super()._prompt(public_key, found.persistent_keepalive)

    def _hold(self, public_key: bytes, psk: Secret, epoch: int | None) -> None:
        self._marks[public_key] = mark_of_psk(psk.reveal())

    def _forget(self, public_key: bytes) -> None:
        super()._forget(public_key)
        self._marks.pop(public_key, None)

    async def stats(self) -> dict[bytes, PeerStats]:
        self._check_index()
        return await super().stats()

    def _peer_stats(self, peer: DevicePeer, look: Moment) -> PeerStats:
        ledger = self._ledgers.get(peer.public_key)
        if ledger is not None and peer.psk_mark != self._marks.get(peer.public_key):
            ledger.blocked()  # what is in force now is of nobody's epoch
        return super()._peer_stats(peer, look)

    async def undone(self, wanted: Collection[bytes]) -> tuple[list[bytes], list[bytes]]:
        """The peers whose preshared key somebody changed, and those of the wanted that are not there."""
        there = (await self._client.get()).peers
        changed = [key for key in self._peers if key in there and there[key].psk_mark != self._marks.get(key)]
        return changed, [key for key in wanted if key not in there]

    async def wait_dead(self) -> str:
        while self._index is not None:
            if is_other(self._interface, self._index):
                return f"interface {self._interface} is gone, or was made anew"
            stranger = self._client.stranger if isinstance(self._client, UapiClient) else None
            if stranger is not None:  # the keys that are in place there are of nobody we know
                return f"{self._socket} is not served by process {self._server} any more: {taken_by(stranger)}"
            await asyncio.sleep(WATCH_POLL)
        return f"interface {self._interface} was left"

    def _check_index(self) -> None:
        if self._index is None or index_of(self._interface) != self._index:
            raise self._error("is gone, or was made anew")

    async def stop(self) -> None:
        """Leaves everything as it is, the keys included."""
        self._index = None
        self._forget_all()


def _forbidden(path: Path) -> bool:
    """Whether there is, or may be, a socket that this process may not use."""
    hidden = path.parent.is_dir() and not os.access(path.parent, os.X_OK)
    return hidden or (os.path.exists(path) and not os.access(path, os.W_OK))


def _runs(pid: int, program: str) -> bool:
    """Whether it is a process of a program of that name; not where it cannot be told."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith(program)
    except OSError:
        return False


def _text(public_key: bytes) -> str:
    return base64.b64encode(public_key).decode()


def _remedy(interface: str) -> str:
    return f"add it there, or correct wireguard_key in the configuration (wg show {interface} peers lists them)"
