"""Runs of data messages: many packets of one peer sealed, or opened, with a few calls for all of them, and accounted
for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cryptography.exceptions import InvalidTag

from qtunnel.wireguard.endpoint import Endpoint
from qtunnel.wireguard.limits import REJECT_AFTER_MESSAGES
from qtunnel.wireguard.messages import DATA_HEADER, MIN_DATA_SIZE, TYPE_DATA
from qtunnel.wireguard.peer import Peer
from qtunnel.wireguard.rows import MAX_RUN, RowOpener, Rows, RowSealer
from qtunnel.wireguard.session import Keypair
from qtunnel.wireguard.state import DeviceState, Drop
from qtunnel.wireguard.transport import Transport


class RunSealer:
    """Seals runs of packets for peers, and accounts for them."""

    def __init__(self, transport: Transport, source: bytearray) -> None:
        self._transport = transport
        self._rows = RowSealer(source)

    def seal(
        self, peer: Peer, keypair: Keypair, stride: int, first: int, count: int, last: int, now: float
    ) -> tuple[memoryview, int]:
        """What ``RowSealer.seal`` gives, and the size of all messages but the last.

        The session is one that may send.
        """
        counter = keypair.send_counter
        keypair.send_counter = counter + count
        sealed = self._rows.seal(keypair.seal, keypair.remote_index, counter, stride, first, count, last)
        self._transport.sent(peer, keypair, len(sealed), now, data=True)
        return sealed, stride + MIN_DATA_SIZE


class OpenedRun(NamedTuple):
    """Packets of one peer at ``buffer[i * stride :]``; lengths: bytes of each, 0 for one that was dropped."""

    peer: Peer
    stride: int
    lengths: list[int]


class RunOpener:
    """Opens data messages of one size that lie one after the other; the packets are in ``buffer``."""

    def __init__(self, state: DeviceState, transport: Transport, source: bytearray) -> None:
        self._state = state
        self._transport = transport
        self._source = source
        self._view = memoryview(source)
        self._rows = RowOpener(source)
        self.buffer = self._rows.buffer
        self._plain = memoryview(self.buffer)

    def open(self, offset: int, length: int, size: int, endpoint: Endpoint, now: float) -> Iterator[OpenedRun]:
        """The messages at ``source[offset : offset + length]``, each of ``size`` bytes, the last perhaps shorter.

        One result for each session that is met; each is valid until the next.
        """
        if length <= size * MAX_RUN:
            return self._open_part(offset, length, size, endpoint, now)
        return self._open_parts(offset, length, size, endpoint, now)

    def _open_parts(self, offset: int, length: int, size: int, endpoint: Endpoint, now: float) -> Iterator[OpenedRun]:
        while length > 0:
            part = min(length, size * MAX_RUN)
            yield from self._open_part(offset, part, size, endpoint, now)
            offset, length = offset + part, length - part

    def _open_part(self, offset: int, length: int, size: int, endpoint: Endpoint, now: float) -> Iterator[OpenedRun]:
        rows = self._rows.look(offset, length, size)
        if rows is None:
            yield from self._singly(offset, length, size, endpoint, now)
            return
        if rows.kind != TYPE_DATA:
            self._state.drops[Drop.MALFORMED] += rows.count
            return
        keypair = self._state.receiving(rows.index, rows.count, now)
        if keypair is None:
            return
        try:
            counters = self._rows.unseal(rows, keypair.unseal)
        except InvalidTag:
            yield from self._singly(offset, length, size, endpoint, now)
            return
        peer = keypair.peer
        replayed = self._replayed(keypair, counters)
        if replayed:
            over = sum(counters[row] >= REJECT_AFTER_MESSAGES for row in replayed)
            self._state.drops[Drop.EXPIRED] += over
            self._state.drops[Drop.REPLAYED] += len(replayed) - over
            if len(replayed) == rows.count:
                return
            length -= sum(size if row < rows.full else rows.last for row in replayed)
        self._transport.authenticated(peer, keypair, endpoint, now)
        peer.rx_bytes += length
        if rows.full or rows.last > MIN_DATA_SIZE:
            peer.timers.data_received(now)
        yield OpenedRun(peer, rows.stride, self._inner_lengths(peer, rows, replayed))

    @staticmethod
    def _replayed(keypair: Keypair, counters: list[int]) -> set[int]:
        """The numbers of the messages that are not new, or have a counter beyond the last that may be used."""
        first, count = counters[0], len(counters)
        in_order = counters == list(range(first, first + count))
        if in_order and counters[-1] < REJECT_AFTER_MESSAGES and keypair.window.accept_run(first, count):
            return set()
        accept = keypair.window.accept
        return {row for row, counter in enumerate(counters) if counter >= REJECT_AFTER_MESSAGES or not accept(counter)}

    def _inner_lengths(self, peer: Peer, rows: Rows, replayed: set[int]) -> list[int]:
        """Bytes of each packet without its padding, 0 where it is not to be delivered."""
        check, stride, count = self._transport.inner_length, rows.stride, rows.count
        if not replayed:
            # Usually all are of one flow: then its source address is looked up once.
            lengths = self._rows.lengths_of_one_flow(rows)
            if lengths:
                if check(peer, self._plain, 0, stride):
                    return lengths
                self._state.drops[Drop.WRONG_SOURCE] += count - 1
                return [0] * count
        return [
            check(peer, self._plain, row * stride, size) if size and row not in replayed else 0
            for row, size in enumerate(rows.sizes)
        ]

    def _singly(self, offset: int, length: int, size: int, endpoint: Endpoint, now: float) -> Iterator[OpenedRun]:
        """The same, message by message."""
        for start in range(offset, offset + length, size):
            packet = self._transport.open(self._view[start : min(start + size, offset + length)], endpoint, now)
            if packet is not None:
                self._plain[: len(packet)] = packet
                _, index, _ = DATA_HEADER.unpack_from(self._source, start)
                yield OpenedRun(self._state.sessions[index].peer, len(packet), [len(packet)])
