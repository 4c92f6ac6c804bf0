"""Pings an IPv4 address at a fixed pace and counts every echo exactly.

Run as a file of its own by ``python -I -S pinger.py ADDRESS INTERVAL`` (seconds). Prints a JSON object per line on
standard output: ``sent``, ``answered``, ``overdue`` (older than 2 s without an answer), ``rtt_ms``. When standard input
ends it stops sending, gives the last echoes 2 s, and prints the same with ``gaps``: runs of echoes that were never
answered, as [sent at, last sent at, count], and ``silences``: times without any answer, as [from, to], both in
monotonic seconds, ``shortest_ms``, ``p50_ms`` and ``p99_ms`` of the round-trip times. An echo that the kernel refuses
to send counts as sent and lost. RFC 792.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
import struct
import sys
import time

HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number
SERIAL = struct.Struct("!Q")  # in the payload, as 16 bits of sequence number wrap after 11 minutes at 100 a second
ECHO_REQUEST, ECHO_REPLY = 8, 0
PADDING = bytes(40)  # 84 bytes with the IPv4 header, as ping(8) sends
PATIENCE = 2.0
REPORT_EVERY = 0.25
SILENCE = 0.3
"""Seconds without an answer that are reported: more than a loaded machine makes us wait for the processor."""

QUANTILES = {"shortest_ms": 0, "p50_ms": 50, "p99_ms": 99}
"""Percent of the round-trip times that are shorter."""

MAX_BURST = 5
"""Echoes sent at once to make up for a moment without the processor; more would be load, not a measurement."""


def checksum(data: bytes) -> int:
    """The Internet checksum of RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_request(identifier: int, serial: int) -> bytes:
    """The ICMP message."""
    payload = SERIAL.pack(serial) + PADDING
    bare = HEADER.pack(ECHO_REQUEST, 0, 0, identifier, serial & 0xFFFF) + payload
    return HEADER.pack(ECHO_REQUEST, 0, checksum(bare), identifier, serial & 0xFFFF) + payload


def echo_reply(packet: bytes, identifier: int) -> int | None:
    """The serial number of an IPv4 packet that answers one of ours, else ``None``."""
    if len(packet) < 20:
        return None
    message = packet[(packet[0] & 15) * 4 :]
    if len(message) != HEADER.size + SERIAL.size + len(PADDING):
        return None
    kind, code, _, its, _ = HEADER.unpack_from(message)
    if (kind, code, its) != (ECHO_REPLY, 0, identifier) or checksum(message) != 0:
        return None
    serial: int = SERIAL.unpack_from(message, HEADER.size)[0]
    return serial


class Tally:
    """Which echoes are still out."""

    def __init__(self) -> None:
        self.sent = 0
        self.answered = 0
        self.rtts = array.array("d")  # seconds
        self.silences: list[tuple[float, float]] = []
        self._heard: float | None = None
        self._waiting: dict[int, float] = {}  # in the order sent
        self._overdue: dict[int, float] = {}

    def send(self, now: float) -> int:
        """One more goes out; its serial number."""
        serial = self.sent
        self.sent += 1
        self._waiting[serial] = now
        return serial

    def answer(self, serial: int, now: float) -> None:
        """An answer came; of duplicates only the first counts."""
        sent_at = self._waiting.pop(serial, None)
        if sent_at is None:
            sent_at = self._overdue.pop(serial, None)
        if sent_at is not None:
            self.answered += 1
            self.rtts.append(now - sent_at)
            self.hush(now)
            self._heard = now

    def hush(self, now: float) -> None:
        """Note the time since the last answer, where it is long."""
        if self._heard is not None and now - self._heard >= SILENCE:
            self.silences.append((self._heard, now))

    def age(self, now: float) -> None:
        """Call overdue what has waited for too long."""
        for serial, sent_at in list(self._waiting.items()):
            if now - sent_at < PATIENCE:
                break
            self._overdue[serial] = self._waiting.pop(serial)

    @property
    def outstanding(self) -> int:
        return len(self._waiting)

    def report(self) -> dict[str, object]:
        return {
            "sent": self.sent,
            "answered": self.answered,
            "overdue": len(self._overdue),
            "rtt_ms": round(self.rtts[-1] * 1000, 3) if self.rtts else 0.0,
        }

    def quantiles(self) -> dict[str, float | None]:
        """Of the round-trip times, in milliseconds; ``None`` where nothing was answered."""
        ranked = sorted(self.rtts)
        if not ranked:
            return dict.fromkeys(QUANTILES)
        return {name: round(ranked[len(ranked) * share // 100] * 1000, 4) for name, share in QUANTILES.items()}

    def gaps(self) -> list[tuple[float, float, int]]:
        """Runs of consecutive echoes without an answer: first sent at, last sent at, how many."""
        lost = sorted({**self._waiting, **self._overdue}.items())
        runs: list[tuple[float, float, int]] = []
        previous = -2
        for serial, sent_at in lost:
            if serial == previous + 1:
                first, _, count = runs[-1]
                runs[-1] = (first, sent_at, count + 1)
            else:
                runs.append((sent_at, sent_at, 1))
            previous = serial
        return runs


def run(address: str, interval: float) -> None:
    identifier = os.getpid() & 0xFFFF
    tally = Tally()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # some seconds of answers, if we are held up
        wire.connect((address, 0))
        wire.setblocking(False)
        sending = True
        due = reported = time.monotonic()
        stop_at = 0.0
        while sending or (tally.outstanding and time.monotonic() < stop_at):
            now = time.monotonic()
            if sending:
                due = max(due, now - MAX_BURST * interval)
                while due <= now:
                    due += interval
                    try:
                        wire.send(echo_request(identifier, tally.send(now)))
                    except OSError:
                        continue
            if now - reported >= REPORT_EVERY:
                reported = now
                tally.age(now)
                print(json.dumps(tally.report()), flush=True)
            wait = max(0.0, due - time.monotonic()) if sending else max(0.0, stop_at - time.monotonic())
            ready, _, _ = select.select([wire, sys.stdin] if sending else [wire], [], [], wait)
            if wire in ready:
                receive(wire, identifier, tally)
            if sys.stdin in ready and not os.read(sys.stdin.fileno(), 4096):
                sending = False
                stop_at = time.monotonic() + PATIENCE
    tally.hush(time.monotonic())
    last = {**tally.report(), **tally.quantiles(), "gaps": tally.gaps(), "silences": tally.silences}
    print(json.dumps(last), flush=True)


def receive(wire: socket.socket, identifier: int, tally: Tally) -> None:
    while True:
        try:
            packet = wire.recv(2048)
        except BlockingIOError:
            return
        except OSError:
            continue  # an ICMP error for an echo of ours: that echo stays unanswered
        serial = echo_reply(packet, identifier)
        if serial is not None:
            tally.answer(serial, time.monotonic())


if __name__ == "__main__":
    try:
        run(sys.argv[1], float(sys.argv[2]))
    except OSError as problem:
        sys.exit(f"pinger: {(problem.strerror or str(problem)).lower()}")
