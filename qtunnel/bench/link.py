"""The two ends' networks and the link between them, which may cut, drop and delay."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from qtunnel.bench.options import LinkOptions
from qtunnel.errors import BenchError
from qtunnel.sandbox.delaying import DEVICE, delay_forwarding
from qtunnel.sandbox.namespaces import Network
from qtunnel.sandbox.programs import call

ENDS = ("alice", "bob")
ADDRESS = {"alice": "10.99.1.1", "bob": "10.99.2.1"}
"""The outer addresses."""

_ROUTER_SIDE = {"alice": "10.99.1.2", "bob": "10.99.2.2"}
_TCP_BUFFERS = "4096 131072 67108864"
"""Least, initial and most bytes: the kernel's 6 MB of window would hold TCP to 2.4 Gbit/s at 20 ms, whoever tunnels."""

_CONGESTION = "/proc/sys/net/ipv4/tcp_congestion_control"

_PROBABILITY_STEPS = 1_000_000
"""nft compares whole numbers: a step is 0.0001 percent of loss."""


class Link:
    """Networks ``alice`` and ``bob``, joined by a veth, or by two with a ``router`` between them; MTU 1500.

    In the router nft or iptables drops, and a program delays. There is none where there is nothing for it to do, as it
    would cost time. The programs end with the sandbox.
    """

    def __init__(self, options: LinkOptions) -> None:
        self.networks = {name: Network() for name in ENDS}
        self.router: Network | None = None
        if options.routed:
            self.router = Network()
            for name in ENDS:
                join(self.networks[name], "wan", self.router, f"to-{name}")
                self._address(name)
            with self.router.entered():
                for name in ENDS:
                    call("ip", "addr", "add", f"{_ROUTER_SIDE[name]}/24", "dev", f"to-{name}")
                    call("ip", "link", "set", f"to-{name}", "up")
                Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        else:
            join(self.networks["alice"], "wan", self.networks["bob"], "wan")
            for name in ENDS:
                self._address(name)
        for name, far in zip(ENDS, reversed(ENDS), strict=True):
            via = ["via", _ROUTER_SIDE[name]] if self.router else []
            with self.networks[name].entered():
                call("ip", "route", "add", f"{ADDRESS[far]}/32", *via, "dev", "wan")
                if options.cuts:
                    _cut("wan")
                if options.congestion:
                    Path(_CONGESTION).write_text(options.congestion)
                if options.delay_ms:
                    for direction in ("rmem", "wmem"):
                        Path(f"/proc/sys/net/ipv4/tcp_{direction}").write_text(_TCP_BUFFERS)
        if self.router is not None:
            with self.router.entered():
                if options.cuts:
                    for name in ENDS:
                        _cut(f"to-{name}")
                if options.loss:
                    _dropper()(options.loss)
                if options.delay_ms:
                    delay_forwarding((f"to-{name}" for name in ENDS), options.delay_ms / 2000)

    def _address(self, name: str) -> None:
        with self.networks[name].entered():
            call("ip", "addr", "add", f"{ADDRESS[name]}/24", "dev", "wan")
            call("ip", "link", "set", "wan", "up")


def congestion_control() -> str:
    """What TCP uses where nothing else is asked for."""
    return Path(_CONGESTION).read_text().strip()


def join(here: Network, near: str, there: Network, far: str) -> None:
    """A veth between two networks, by its name at either end; down, and without addresses."""
    with here.entered():
        call("ip", "link", "add", near, "type", "veth", "peer", "name", "far-end")
        call("ip", "link", "set", "far-end", "netns", f"/proc/self/fd/{there.descriptor}", fd=there.descriptor)
    with there.entered():
        call("ip", "link", "set", "far-end", "name", far)


def _cut(interface: str) -> None:
    """From here on the interface gets single datagrams: the kernel cuts super-packets before it."""
    call("ethtool", "-K", interface, "tx-udp-segmentation", "off")


def _dropper() -> Callable[[float], None]:
    """How to drop a share of what is forwarded. Raises ``BenchError`` where neither nft nor iptables is there."""
    if shutil.which("nft"):
        return _drop_by_nft
    if shutil.which("iptables"):
        return _drop_by_iptables
    raise BenchError("--loss needs nft or iptables; install (Debian): apt-get install nftables")


def _drop_by_nft(percent: float) -> None:
    below = round(percent / 100 * _PROBABILITY_STEPS)
    call("nft", "add", "table", "ip", "bench")
    call("nft", "add", "chain", "ip", "bench", "forward", "{ type filter hook forward priority 0; }")
    call(
        "nft", "add", "rule", "ip", "bench", "forward", "iifname", "!=", DEVICE, "meta", "l4proto", "udp",
        "numgen", "random", "mod", str(_PROBABILITY_STEPS), "<", str(below), "drop",
    )  # fmt: skip


def _drop_by_iptables(percent: float) -> None:
    call(
        "iptables", "-A", "FORWARD", "!", "-i", DEVICE, "-p", "udp",
        "-m", "statistic", "--mode", "random", "--probability", f"{percent / 100:.9f}", "-j", "DROP",
    )  # fmt: skip
