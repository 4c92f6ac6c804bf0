"""Making and answering handshake messages: WireGuard's IKpsk2 (white paper sections 5.4.2 to 5.4.7)."""

from __future__ import annotations

import logging

from qtunnel.crypto import dh
from qtunnel.crypto.aead import AuthenticationError
from qtunnel.secret import Secret
from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.epoch_label import EpochLabel
from qtunnel.wireguard.limits import INITIATION_INTERVAL, MAX_HANDSHAKE_ATTEMPTS, REKEY_TIMEOUT
from qtunnel.wireguard.messages import CookieReply, Initiation, MessageError, Response
from qtunnel.wireguard.noise import INITIATION_TOKENS, RESPONSE_TOKENS, KeyPair, NoiseHandshake
from qtunnel.wireguard.peer import LabelledPsk, Peer, PendingInitiation, short_key
from qtunnel.wireguard.session import RECORD_SUITES, Keypair, RecordKeys
from qtunnel.wireguard.state import DeviceState, Drop
from qtunnel.wireguard.timers import Timer

CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"

log = logging.getLogger(__name__)


class RejectedError(Exception):
    """A message that is dropped, for the reason given."""

    def __init__(self, reason: Drop) -> None:
        super().__init__(reason)
        self.reason = reason


class Handshakes:
    """Handshakes of all peers of a device. Outgoing messages go to the state's outbox."""

    def __init__(self, state: DeviceState) -> None:
        self._state = state

    def initiate(self, peer: Peer, now: float, *, retry: bool = False, at_once: bool = False) -> None:
        """Send an initiation, unless one went out (or was answered) less than REKEY_TIMEOUT ago.

        at_once: whatever was sent before.
        """
        state = self._state
        if not retry:
            peer.handshake_attempts = 0
        if state.static is None or not state.up:
            return
        if not at_once and now - peer.last_initiation_sent < REKEY_TIMEOUT:
            return
        if peer.endpoint is None:
            state.drops[Drop.NO_ENDPOINT] += 1
            return
        peer.last_initiation_sent = now  # before anything is computed, so that what fails is not tried for every packet
        handshake = self._begin(initiator=True, remote=peer.public_key)
        try:
            ephemeral, static = handshake.write(INITIATION_TOKENS)
        except dh.LowOrderPointError:
            log.warning("peer=%s msg=%r", short_key(peer.public_key), "its public key is of low order; no handshake")
            return
        timestamp = handshake.write_payload(peer.timestamps.next(state.host.unix_ns()))
        state.drop_pending(peer)
        index = state.new_index()
        peer.pending = PendingInitiation(index, handshake)
        state.pending[index] = peer
        peer.initiated_with_psk = True
        self._send(peer, Initiation(index, ephemeral, static, timestamp).pack(), now)
        peer.timers.initiation_sent(now)
        log.debug("peer=%s msg=%r", short_key(peer.public_key), "handshake initiation sent")

    def initiate_with_new_psk(self, peer: Peer, now: float) -> None:
        """Start a handshake at once if none was started with the present preshared key."""
        self.initiate(peer, now, at_once=not peer.initiated_with_psk)

    def on_initiation(self, data: memoryview, endpoint: Endpoint, now: float) -> Peer:
        """Answer an initiation from the peer returned; raises ``RejectedError``."""
        state = self._state
        try:
            message = Initiation.unpack(data)
        except MessageError:
            raise RejectedError(Drop.MALFORMED) from None
        self._admit(data, message.sender, endpoint, now)
        handshake = self._begin(initiator=False, remote=None)
        try:
            handshake.read(INITIATION_TOKENS[:3], (message.ephemeral, message.static))
            peer = state.peers.get(handshake.rs)
            if peer is None:
                raise RejectedError(Drop.UNKNOWN_PEER)
            handshake.read(INITIATION_TOKENS[3:], ())
            timestamp = handshake.read_payload(message.timestamp)
        except (AuthenticationError, dh.LowOrderPointError):
            raise RejectedError(Drop.BAD_HANDSHAKE) from None
        if timestamp <= peer.last_timestamp:
            raise RejectedError(Drop.REPLAYED_HANDSHAKE)
        if now - peer.last_initiation_received < INITIATION_INTERVAL:
            raise RejectedError(Drop.FLOOD)
        peer.last_timestamp = timestamp
        peer.last_initiation_received = now
        peer.endpoint = endpoint
        peer.rx_bytes += len(data)
        peer.timers.authenticated_received(now)
        self._respond(peer, handshake, message.sender, now)  # keys of low order were found out above
        return peer

    def _respond(self, peer: Peer, handshake: NoiseHandshake, remote_index: int, now: float) -> None:
        state = self._state
        if peer.psk.label.over(now):
            raise RejectedError(Drop.EXPIRED)
        (ephemeral,) = handshake.write(RESPONSE_TOKENS)
        handshake.mix_psk(peer.psk.psk)
        empty = handshake.write_payload(b"")
        index = state.new_index()
        self._add_keypair(peer, handshake, index, remote_index, peer.psk.label, now, initiator=False)
        # An answer counts as a start, so that both ends do not rekey at once.
        peer.last_initiation_sent = now
        self._send(peer, Response(index, remote_index, ephemeral, empty).pack(), now)
        peer.timers.session_derived(now)

    def on_response(self, data: memoryview, endpoint: Endpoint, now: float) -> Peer:
        """Finish our handshake with the peer returned; raises ``RejectedError``."""
        state = self._state
        try:
            message = Response.unpack(data)
        except MessageError:
            raise RejectedError(Drop.MALFORMED) from None
        self._admit(data, message.sender, endpoint, now)
        peer = state.pending.get(message.receiver)
        if peer is None or peer.pending is None:
            raise RejectedError(Drop.UNKNOWN_INDEX)
        read = self._read_response(peer, peer.pending, message, now)
        if read is None:
            raise RejectedError(Drop.BAD_HANDSHAKE)
        handshake, used = read
        index = peer.pending.local_index
        state.drop_pending(peer)
        peer.endpoint = endpoint
        peer.rx_bytes += len(data)
        peer.timers.authenticated_received(now)
        self._add_keypair(peer, handshake, index, message.sender, used.label, now, initiator=True)
        peer.timers.session_derived(now)
        self.complete(peer, now)
        if used is not peer.psk:
            self._retry_with_present_psk(peer, now)
        return peer

    def _read_response(
        self, peer: Peer, pending: PendingInitiation, message: Response, now: float
    ) -> tuple[NoiseHandshake, LabelledPsk] | None:
        """Try the present preshared key, then the previous one, where they have not ended; on copies, since a forged
        response must not harm."""
        received = pending.handshake.fork()
        try:
            received.read(RESPONSE_TOKENS, (message.ephemeral,))
            for candidate in (peer.psk, peer.previous_psk):
                if candidate is None or candidate.label.over(now):
                    continue
                attempt = received.fork()
                attempt.mix_psk(candidate.psk)
                try:
                    attempt.read_payload(message.empty)
                except AuthenticationError:
                    continue
                return attempt, candidate
        except dh.LowOrderPointError:
            pass
        return None

    def _retry_with_present_psk(self, peer: Peer, now: float) -> None:
        # The peer has not switched yet: the session is good, but not of the epoch wanted.
        peer.mismatched_responses += 1
        if peer.mismatched_responses <= MAX_HANDSHAKE_ATTEMPTS:
            peer.timers.initiation_sent(now)

    def on_cookie_reply(self, data: memoryview, now: float) -> None:
        """Keep the cookie for the next message to that peer; the retransmission brings it there."""
        try:
            message = CookieReply.unpack(data)
        except MessageError:
            raise RejectedError(Drop.MALFORMED) from None
        keypair = self._state.sessions.get(message.receiver)
        peer = self._state.pending.get(message.receiver) if keypair is None else keypair.peer
        if peer is None:
            raise RejectedError(Drop.UNKNOWN_INDEX)
        if not peer.cookies.accept(message, now):
            raise RejectedError(Drop.BAD_COOKIE)
        peer.rx_bytes += len(data)

    def complete(self, peer: Peer, now: float) -> None:
        """Both ends are known to have the session."""
        peer.timers.disarm(Timer.RETRANSMIT)
        peer.handshake_attempts = 0
        peer.sent_last_minute_handshake = False
        peer.last_handshake_unix_ns = self._state.host.unix_ns()
        if peer.records.suite:
            peer.records.probe_from(now)
            peer.timers.arm(Timer.RECORD, now)
        log.debug("peer=%s msg=%r", short_key(peer.public_key), "handshake complete")

    def _begin(self, *, initiator: bool, remote: bytes | None) -> NoiseHandshake:
        static = self._state.static
        assert static is not None
        return NoiseHandshake(
            CONSTRUCTION,
            IDENTIFIER,
            initiator=initiator,
            static=static,
            ephemeral=lambda: KeyPair.of(Secret.random(self._state.host.random_bytes, dh.KEY_SIZE)),
            remote_static=remote,
        )

    def _admit(self, data: memoryview, sender: int, endpoint: Endpoint, now: float) -> None:
        """mac1 always, under load also the source's cookie and rate, before anything is computed."""
        state = self._state
        if state.checker is None:
            raise RejectedError(Drop.NO_PRIVATE_KEY)
        if not state.checker.mac1_is_valid(data):
            raise RejectedError(Drop.BAD_MAC1)
        if not state.gauge.under_load(now):
            return
        if not state.checker.mac2_is_valid(data, endpoint, now):
            state.outbox.append((endpoint, state.checker.reply(data, sender, endpoint, now).pack()))
            raise RejectedError(Drop.COOKIE_REQUIRED)
        if not state.limiter.allow(endpoint, now):
            raise RejectedError(Drop.RATE_LIMITED)

    def _add_keypair(
        self,
        peer: Peer,
        handshake: NoiseHandshake,
        local_index: int,
        remote_index: int,
        label: EpochLabel,
        now: float,
        *,
        initiator: bool,
    ) -> None:
        state = self._state
        suite = peer.records.suite
        keys = handshake.split()
        record_keys = handshake.split(RECORD_SUITES[suite][0].value) if suite else None
        state.host.session_began(local_index, keys, suite, record_keys)
        keypair = Keypair(
            peer,
            keys,
            initiator=initiator,
            local_index=local_index,
            remote_index=remote_index,
            label=label,
            created=now,
            created_unix_ns=state.host.unix_ns(),
            records=RecordKeys(suite, record_keys, state.join_buffers) if record_keys is not None else None,
        )
        handshake.wipe()
        state.sessions[local_index] = keypair
        state.forget(peer.keypairs.add(keypair))

    def _send(self, peer: Peer, message: bytes, now: float) -> None:
        assert peer.endpoint is not None
        signed = peer.cookies.sign(message, now)
        peer.tx_bytes += len(signed)
        peer.timers.authenticated_sent(now)
        self._state.outbox.append((peer.endpoint, signed))
