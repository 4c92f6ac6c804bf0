"""Record mode of a device's peers: sealing and opening records under their sessions, reports and their timer."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag

from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.peer import Peer, short_key
from qtunnel.wireguard.record_burst import ReceiveBuffer, Record, stretches, whole_record
from qtunnel.wireguard.record_cut import RecordCutter
from qtunnel.wireguard.record_format import (
    HEADER,
    HEADER_SIZE,
    MAX_BUFFER,
    MAX_COUNTER,
    NUMBERS,
    TAG_SIZE,
    capacity,
    datagram_size,
    fragments,
)
from qtunnel.wireguard.record_link import NEVER, REPORT_INTERVAL, RecordEvent
from qtunnel.wireguard.record_plain import PlainError, Report, take_items
from qtunnel.wireguard.session import Keypair, RecordKeys
from qtunnel.wireguard.state import DeviceState, Drop
from qtunnel.wireguard.timers import Timer
from qtunnel.wireguard.transport import DATA_OVERHEAD, Transport

Opened = tuple[Peer, list[memoryview]]
"""A peer and packets of it."""


class Order(NamedTuple):
    """What a record is to be made with elsewhere. keys: whose counter it takes. size: of its datagrams, in bytes."""

    keypair: Keypair
    keys: RecordKeys
    size: int
    parity: bool


_OPENED: Final = 2 * MAX_BUFFER
"""Bytes of plaintext at once: as many as a burst brings, and a record that was waiting."""

_nonce: Final = struct.Struct("<4xQ").pack

log = logging.getLogger(__name__)


class Records:
    """Returned views are of buffers that the next call overwrites."""

    def __init__(self, state: DeviceState, transport: Transport) -> None:
        self._state = state
        self._transport = transport
        self._cutter: RecordCutter | None = None
        self._mtu = 0
        self._opened = memoryview(bytearray(_OPENED))

    def set_suite(self, peer: Peer, suite: str, now: float) -> None:
        """Switch record mode on with this AEAD, or off with an empty name. It begins with the next session."""
        peer.records.set_suite(suite, now)
        if suite:
            peer.timers.arm(Timer.RECORD, now)
        else:
            peer.timers.disarm(Timer.RECORD)

    def cutter(self) -> RecordCutter | None:
        """What cuts records at the present MTU; None where that is too small for records."""
        if self._state.mtu != self._mtu:
            self._mtu = self._state.mtu
            size = datagram_size(self._mtu + DATA_OVERHEAD)
            self._cutter = RecordCutter(size) if size else None
        return self._cutter

    def max_plain(self, peer: Peer, now: float) -> int:
        """Bytes that a record to the peer should have at most; 0 where records don't go there now."""
        if not peer.records.suite or not peer.records.active:  # most peers have none, and this is asked for every read
            return 0
        keypair, cutter = peer.keypairs.current, self.cutter()
        if keypair is None or keypair.records is None or cutter is None or not keypair.may_send(now):
            return 0
        if not keypair.records.may_send():
            return 0
        return capacity(peer.records.sizer.count, cutter.size)

    def seal(self, peer: Peer, plain: memoryview, now: float) -> tuple[memoryview, int]:
        """The datagrams of a record with packets, one after the other, and the size of all but the last.

        Only where ``max_plain`` was not 0; ``plain`` may be as long as the cutter's ``max_plain``.
        """
        keypair, keys = self._sending(peer, now)
        return self._seal(peer, keypair, keys, plain, now, data=True)

    def order(self, peer: Peer, length: int, now: float) -> Order | None:
        """As ``seal`` for ``length`` bytes of packets, but for somebody else to make; whoever takes it takes the
        counter, too, and what comes of it is to be accounted for by ``Transport.sent``.

        None for a record of one fragment: whether it goes out twice, and how large both are, tells ``seal`` alone.
        """
        cutter = self.cutter()
        assert cutter is not None
        if fragments(length, cutter.size) == 1:
            return None
        keypair, keys = self._sending(peer, now)
        return Order(keypair, keys, cutter.size, peer.records.sizer.parity)

    def seal_many(
        self, peer: Peer, plains: Sequence[memoryview], most: int, now: float
    ) -> Iterator[tuple[memoryview, int]]:
        """The same for several records; those with parity side by side, up to ``most`` bytes of datagrams in one piece.

        Each is valid until the next.
        """
        keypair, keys = self._sending(peer, now)
        cutter = self.cutter()
        assert cutter is not None
        size, parity = cutter.size, peer.records.sizer.parity
        burst, at = memoryview(b""), 0
        for length, alike in groupby(plains, len):
            left = list(alike)
            if not 0 < length <= cutter.max_plain:
                self._state.drops[Drop.BAD_PACKET] += len(left)
                continue
            count = fragments(length, size)
            while left:
                room = min(most // size - at // size, cutter.room(at)) // (count + 1)
                if at and (not room or count == 1):
                    yield burst, size
                    at = 0
                    continue
                if count == 1:
                    yield self._seal(peer, keypair, keys, left.pop(0), now, data=True)
                    continue
                several = left[: max(room, 1) if parity else 1]
                del left[: len(several)]
                counter = keys.send_counter
                keys.send_counter = counter + len(several)
                burst = cutter.cut_alike(keys.seal, several, keypair.remote_index, counter, parity=parity, at=at)
                self._transport.sent(peer, keypair, len(burst) - at, now, data=True)
                at = len(burst)
                if at % size:  # the last datagram is a shorter one, and ends the burst
                    yield burst, size
                    at = 0
        if at:
            yield burst, size

    def _sending(self, peer: Peer, now: float) -> tuple[Keypair, RecordKeys]:
        keypair = peer.keypairs.current
        assert keypair is not None
        assert keypair.records is not None
        link = peer.records
        link.use_session(keypair.local_index)
        before = link.next_look
        if link.data_sent(keypair.records.send_counter, now) is not None:
            self._say(peer)
        if link.next_look < before or not link.active:
            self._wake(peer, link.next_look)
        return keypair, keypair.records

    def _seal(
        self, peer: Peer, keypair: Keypair, keys: RecordKeys, plain: memoryview, now: float, *, data: bool
    ) -> tuple[memoryview, int]:
        cutter = self.cutter()
        assert cutter is not None
        counter = keys.send_counter
        keys.send_counter = counter + 1
        single = fragments(len(plain), cutter.size) == 1
        parity = peer.records.sizer.doubles(len(plain), now) if single else peer.records.sizer.parity
        datagrams = cutter.cut(keys.seal, plain, keypair.remote_index, counter, parity=parity)
        self._transport.sent(peer, keypair, len(datagrams), now, data=data)
        return datagrams, len(datagrams) // (1 + parity) if single else cutter.size

    def open_burst(
        self, buffer: ReceiveBuffer, offset: int, length: int, size: int, endpoint: Endpoint, now: float
    ) -> Iterator[Opened]:
        """Datagrams of ``size`` bytes one after the other, the last perhaps shorter; a peer and the packets of records
        of its that became whole, each behind its vnet header.

        Sources and headers of the packets are not checked yet. Packets are valid until the next step.
        """
        keypair: Keypair | None = None
        packets: list[memoryview] = []
        at = known = 0
        heard = False
        for start, stretch in stretches(buffer, offset, length, size):
            if min(size, stretch) <= HEADER_SIZE:
                self._state.drops[Drop.MALFORMED] += -(-stretch // size)
                continue
            _, _, count, _, index, tail = HEADER.unpack_from(buffer.bytes, start)
            if keypair is None or index != known:
                if packets and keypair is not None:
                    yield keypair.peer, packets
                    packets, at = [], 0
                keypair, known = self._session(index, -(-stretch // size), now), index
                heard = False
            if keypair is None:
                continue
            keys = keypair.records
            assert keys is not None
            numbers = buffer.bytes[start + 1 : start + stretch : size]
            counter = tail & MAX_COUNTER
            if keys.window.seen(counter):
                keys.joiner.late(counter, numbers)
                continue
            # A record of which something waits is not healed here: what seems to be missing may be that.
            record = None
            if numbers[:count] == NUMBERS[:count] or counter not in keys.joiner:
                record = whole_record(buffer, start, stretch, size)
            if record is None:
                record = keys.joiner.add_stretch(buffer.view[start : start + stretch], size, numbers, endpoint)
            if record is None:
                continue
            needed = record.end - record.start - TAG_SIZE
            if at + needed > _OPENED:
                if packets:
                    yield keypair.peer, packets
                packets, at = [], 0
            plain = self._opened[at : at + needed]
            if not self._unseal(keys, record, plain):
                continue
            at += needed
            if not heard:
                heard = True
                self._transport.authenticated(keypair.peer, keypair, endpoint, now)
            self._take(keypair, keys, record, plain, packets, now)
        if packets and keypair is not None:
            yield keypair.peer, packets

    def _session(self, index: int, datagrams: int, now: float) -> Keypair | None:
        """The session with that receiver index, if it has records; else None, and counted."""
        keypair = self._state.receiving(index, datagrams, now)
        if keypair is not None and keypair.records is None:
            self._state.drops[Drop.UNKNOWN_INDEX] += datagrams
            return None
        return keypair

    def _unseal(self, keys: RecordKeys, record: Record, plain: memoryview) -> bool:
        """Decrypt the record into ``plain``; False where it is not authentic, and counted."""
        try:
            keys.unseal(_nonce(record.counter), record.buffer[record.start : record.end], None, plain)
        except InvalidTag:
            self._state.drops[Drop.BAD_TAG] += 1
            keys.joiner.counters.spoiled += 1
            return False
        keys.accept(record.counter)
        keys.joiner.authentic(record)
        return True

    def opened(
        self, keypair: Keypair, record: Record, plain: memoryview, endpoint: Endpoint, now: float
    ) -> list[memoryview]:
        """The packets of an authentic record that somebody else opened; as ``open_burst`` gives them."""
        keys = keypair.records
        packets: list[memoryview] = []
        if keys is None or not keys.accept(record.counter):
            self._state.drops[Drop.REPLAYED] += 1
            return packets
        keys.joiner.authentic(record)
        self._transport.authenticated(keypair.peer, keypair, endpoint, now)
        self._take(keypair, keys, record, plain, packets, now)
        return packets

    def _take(
        self,
        keypair: Keypair,
        keys: RecordKeys,
        record: Record,
        plain: memoryview,
        packets: list[memoryview],
        now: float,
    ) -> None:
        """Append the packets of an authentic record, and heed its reports."""
        peer = keypair.peer
        peer.rx_bytes += record.size
        before = len(packets)
        try:
            for report in take_items(plain, packets):
                self._reported(peer, keypair, keys, report, now)
        except PlainError:
            self._state.drops[Drop.BAD_PACKET] += 1
        if len(packets) > before:
            peer.timers.data_received(now)
            if keys.reported:
                self._report_soon(peer, keys, now)

    def _reported(self, peer: Peer, keypair: Keypair, keys: RecordKeys, report: Report, now: float) -> None:
        if report.question:
            self._report_soon(peer, keys, now)
        if keypair is not peer.keypairs.current:
            return
        link = peer.records
        link.use_session(keypair.local_index)
        event = link.reported(report, keys.send_counter, now, keypair.heard)
        if event is RecordEvent.CONFIRMED:
            log.info("peer=%s suite=%s msg=%r", short_key(peer.public_key), keys.suite, "record mode is on")
        elif event in (RecordEvent.LOSSY, RecordEvent.SPOILED):
            self._say(peer)
            peer.timers.arm(Timer.RECORD, now)

    def _report_soon(self, peer: Peer, keys: RecordKeys, now: float) -> None:
        keys.reported = False
        self._wake(peer, max(now, keys.last_report + REPORT_INTERVAL))

    @staticmethod
    def _wake(peer: Peer, due: float) -> None:
        """Have the timer go off at that time at the latest."""
        if peer.timers.at[Timer.RECORD] > due:
            peer.timers.arm(Timer.RECORD, due)

    def tick(self, peer: Peer, now: float) -> None:
        """The RECORD timer: report, and ask a peer that has not answered."""
        link, keypair = peer.records, peer.keypairs.current
        if not link.suite:
            return
        keys = keypair.records if keypair is not None else None
        if link.silent(keys.send_counter if keys is not None else 0, now) is not None:
            self._say(peer)
        asks = link.probe_due(now)
        if keypair is not None and peer.endpoint is not None:
            # Each under the session that it is about: both ends that began a handshake at once send under their own.
            for other in peer.keypairs.previous:
                if self._unreported(other):
                    self._send_report(peer, other, peer.endpoint, now, question=False)
            if asks or self._unreported(keypair):
                self._send_report(peer, keypair, peer.endpoint, now, question=asks)
        link.rest(keypair.send_counter + keypair.heard if keypair is not None else 0, now)
        if not link.active or link.next_look < NEVER:
            peer.timers.arm(Timer.RECORD, max(link.next_look, now + REPORT_INTERVAL))

    @staticmethod
    def _unreported(keypair: Keypair) -> bool:
        return keypair.records is not None and not keypair.records.reported

    def _send_report(self, peer: Peer, keypair: Keypair, endpoint: Endpoint, now: float, *, question: bool) -> None:
        keys = keypair.records
        if keys is None or not keys.may_send() or not keypair.may_send(now) or self.cutter() is None:
            return
        keys.reported, keys.last_report = True, now
        report = memoryview(keys.report(question=question).pack())
        datagrams, size = self._seal(peer, keypair, keys, report, now, data=False)
        for at in range(0, len(datagrams), size):  # one, or the same twice
            self._state.outbox.append((endpoint, bytes(datagrams[at : at + size])))

    def _say(self, peer: Peer) -> None:
        log.warning(
            "peer=%s msg=%r", short_key(peer.public_key), f"record mode falls back to standard: {peer.records.reason}"
        )
