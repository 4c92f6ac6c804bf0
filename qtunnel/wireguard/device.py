"""The WireGuard device without I/O: one entry for everything that happens to it.

Every call takes ``now``, monotonic seconds that also count suspended time. Datagrams that answer at once are in
``outbox`` after any call; the caller sends and clears them.
"""

from __future__ import annotations

import logging
from collections import Counter

from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.handshakes import Handshakes, RejectedError
from qtunnel.wireguard.limits import MAX_HANDSHAKE_ATTEMPTS
from qtunnel.wireguard.messages import (
    TYPE_COOKIE_REPLY,
    TYPE_DATA,
    TYPE_INITIATION,
    TYPE_RESPONSE,
    message_type,
)
from qtunnel.wireguard.peer import Peer, short_key
from qtunnel.wireguard.records import Records
from qtunnel.wireguard.state import DeviceState, Drop, Host
from qtunnel.wireguard.timers import Timer
from qtunnel.wireguard.transport import Transport

log = logging.getLogger(__name__)


class Device:
    """One interface with its peers."""

    def __init__(self, host: Host) -> None:
        self.state = DeviceState(host)
        self.handshakes = Handshakes(self.state)
        self.transport = Transport(self.state, self.handshakes)
        self.records = Records(self.state, self.transport)
        self._on_timer = {
            Timer.RETRANSMIT: self._retransmit,
            Timer.KEEPALIVE: self._keepalive,
            Timer.NEW_HANDSHAKE: self._new_handshake,
            Timer.ZERO_KEYS: self._zero_keys,
            Timer.PERSISTENT: self._persistent_keepalive,
            Timer.PREVIOUS_PSK: self._previous_psk_over,
            Timer.RECORD: self.records.tick,
            Timer.PSK_ENDS: self._psk_ends,
        }

    @property
    def outbox(self) -> list[tuple[Endpoint, bytes]]:
        """Datagrams to send, oldest first."""
        return self.state.outbox

    @property
    def drops(self) -> Counter[Drop]:
        """What was dropped, by reason."""
        return self.state.drops

    def receive(self, data: memoryview, endpoint: Endpoint, now: float) -> memoryview | None:
        """A datagram from the network; the IP packet to write to the TUN, if it carried one.

        The view is valid until the next call.
        """
        if not self.admits(endpoint, 1):
            return None
        if message_type(data) == TYPE_DATA:
            return self.transport.open(data, endpoint, now)
        self.handle(data, endpoint, now)
        return None

    def admits(self, endpoint: Endpoint, count: int) -> bool:
        """Whether ``count`` datagrams from there are looked at at all; counted where not."""
        if not self.state.up:
            self.state.drops[Drop.LINK_DOWN] += count
        elif not endpoint[1]:  # nobody can be answered there, and no tool would take it as an endpoint
            self.state.drops[Drop.BAD_SOURCE] += count
        else:
            return True
        return False

    def handle(self, data: memoryview, endpoint: Endpoint, now: float) -> None:
        """A message that is neither data nor a record."""
        kind = message_type(data)
        try:
            if kind == TYPE_INITIATION:
                self.handshakes.on_initiation(data, endpoint, now)
            elif kind == TYPE_RESPONSE:
                peer = self.handshakes.on_response(data, endpoint, now)
                self.transport.send_keepalive(peer, now)  # the responder may send only once it heard from us
            elif kind == TYPE_COOKIE_REPLY:
                self.handshakes.on_cookie_reply(data, now)
            else:
                raise RejectedError(Drop.MALFORMED)
        except RejectedError as rejected:
            self.state.drops[rejected.reason] += 1

    def next_deadline(self) -> float:
        """When ``tick`` must be called; infinite where nothing is pending."""
        if self.state.allowed_ips.unswept:
            return float("-inf")
        return self.state.schedule.next_deadline()

    def tick(self, now: float) -> None:
        """Run the timers that are due, and a piece of what can wait."""
        for peer, timer in self.state.schedule.due(now):
            self._on_timer[timer](peer, now)
        self.state.allowed_ips.sweep()

    def link_up(self, now: float) -> None:
        """The interface was set up. Raises ``OSError`` where no UDP port can be had."""
        state = self.state
        if state.up:
            return
        if not state.listen_port:
            state.listen_port = state.host.bind(0, state.fwmark)
        state.up = True
        log.info("msg=%r port=%d", "link is up", state.listen_port)
        for peer in state.peers.values():
            if peer.timers.persistent:
                self.transport.send_keepalive(peer, now)

    def link_down(self) -> None:
        """The interface was set down: sessions end, as a peer of the kernel's sees it."""
        state = self.state
        if not state.up:
            return
        state.up = False
        log.info("msg=%r", "link is down")
        for peer in state.peers.values():
            state.wipe_sessions(peer)
            peer.wipe_previous_psk()
            peer.timers.stop()
            peer.timers.psk_set(peer.psk.label.ends)  # which a link that comes up again does not put off

    def close(self) -> None:
        """Wipe every key."""
        state = self.state
        state.up = False
        for peer in list(state.peers.values()):
            state.remove_peer(peer)
        state.set_static(None)
        state.outbox.clear()

    def _retransmit(self, peer: Peer, now: float) -> None:
        peer.handshake_attempts += 1
        if peer.handshake_attempts <= MAX_HANDSHAKE_ATTEMPTS:
            peer.forget_source()  # perhaps the reason
            self.handshakes.initiate(peer, now, retry=True)
            return
        log.info("peer=%s msg=%r", short_key(peer.public_key), "handshake given up: no answer for 90 s")
        self.state.drops[Drop.GIVEN_UP] += len(peer.staged)
        peer.staged.clear()
        self.state.drop_pending(peer)
        peer.timers.disarm(Timer.KEEPALIVE)
        peer.timers.given_up(now)

    def _new_handshake(self, peer: Peer, now: float) -> None:
        peer.forget_source()  # perhaps the reason why nothing comes back
        self.handshakes.initiate(peer, now)

    def _keepalive(self, peer: Peer, now: float) -> None:
        self.transport.send_keepalive(peer, now)
        if peer.timers.another_keepalive:
            peer.timers.another_keepalive = False
            peer.timers.data_received(now)

    def _persistent_keepalive(self, peer: Peer, now: float) -> None:
        if not peer.timers.persistent:
            return
        peer.timers.arm(Timer.PERSISTENT, now + peer.timers.persistent)  # sending re-arms it; not being able does not
        self.transport.send_keepalive(peer, now)

    def _previous_psk_over(self, peer: Peer, now: float) -> None:
        peer.wipe_previous_psk()

    def _psk_ends(self, peer: Peer, now: float) -> None:
        """Nobody has renewed the key in time, perhaps because whoever should has died: no traffic any more."""
        ended = peer.psk.epoch
        self.state.block(peer)
        peer.ended_epoch = ended
        log.warning(
            "peer=%s msg=%r", short_key(peer.public_key), f"epoch {ended} was not renewed in time: traffic is blocked"
        )

    def _zero_keys(self, peer: Peer, now: float) -> None:
        self.state.forget(peer.keypairs.clear())
        self.state.drop_pending(peer)
