"""What engines have in common once they run: a device with peers, told and asked through a client."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from qtunnel.engines.base import (
    KEY_SIZE,
    MAX_KEEPALIVE,
    MAX_PORT,
    Endpoint,
    Lease,
    Left,
    PeerSpec,
    PeerStats,
    format_endpoint,
)
from qtunnel.engines.clocks import SYSTEM, Clocks, Moment
from qtunnel.engines.dates import Dates
from qtunnel.engines.device import Client, DevicePeer, Line, added, existing, peer_lines, removed, usable
from qtunnel.engines.host import port_problem
from qtunnel.engines.ledger import EpochLedger
from qtunnel.errors import EngineError, InterfaceError
from qtunnel.secret import RandomBytes, Secret

INTERFACE_NAME = re.compile(r"[^\s/:%]{1,15}")
"""What the kernel takes as a name (IFNAMSIZ 16 with the final zero) and what is safe in a file name."""

EXPIRES, PREVIOUS_EXPIRES = "expires_boottime_msec", "previous_expires_boottime_msec"
"""The keys of our own engine's UAPI for when a key, and the one before, end."""


@dataclass(frozen=True, slots=True)
class _Held:
    """The key that an engine has which cannot change a peer; epoch: ``None`` for a random one."""

    psk: Secret
    epoch: int | None


class DeviceEngine:
    """All of an engine but its start and its end.

    epochs, updates: what the program behind the client can do, as in ``Program``.
    """

    def __init__(
        self, name: str, interface: str, client: Client, *, epochs: bool = False, updates: bool = True,
        clocks: Clocks = SYSTEM, random_bytes: RandomBytes,
    ) -> None:  # fmt: skip
        if not INTERFACE_NAME.fullmatch(interface) or interface in {".", ".."}:
            raise InterfaceError(
                f"{interface!r} is no interface name: up to 15 characters, no spaces, no '/', ':', '%'"
            )
        self._name, self._interface, self._client = name, interface, client
        self._epochs, self._updates = epochs, updates
        self._clocks, self._random_bytes = clocks, random_bytes
        self._listen_port = 0
        self._peers: dict[bytes, PeerSpec] = {}
        self._ledgers: dict[bytes, EpochLedger] = {}
        self._dates = Dates()
        self._held: dict[bytes, _Held] = {}
        self._told: dict[bytes, tuple[DevicePeer, PeerStats]] = {}
        """The last ``stats``, each with what the client told of it."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def interface(self) -> str:
        return self._interface

    @property
    def replaced(self) -> str | None:
        return None

    async def adopt(self, public_key: bytes, listen_port: int, mark: int = 0) -> dict[bytes, Left] | None:
        """Nothing: an engine that does not end its own traffic in time is not let outlive its daemon."""
        return None

    async def configure_device(self, private_key: Secret, listen_port: int, mark: int = 0) -> None:
        if not 0 <= listen_port <= MAX_PORT:
            raise self._error(f"a UDP port is 0 to {MAX_PORT}, not {listen_port}")
        self._check_key(private_key, "private key")
        if listen_port not in (0, self._listen_port) and (problem := port_problem(listen_port)) is not None:
            raise self._error(problem)
        # The mark goes first: no socket is open without it.
        await self._client.set([("private_key", private_key), ("fwmark", mark), ("listen_port", listen_port)])
        self._listen_port = listen_port

    async def set_peer(self, peer: PeerSpec) -> None:
        if peer.public_key not in self._peers:
            ledger = EpochLedger(self._clocks.moment())
            with Secret.random(self._random_bytes, KEY_SIZE) as psk:
                await self._client.set(added(peer, psk))
            self._ledgers[peer.public_key] = ledger
        elif self._updates:
            await self._client.set([*existing(peer.public_key), *peer_lines(peer)])
        else:
            await self._add_again(peer)
        self._peers[peer.public_key] = peer

    async def remove_peer(self, public_key: bytes) -> None:
        await self._client.set(removed(public_key))
        self._forget(public_key)

    async def set_endpoint(self, public_key: bytes, endpoint: Endpoint) -> None:
        try:
            peer = replace(self._known(public_key), endpoint=endpoint)
        except ValueError as error:
            raise self._error(f"bad endpoint: {error}") from None
        if self._updates:
            await self._client.set([*existing(public_key), ("endpoint", format_endpoint(endpoint))])
        else:
            await self._add_again(peer)
        self._peers[public_key] = peer

    async def set_psk(
        self,
        public_key: bytes,
        psk: Secret,
        epoch: int,
        previous: Secret | None = None,
        previous_epoch: int = 0,
        handshake_now: bool = False,
        record_suite: str = "",
        lease: Lease | None = None,
    ) -> None:
        peer = self._known(public_key)
        self._check_key(psk, "preshared key")
        lines: list[Line] = existing(public_key)
        if self._epochs and lease is not None:
            # Before the keys: whatever of the operation may be lost on the way, no key is there without its end.
            lines.append((EXPIRES, _msec(lease.ends)))
            previous_ends = dict(lease.before).get(previous_epoch)
            if previous is not None and previous_ends is not None:
                lines.append((PREVIOUS_EXPIRES, _msec(previous_ends)))
        lines.append(("preshared_key", psk))
        if self._epochs:
            lines += [("epoch", epoch), ("record_mode", record_suite or "off")]
            if lease is not None:
                lines.append(("epoch_note", lease.note))
            if previous is not None:
                self._check_key(previous, "previous preshared key")
                lines += [("previous_preshared_key", previous), ("previous_epoch", previous_epoch)]
            if handshake_now:
                lines.append(("handshake", "now"))
        elif not self._updates:
            lines = await self._replaced(peer, psk)
            self._let_go(public_key)
            self._ledgers[public_key].blocked()
        await self._give(lines)
        self._hold(public_key, psk, epoch)
        ledger = self._ledgers[public_key]
        ledger.installed(epoch, self._clocks.boot())
        if handshake_now and not self._epochs and self._updates and not ledger.has_session(self._clocks.boot()):
            await self._prompt(public_key, peer.persistent_keepalive or 0)

    async def renew(self, public_key: bytes, lease: Lease) -> None:
        """An engine that knows no lease ends with its daemon, and every key with it; until then the daemon blocks what
        is too old."""
        self._known(public_key)
        if self._epochs:
            lines: list[Line] = [*existing(public_key), (EXPIRES, _msec(lease.ends))]
            for epoch, ends in lease.before:
                lines += [*existing(public_key), ("previous_epoch", epoch), (PREVIOUS_EXPIRES, _msec(ends))]
            await self._client.set(lines)

    async def _prompt(self, public_key: bytes, keepalive: int) -> None:
        """Have an engine that knows no ``handshake`` make a first session although nobody sends anything yet: a
        keepalive that is switched on goes out at once (set_peer in the kernel's netlink.c, wireguard-go's uapi.go).

        In one operation, so that nothing can come between the two and leave the peer with another interval.
        """
        lines: list[Line] = []
        for interval in (0, keepalive) if keepalive else (MAX_KEEPALIVE, 0):
            lines += [*existing(public_key), ("persistent_keepalive_interval", interval)]
        await self._client.set(lines)

    async def block(self, public_key: bytes, psk: Secret) -> None:
        peer = self._known(public_key)
        self._check_key(psk, "preshared key")
        if self._epochs:
            await self._client.set([*existing(public_key), ("drop_sessions", "true"), ("preshared_key", psk)])
        else:
            lines = await self._replaced(peer, psk)
            self._let_go(public_key)  # or another change would put it back, where this one ends in the middle
            await self._give(lines)
        self._ledgers[public_key].blocked()
        self._hold(public_key, psk, None)

    async def drop_sessions(self, public_key: bytes) -> None:
        self._known(public_key)
        if not self._epochs:
            raise self._error("has no word for dropping sessions alone")
        await self._client.set([*existing(public_key), ("drop_sessions", "true"), ("handshake", "now")])

    async def _replaced(self, peer: PeerSpec, psk: Secret) -> list[Line]:
        """Removes the peer, which drops its sessions, and adds it again where it roamed to: one operation."""
        now = (await self._client.get(always=False)).peers.get(peer.public_key)
        if now is not None and usable(now.endpoint):
            peer = replace(peer, endpoint=now.endpoint)
        return [*removed(peer.public_key), *added(peer, psk)]

    async def _give(self, lines: list[Line], *, always: bool = False) -> None:
        """Carry out ``lines``, which may begin with the removal of a peer that is added again behind it. A program that
        cannot change a peer does not take it back in the same operation (boringtun, all releases up to 0.7.1)."""
        again = 0 if self._updates or lines[1][0] != "remove" else 2
        if again:
            await self._client.set(lines[:again], always=always)
        await self._client.set(lines[again:], always=always)

    async def _add_again(self, peer: PeerSpec) -> None:
        """Change what an engine cannot change in a peer that is there: its sessions end, its key stays."""
        held = self._held.get(peer.public_key)
        if held is None:
            held = _Held(Secret.random(self._random_bytes, KEY_SIZE), None)
        await self._give([*removed(peer.public_key), *added(peer, held.psk)])
        ledger = self._ledgers[peer.public_key]
        ledger.blocked()
        if held.epoch is not None:
            ledger.installed(held.epoch, self._clocks.boot())

    def _hold(self, public_key: bytes, psk: Secret, epoch: int | None) -> None:
        if not self._updates:
            held, self._held[public_key] = self._held.get(public_key), _Held(psk.copy(), epoch)
            if held is not None:
                held.psk.wipe()

    def _let_go(self, public_key: bytes) -> None:
        held = self._held.pop(public_key, None)
        if held is not None:
            held.psk.wipe()

    def _forget(self, public_key: bytes) -> None:
        self._peers.pop(public_key, None)
        self._ledgers.pop(public_key, None)
        self._dates.forget(public_key)
        self._let_go(public_key)

    def _forget_all(self) -> None:
        self._listen_port = 0
        for public_key in tuple(self._peers):
            self._forget(public_key)

    async def stats(self) -> dict[bytes, PeerStats]:
        asked = self._clocks.boot()
        device = await self._client.get()
        look = self._clocks.moment(asked)
        told, self._told = self._told, {}
        for public_key, peer in device.peers.items():
            before = told.get(public_key)
            # What a ledger has to tell changes by the time alone.
            same = self._epochs and before is not None and before[0] is peer
            self._told[public_key] = before if same and before is not None else (peer, self._peer_stats(peer, look))
        return {public_key: stats for public_key, (_, stats) in self._told.items()}

    def _peer_stats(self, peer: DevicePeer, look: Moment) -> PeerStats:
        epoch, newest, handshake = None, None, peer.last_handshake
        if not self._updates:  # boringtun; others tell the date, of 1970 too where no clock runs on battery
            handshake = self._dates.of(peer.public_key, handshake, look)
        if self._epochs:
            epoch = self._reported_epoch(peer.values.get("epoch"))
        elif (ledger := self._ledgers.get(peer.public_key)) is not None:
            epoch, newest = ledger.in_force(handshake, look), ledger.newest
        endpoint = peer.endpoint if usable(peer.endpoint) else None
        record_mode = peer.values.get("record_mode", "") if peer.values.get("record_mode_state") == "active" else ""
        reason = peer.values.get("record_mode_reason", "")
        counts = peer.rx_bytes, peer.tx_bytes
        packets = peer.packets if self._epochs else None
        return PeerStats(endpoint, handshake, *counts, epoch, record_mode, reason, newest, packets)

    def _reported_epoch(self, text: str | None) -> int | None:
        if text is None:
            return None
        if not text.isascii() or not text.isdecimal():
            raise self._error("told an epoch that is not a number")
        return int(text)

    def _known(self, public_key: bytes) -> PeerSpec:
        peer = self._peers.get(public_key)
        if peer is None:
            raise self._error("was told of a peer that it was never given")
        return peer

    def _check_key(self, key: Secret, what: str) -> None:
        if len(key) != KEY_SIZE:
            raise self._error(f"a {what} has {KEY_SIZE} bytes, not {len(key)}")

    def _error(self, what: str) -> EngineError:
        return EngineError(f"engine {self.name} of {self._interface} {what}")


def _msec(seconds: float) -> int:
    return max(0, int(seconds * 1000))
