"""What is measured of a pair of engines, and how."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from qtunnel.bench import tools
from qtunnel.bench.engine import Pair

GIGABYTE = 1e9
UDP_SIZES = (64, 512, 1372)
"""Bytes of payload; 1,372 and the inner headers make 1,400, which fits the tunnel's MTU of 1,420."""

WARM_UP = 1.0
"""Seconds of four flows that count for nothing: they bring offloads and buffers to where they stay."""

Value = float


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the table. key: in the JSON object. higher: whether more is better; ``None`` where it is a remark."""

    key: str
    title: str
    unit: str
    higher: bool | None


METRICS: tuple[Metric, ...] = (
    Metric("tcp1_forth_gbps", "TCP, one flow, forth", "Gbit/s", True),
    Metric("tcp1_back_gbps", "TCP, one flow, back", "Gbit/s", True),
    Metric("cpu_seconds_per_gb", "processor time, both ends", "s/GB", False),
    Metric("tcp4_forth_gbps", "TCP, four flows, forth", "Gbit/s", True),
    Metric("tcp4_back_gbps", "TCP, four flows, back", "Gbit/s", True),
    *(
        metric
        for size in UDP_SIZES
        for metric in (
            Metric(f"udp{size}_pps", f"UDP, {size:,} bytes, received", "packets/s", True),
            Metric(f"udp{size}_offered_pps", f"UDP, {size:,} bytes, offered", "packets/s", None),
            Metric(f"udp{size}_loss_percent", f"UDP, {size:,} bytes, lost", "%", None),
        )
    ),
    Metric("rtt_idle_p50_ms", "round trip, idle, median", "ms", False),
    Metric("rtt_idle_p99_ms", "round trip, idle, 99 of 100", "ms", False),
    Metric("rtt_load_p50_ms", "round trip under load, median", "ms", False),
    Metric("rtt_load_p99_ms", "round trip under load, 99 of 100", "ms", False),
    Metric("send_gbps", "sealed and sent by one end alone", "Gbit/s", True),
    Metric("memory_mb", "peak memory of one end", "MB", False),
)


def _tcp1(pair: Pair, seconds: float) -> Iterator[tuple[str, Value]]:
    received, spent = 0, pair.cpu_seconds()
    for direction, back in (("forth", False), ("back", True)):
        transfer = tools.tcp(pair, 1, seconds, back=back)
        received += transfer.received
        yield f"tcp1_{direction}_gbps", transfer.gbps
    yield "cpu_seconds_per_gb", (pair.cpu_seconds() - spent) / (received / GIGABYTE)


def _tcp4(pair: Pair, seconds: float) -> Iterator[tuple[str, Value]]:
    for direction, back in (("forth", False), ("back", True)):
        yield f"tcp4_{direction}_gbps", tools.tcp(pair, 4, seconds, back=back).gbps


def _udp(pair: Pair, seconds: float) -> Iterator[tuple[str, Value]]:
    for size in UDP_SIZES:
        counted = tools.udp(pair, size, seconds)
        yield f"udp{size}_pps", counted.in_time / seconds
        yield f"udp{size}_offered_pps", counted.sent / seconds
        yield f"udp{size}_loss_percent", 100 * (1 - counted.received / counted.sent) if counted.sent else 0.0


def _rtt(pair: Pair, seconds: float) -> Iterator[tuple[str, Value]]:
    idle = tools.echoes(pair, seconds)
    yield "rtt_idle_p50_ms", idle.p50
    yield "rtt_idle_p99_ms", idle.p99
    loaded = tools.echoes_under_load(pair, seconds)
    yield "rtt_load_p50_ms", loaded.p50
    yield "rtt_load_p99_ms", loaded.p99


def _memory(pair: Pair, seconds: float) -> Iterator[tuple[str, Value]]:
    del seconds  # of all that went before
    yield "memory_mb", pair.peak_memory() / 1e6


def _send(pair: Pair, seconds: float) -> Iterator[tuple[str, Value]]:
    with tools.dropped_at(pair, "bob"), tools.super_packets(pair, seconds + tools.LEAD):
        time.sleep(tools.LEAD)
        began, before = time.monotonic(), pair.sent_bytes("alice")
        time.sleep(seconds - tools.LEAD)
        sent, elapsed = pair.sent_bytes("alice") - before, time.monotonic() - began
    yield "send_gbps", 8 * sent / elapsed / GIGABYTE


KINDS: dict[str, Callable[[Pair, float], Iterator[tuple[str, Value]]]] = {
    "tcp1": _tcp1,
    "tcp4": _tcp4,
    "udp": _udp,
    "rtt": _rtt,
    "memory": _memory,
    "send": _send,
}
"""Name on the command line, and the measurement: gives metrics one by one, as they are there."""


def measure(pair: Pair, kinds: tuple[str, ...], seconds: float) -> Iterator[tuple[str, Value]]:
    """All of those kinds, after a warm-up."""
    tools.await_up(pair)
    tools.tcp(pair, 4, WARM_UP, back=False)
    for kind in kinds:
        yield from KINDS[kind](pair, seconds)
