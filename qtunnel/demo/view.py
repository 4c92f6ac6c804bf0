"""The run as a live table, and in words at the end."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from qtunnel.control.messages import PeerStatus
from qtunnel.control.words import PROTECTION_WORDS, amount, duration, next_rekey
from qtunnel.demo.observe import FULL, Observer
from qtunnel.demo.options import DemoOptions
from qtunnel.demo.verdict import Summary


@dataclass(slots=True)
class Progress:
    """What the table shows besides the gateways' status."""

    elapsed: float = 0.0
    pings_sent: int = 0
    pings_overdue: int = 0
    rtt_ms: float = 0.0
    load: str = "waiting"
    kmes: str = ""


BESIDE = 80
"""Columns for two gateways side by side; on fewer they stand one below the other."""


def live_view(options: DemoOptions, observer: Observer, progress: Progress, width: int = BESIDE) -> RenderableType:
    """Both gateways, side by side where ``width`` columns allow it, and the run's counters below."""
    names = list(observer.sides)
    groups = [names] if width >= BESIDE else [[name] for name in names]
    tables = [_table(observer, group, narrow=width < BESIDE) for group in groups]
    done = min(progress.elapsed, options.seconds)
    counters = Table.grid(padding=(0, 2))
    counters.add_row("run", f"{done:.0f} of {options.seconds:.0f} s")
    counters.add_row("KMEs", Text(progress.kmes, style="red" if "stopped" in progress.kmes else ""))
    counters.add_row("rekeys", f"{observer.rekeys} in force at both ends, one every {options.interval:g} s")
    unanswered = Text(f"{progress.pings_overdue} unanswered", style="red" if progress.pings_overdue else "green")
    counters.add_row(
        "pings", Text(f"{progress.pings_sent} sent, ").append(unanswered).append(f", {progress.rtt_ms:.2f} ms")
    )
    counters.add_row("iperf3", progress.load)
    counters.add_row("", ProgressBar(total=options.seconds, completed=done, width=min(60, width - 12)))
    return Group(*tables, counters)


def _table(observer: Observer, names: list[str], *, narrow: bool) -> Table:
    title = None if narrow else "qtunnel demo: two gateways, two KMEs, one tunnel"
    table = Table(title=title, title_style="bold", expand=False)
    table.add_column("", style="dim", no_wrap=True)
    for name in names:
        table.add_column(name, min_width=None if narrow else 29, max_width=40, overflow="fold")
    rows = [_rows(observer.sides[name].peer) for name in names]
    for index, (label, _) in enumerate(rows[0]):
        table.add_row(label, *(column[index][1] for column in rows))
    return table


def _rows(peer: PeerStatus | None) -> list[tuple[str, RenderableType]]:
    if peer is None:
        labels = ("protection", "epoch", "sources", "key_ID", "next rekey", "transfer", "last error")
        return [(label, Text("does not answer" if label == "protection" else "-", style="red")) for label in labels]
    colour = "green" if peer.protection == FULL else "yellow" if peer.protected else "red"
    installed, in_force = peer.epoch_installed, peer.epoch_in_force
    return [
        ("protection", Text(PROTECTION_WORDS[peer.protection], style=colour)),
        ("epoch", Text(f"{'-' if in_force is None else in_force} in force, {installed or '-'} installed")),
        ("sources", Text(", ".join(peer.sources) or "-")),
        ("key_ID", Text(", ".join(key.key_id for key in peer.key_ids) or "-")),
        ("next rekey", Text(next_rekey(peer))),
        ("transfer", Text(f"{amount(peer.rx_bytes)} received, {amount(peer.tx_bytes)} sent")),
        ("last error", Text(_error(peer), style="red" if peer.last_error else "")),
    ]


def _error(peer: PeerStatus) -> str:
    return f"{peer.last_error} ({duration(peer.last_error_age_s)} ago)" if peer.last_error else "none"


def in_words(summary: Summary, options: DemoOptions) -> str:
    """The summary for people."""
    gbps = summary.throughput_gbps
    throughput = "throughput not measured" if gbps is None else f"{gbps:.2f} Gbit/s"
    lines = [
        f"{'OK' if summary.ok else 'NOT OK'}: {summary.seconds:g} s of traffic through the tunnel",
        f"  {summary.rekeys} rekeys came into force at both ends, one every {options.interval:g} s",
        f"  {summary.pings_sent} pings sent, {summary.pings_lost} lost",
        f"  {throughput} (one TCP connection, both gateways on this machine)",
        f"  protected by {', '.join(summary.sources) or 'nothing'} ({summary.protection})",
        "  the QKD keys come from two embedded KMEs and are simulated",
    ]
    if summary.errors:
        lines.append("What happened:" if summary.ok else "What went wrong, or happened:")
        lines += [f"  {error}" for error in summary.errors]
    return "\n".join(lines)
