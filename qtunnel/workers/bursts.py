"""What a worker does with a burst: a function of memory and keys, without any state of a peer."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from qtunnel.offload.coalesce import Coalescer
from qtunnel.offload.errors import OffloadError
from qtunnel.offload.split import Splitter
from qtunnel.wireguard.messages import MIN_DATA_SIZE, TYPE_DATA
from qtunnel.wireguard.packets import ip_length
from qtunnel.wireguard.record_burst import ReceiveBuffer, whole_record
from qtunnel.wireguard.record_cut import RecordCutter
from qtunnel.wireguard.record_format import TAG_SIZE
from qtunnel.wireguard.rows import MAX_RUN, RowOpener, RowSealer
from qtunnel.wireguard.session import RECORD_SUITES
from qtunnel.workers.messages import (
    FORGET,
    IN_SIZE,
    KEY_SIZE,
    NOTHING_MISSING,
    OUT_SIZE,
    REGION,
    RESULT,
    SESSION,
    SUITES,
    TASK,
    WRITE,
    Kind,
    Result,
    Status,
    Task,
    slot_places,
)

_MAX_CUTTERS: Final = 4
"""Datagram sizes of records that buffers are kept for, 250 kB each: one for each MTU that the tunnel had lately."""

_nonce: Final = struct.Struct("<4xQ").pack

Cipher = Callable[..., int]


class _Ciphers(NamedTuple):
    """encrypt_into and decrypt_into of a session, and of its records."""

    seal: Cipher
    unseal: Cipher
    seal_record: Cipher | None = None
    unseal_record: Cipher | None = None


class BurstWorker:
    """Answers messages about bursts in ``memory``, of REGION bytes. udp_segments: whether the TUN takes UDP bursts."""

    def __init__(self, memory: memoryview, *, udp_segments: bool) -> None:
        if len(memory) != REGION:
            raise ValueError(f"a worker's memory has {REGION} bytes")
        self._memory = memory
        self._sessions: dict[int, _Ciphers] = {}
        self._packet = bytearray(IN_SIZE)
        self._packet_view = memoryview(self._packet)
        self._splitter = Splitter(self._packet)
        self._sealer = RowSealer(self._splitter.output)
        self._received = ReceiveBuffer(IN_SIZE)
        self._opener = RowOpener(self._received.bytes)
        self._plain = memoryview(self._opener.buffer)
        self._coalescer = Coalescer(self._opener.buffer, udp_segments)
        self._cutters: dict[int, RecordCutter] = {}
        self._work = {
            Kind.SEAL_RUN: self._seal_run,
            Kind.OPEN_RUN: self._open_run,
            Kind.SEAL_RECORD: self._seal_record,
            Kind.OPEN_RECORD: self._open_record,
        }

    def answer(self, message: bytes) -> bytes | None:
        """Do what a message asks for; the answer, which messages about sessions have none of."""
        kind = message[0]
        if kind == Kind.SESSION:
            self._learn(message)
            return None
        if kind == Kind.FORGET:
            self._sessions.pop(FORGET.unpack(message)[1], None)
            return None
        task = Task._make(TASK.unpack(message))
        place, out = slot_places(task.slot)
        source = self._memory[place : place + task.length]
        target = self._memory[out : out + OUT_SIZE]
        ciphers = self._sessions.get(task.session)
        if ciphers is None:
            return RESULT.pack(*Result(Status.ODD, task.slot))
        try:
            answer = self._work[Kind(kind)](task, ciphers, source, target)
        except (InvalidTag, OffloadError):
            answer = None
        except Exception as error:  # a burst leaves nothing behind: none is worth the end of a worker
            return RESULT.pack(*Result(Status.BROKEN, task.slot)) + type(error).__name__.encode()
        return answer or RESULT.pack(*Result(Status.ODD, task.slot))

    def _learn(self, message: bytes) -> None:
        _, index, suite = SESSION.unpack_from(message)
        keys = [message[at : at + KEY_SIZE] for at in range(SESSION.size, len(message), KEY_SIZE)]
        ciphers = _Ciphers(ChaCha20Poly1305(keys[0]).encrypt_into, ChaCha20Poly1305(keys[1]).decrypt_into)
        if suite:
            _, aead = RECORD_SUITES[SUITES[suite - 1]]
            ciphers = ciphers._replace(seal_record=aead(keys[2]).encrypt_into, unseal_record=aead(keys[3]).decrypt_into)
        self._sessions[index] = ciphers

    def _seal_run(self, task: Task, ciphers: _Ciphers, source: memoryview, target: memoryview) -> bytes | None:
        """A super-packet with its vnet header becomes data messages, one after the other."""
        self._packet_view[: task.length] = source
        split = self._splitter.split(0, task.length, task.mtu)
        size = split.stride + MIN_DATA_SIZE
        if split.count * size > OUT_SIZE:
            return None
        end = 0
        for first in range(0, split.count, MAX_RUN):
            count = min(MAX_RUN, split.count - first)
            last = split.last_padded if first + count == split.count else split.stride
            counter = task.counter + first
            sealed = self._sealer.seal(ciphers.seal, task.remote, counter, split.stride, first, count, last)
            target[end : end + len(sealed)] = sealed
            end += len(sealed)
        return RESULT.pack(*Result(Status.DONE, task.slot, end, size, split.count, task.counter))

    def _open_run(self, task: Task, ciphers: _Ciphers, source: memoryview, target: memoryview) -> bytes | None:
        """Data messages of one session with counters in a row become writes to a TUN, one after the other."""
        self._received.view[: task.length] = source
        rows = self._opener.look(0, task.length, task.size)
        if rows is None or rows.kind != TYPE_DATA or rows.index != task.session:
            return None
        counters = self._opener.unseal(rows, ciphers.unseal)
        first, count = counters[0], rows.count
        if counters != list(range(first, first + count)):
            return None
        lengths = self._opener.lengths_of_one_flow(rows)
        if not lengths:
            lengths = [ip_length(self._plain, row * rows.stride, size) for row, size in enumerate(rows.sizes)]
            if not all(lengths):
                return None
        sizes = []
        end = 0
        for write in self._coalescer.coalesce_mixed(0, rows.stride, lengths):
            start = end
            end = _put(write, target, end)
            sizes.append(end - start)
        result = RESULT.pack(*Result(Status.DONE, task.slot, end, task.size, count, first))
        return result + b"".join(map(WRITE.pack, sizes))

    def _seal_record(self, task: Task, ciphers: _Ciphers, source: memoryview, target: memoryview) -> bytes | None:
        """Items, each behind its vnet header, become the datagrams of one record."""
        if ciphers.seal_record is None:
            return None
        cutter = self._cutters.get(task.size)
        if cutter is None:
            if len(self._cutters) >= _MAX_CUTTERS:
                self._cutters.clear()
            cutter = self._cutters[task.size] = RecordCutter(task.size)
        datagrams = cutter.cut(ciphers.seal_record, source, task.remote, task.counter, parity=bool(task.parity))
        target[: len(datagrams)] = datagrams
        return RESULT.pack(*Result(Status.DONE, task.slot, len(datagrams), task.size, 0, task.counter))

    def _open_record(self, task: Task, ciphers: _Ciphers, source: memoryview, target: memoryview) -> bytes | None:
        """The datagrams of one whole record become its plaintext."""
        if ciphers.unseal_record is None:
            return None
        self._received.view[: task.length] = source
        record = whole_record(self._received, 0, task.length, task.size)
        if record is None:
            return None
        length = record.end - record.start - TAG_SIZE
        sealed = record.buffer[record.start : record.end]
        ciphers.unseal_record(_nonce(record.counter), sealed, None, target[:length])
        missing = NOTHING_MISSING if record.missing < 0 else record.missing
        result = Result(Status.DONE, task.slot, length, record.size, record.expected, record.counter, missing)
        return RESULT.pack(*result)


def _put(pieces: Iterable[bytes | bytearray | memoryview], target: memoryview, end: int) -> int:
    for piece in pieces:
        start, end = end, end + len(piece)
        target[start:end] = piece
    return end
