"""Record mode of a device's peers: sealing and opening records under their sessions, reports and their timer."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag

from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.peer import Peer, short_key
from qtunnel.wireguard.record_cut import RecordCutter
from qtunnel.wireguard.record_format import (
    HEADER,
    HEADER_SIZE,
    MAX_BUFFER,
    TAG_SIZE,
    capacity,
    datagram_size,
    fragments,
)
from qtunnel.wireguard.record_join import ReceiveBuffer, Record, whole_record
from qtunnel.wireguard.record_link import REPORT_INTERVAL, RecordEvent
from qtunnel.wireguard.record_plain import PlainError, Report, take_items
from qtunnel.wireguard.session import Keypair, RecordKeys
from qtunnel.wireguard.state import DeviceState, Drop
from qtunnel.wireguard.timers import Timer
from qtunnel.wireguard.transport import DATA_OVERHEAD, Transport

Opened = tuple[Peer, list[memoryview]]
"""A record's peer and its packets."""

_nonce: Final = struct.Struct("<4xQ").pack

log = logging.getLogger(__name__)


class Records:
    """Returned views are of buffers that the next call overwrites."""

    def __init__(self, state: DeviceState, transport: Transport) -> None:
        self._state = state
        self._transport = transport
        self._cutter: RecordCutter | None = None
        self._mtu = 0
        self._opened = memoryview(bytearray(MAX_BUFFER))

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

    def seal_many(
        self, peer: Peer, plains: Sequence[memoryview], most: int, now: float
    ) -> Iterator[tuple[memoryview, int]]:
        """The same for several records; those with parity side by side, up to ``most`` bytes of datagrams in one piece.

        Each is valid until the next.
        """
        keypair, keys = self._sending(peer, now)
        cutter = self.cutter()
        assert cutter is not None
        burst, at = memoryview(b""), 0
        for plain in plains:
            if not 0 < len(plain) <= cutter.max_plain:
                self._state.drops[Drop.BAD_PACKET] += 1
                continue
            needed = (fragments(len(plain), cutter.size) + 1) * cutter.size
            if at and (at + needed > most or not cutter.room(len(plain), at)):
                yield burst, cutter.size
                at = 0
            burst, _ = self._seal(peer, keypair, keys, plain, now, data=True, at=at)
            at = len(burst)
            if at % cutter.size:  # the last datagram is a shorter one, and ends the burst
                yield burst, cutter.size
                at = 0
        if at:
            yield burst, cutter.size

    def _sending(self, peer: Peer, now: float) -> tuple[Keypair, RecordKeys]:
        keypair = peer.keypairs.current
        assert keypair is not None
        assert keypair.records is not None
        link = peer.records
        link.use_session(keypair.local_index)
        if link.data_sent(keypair.records.send_counter, now) is not None:
            self._say(peer)
            peer.timers.arm(Timer.RECORD, link.next_probe)
        return keypair, keypair.records

    def _seal(
        self, peer: Peer, keypair: Keypair, keys: RecordKeys, plain: memoryview, now: float, *, data: bool, at: int = 0
    ) -> tuple[memoryview, int]:
        cutter = self.cutter()
        assert cutter is not None
        counter = keys.send_counter
        keys.send_counter = counter + 1
        parity = peer.records.sizer.parity
        datagrams = cutter.cut(keys.seal, plain, keypair.remote_index, counter, parity=parity, at=at)
        self._transport.sent(peer, keypair, len(datagrams) - at, now, data=data)
        return datagrams, cutter.size

    def open_burst(
        self, buffer: ReceiveBuffer, offset: int, length: int, size: int, endpoint: Endpoint, now: float
    ) -> Iterator[Opened]:
        """Datagrams of ``size`` bytes one after the other, the last perhaps shorter; for each record that is whole the
        peer, and the packets, each behind its vnet header.

        Sources and headers of the packets are not checked yet. Packets are valid until the next record.
        """
        end = offset + length
        while offset < end:
            unit, opened = self._open_first(buffer, offset, end - offset, size, endpoint, now)
            if opened is not None:
                yield opened
            offset += unit

    def _open_first(
        self, buffer: ReceiveBuffer, offset: int, left: int, size: int, endpoint: Endpoint, now: float
    ) -> tuple[int, Opened | None]:
        """The first record of a burst, or what its first datagram completes; and how many bytes that were."""
        unit = min(size, left)
        if unit > HEADER_SIZE:
            _, _, count, _, index, _ = HEADER.unpack_from(buffer.bytes, offset)
            keypair = self._state.sessions.get(index)
            if keypair is not None and keypair.records is not None and not keypair.expired(now):
                with_parity = (count + 1) * size
                whole = left if count > 1 else unit
                if count > 1 and left > with_parity:
                    whole = with_parity
                record = whole_record(buffer, offset, whole, size)
                if record is not None:
                    return whole, (keypair.peer, self._open(keypair, keypair.records, record, endpoint, now))
        return unit, self._open_one(buffer.view[offset : offset + unit], endpoint, now)

    def _open_one(self, datagram: memoryview, endpoint: Endpoint, now: float) -> Opened | None:
        if len(datagram) <= HEADER_SIZE:
            self._state.drops[Drop.MALFORMED] += 1
            return None
        keypair = self._session(HEADER.unpack_from(datagram)[4], now)
        if keypair is None or keypair.records is None:
            return None
        record = keypair.records.joiner.add(datagram)
        return None if record is None else (keypair.peer, self._open(keypair, keypair.records, record, endpoint, now))

    def _session(self, index: int, now: float) -> Keypair | None:
        keypair = self._state.sessions.get(index)
        if keypair is None or keypair.records is None:
            self._state.drops[Drop.UNKNOWN_INDEX] += 1
            return None
        if keypair.expired(now):
            self._state.drops[Drop.EXPIRED] += 1
            return None
        return keypair

    def _open(
        self, keypair: Keypair, keys: RecordKeys, record: Record, endpoint: Endpoint, now: float
    ) -> list[memoryview]:
        drops, peer = self._state.drops, keypair.peer
        plain = self._opened[: record.end - record.start - TAG_SIZE]
        try:
            keys.unseal(_nonce(record.counter), record.buffer[record.start : record.end], None, plain)
        except InvalidTag:
            drops[Drop.BAD_TAG] += 1
            return []
        if not keys.accept(record.counter):
            drops[Drop.REPLAYED] += 1
            return []
        self._transport.authenticated(peer, keypair, endpoint, now)
        keys.joiner.authentic(record)
        peer.rx_bytes += record.size
        packets: list[memoryview] = []
        try:
            for report in take_items(plain, packets):
                self._reported(peer, keypair, keys, report, now)
        except PlainError:
            drops[Drop.BAD_PACKET] += 1
        if packets:
            peer.timers.data_received(now)
            # Under the present session, also where these came under one before: the report confirms it.
            current = peer.keypairs.current
            present = current.records if current is not None and current.records is not None else keys
            if present.reported:
                self._report_soon(peer, present, now)
        return packets

    def _reported(self, peer: Peer, keypair: Keypair, keys: RecordKeys, report: Report, now: float) -> None:
        if keypair is not peer.keypairs.current:
            return
        link = peer.records
        link.use_session(keypair.local_index)
        event = link.reported(report, keys.send_counter, now)
        if event is RecordEvent.CONFIRMED:
            log.info("peer=%s suite=%s msg=%r", short_key(peer.public_key), keys.suite, "record mode is on")
        elif event is RecordEvent.LOSSY:
            self._say(peer)
            peer.timers.arm(Timer.RECORD, now)
        if report.question:
            self._report_soon(peer, keys, now)

    @staticmethod
    def _report_soon(peer: Peer, keys: RecordKeys, now: float) -> None:
        keys.reported = False
        due = max(now, keys.last_report + REPORT_INTERVAL)
        if peer.timers.at[Timer.RECORD] > due:
            peer.timers.arm(Timer.RECORD, due)

    def tick(self, peer: Peer, now: float) -> None:
        """The RECORD timer: report, and ask a peer that has not answered."""
        link, keypair = peer.records, peer.keypairs.current
        if not link.suite:
            return
        asks = link.probe_due(now)
        if keypair is not None and peer.endpoint is not None and (asks or self._unreported(keypair)):
            self._send_report(peer, keypair, peer.endpoint, now, question=asks)
        link.rest(now)
        if not link.active:
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
        datagrams, _ = self._seal(peer, keypair, keys, report, now, data=False)
        self._state.outbox.append((endpoint, bytes(datagrams)))

    def _say(self, peer: Peer) -> None:
        log.warning(
            "peer=%s msg=%r", short_key(peer.public_key), f"record mode falls back to standard: {peer.records.reason}"
        )
