"""What people get to see of a benchmark."""

from __future__ import annotations

import os

from rich.table import Table

from qtunnel.bench.handshake import Outcome as HandshakeOutcome
from qtunnel.bench.hub import Outcome as HubOutcome
from qtunnel.bench.rekey import Outcome
from qtunnel.bench.tunnel import Line, Race


def race_table(race: Race) -> Table:
    """Medians next to each other, and their ratio."""
    options, link = race.options, race.options.link
    kind = options.mode if options.mode == "standard" else f"{options.mode} mode, {options.suite}"
    words = [kind, "link cuts to datagrams" if link.cuts else "link takes super-packets"]
    if link.loss:
        words.append(f"{link.loss:g} % loss")
    if link.delay_ms:
        words.append(f"{link.delay_ms:g} ms delay")
    if link.congestion:
        words.append(link.congestion)
    notes = [f"medians of {options.rounds} rounds, {options.seconds:g} s each; {options.processors} processors"]
    notes += [f"record mode ended as {state}" for state in sorted(set(race.records)) if state != "active"]
    table = Table(title=", ".join(words), caption="\n".join(notes))
    table.add_column("", no_wrap=True)
    table.add_column("qtunnel wg", justify="right", no_wrap=True)
    table.add_column(os.path.basename(race.rival), justify="right", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    for line in race.lines:
        mine, its = line.medians
        table.add_row(f"{line.metric.title}, {line.metric.unit}", _figure(mine), _figure(its), _ratio(line))
    return table


def rekey_table(outcome: Outcome) -> Table:
    """What was lost with and without rekeys."""
    table = Table(
        title=f"{outcome.options.rekeys} rekeys, one each {outcome.options.interval:g} s; {outcome.in_force} in force",
        caption=f"{outcome.rate:,.0f} packets/s of a capacity of {outcome.capacity:,.0f}; {os.cpu_count()} processors",
    )
    table.add_column("", no_wrap=True)
    for heading in ("sent", "lost", "of them in the TUN's queue"):
        table.add_column(heading, justify="right")
    for name, stretch in (("with rekeys", outcome.during), ("without", outcome.without)):
        table.add_row(name, f"{stretch.counted.sent:,}", f"{stretch.lost:,}", f"{stretch.queue_drops:,}")
    return table


def handshake_table(outcome: HandshakeOutcome) -> Table:
    """One line for each case."""
    number = len(next(iter(outcome.samples.values())).cpu)
    table = Table(
        title=f"one rekey, both ends together; {number} of each",
        caption="processor time of the rekeying cores; bytes of UDP payload, both ways",
    )
    table.add_column("", no_wrap=True)
    table.add_column("with", no_wrap=True)
    for heading in ("CPU\nms", "latency ms\np50 / p99", "bytes", "data-\ngrams"):
        table.add_column(heading, justify="right", no_wrap=True)
    for case, samples in outcome.samples.items():
        its = samples.as_dict(case)
        table.add_row(
            f"{its['kem']} {its['cipher'].partition('-poly')[0]}", case.extras, f"{its['cpu_ms']:.2f}",
            f"{its['latency_p50_ms']:.2f} / {its['latency_p99_ms']:.2f}", f"{its['wire_bytes']:,}",
            f"{its['datagrams']:g}",
        )  # fmt: skip
    return table


def hub_table(outcome: HubOutcome) -> Table:
    """Processor time and memory by program."""
    options, whole = outcome.options, outcome.round
    failed = sum(whole.failed.values())
    its = whole.as_dict()
    table = Table(
        title=f"{options.peers:,} peers, {'a QKD key each rekey' if options.qkd else 'without QKD'}: ready after "
        f"{outcome.ready:.1f} s, all up after {outcome.up:.1f} s",
        caption=f"the round: {whole.done:,} rekeys, {failed} failed; p50 {its['rekey_p50_ms']:.0f} ms, p99 "
        f"{its['rekey_p99_ms']:.0f} ms\nqtunnel check {outcome.check:.1f} s, status {outcome.status:.2f} s; "
        f"{os.cpu_count()} processors",
    )
    table.add_column("", no_wrap=True)
    for heading in ("idle, % of a core", f"a round in {options.round:g} s, %", "memory, MB", "at most, MB"):
        table.add_column(heading, justify="right")
    for name, (now, peak) in outcome.memory.items():
        table.add_row(
            name, f"{outcome.idle.cpu[name]:.1f}", f"{whole.cpu[name]:.1f}", f"{now / 1e6:.0f}", f"{peak / 1e6:.0f}"
        )
    return table


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _ratio(line: Line) -> str:
    return "" if line.ratio is None else f"{line.ratio:.2f}"
