"""A plan in words, as JSON, and as a plot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qtunnel.errors import ConfigError, NetworkError
from qtunnel.qkdnet.plan import LinkOutcome, Plan, TunnelOutcome
from qtunnel.simulator.map_table import rate

DAY = 86_400.0
SHOWN = 3
"""Times of starving that the table names one by one."""
KEY_BITS = 256


def as_dict(plan: Plan) -> dict[str, Any]:
    """All of it. Times in seconds; an interval of ``None`` is one that no rate sustains."""
    return {
        "ok": plan.ok,
        "seconds": plan.seconds,
        "tunnels": [_tunnel(one, plan.seconds) for one in plan.tunnels],
        "links": [_link(one) for one in plan.links],
        "events": [
            {"time_s": round(one.at, 3), "place": one.place, "what": one.what, "detail": one.detail}
            for one in plan.happenings
        ],
    }


def _finite(value: float) -> float | None:
    return round(value, 9) if math.isfinite(value) else None


def _tunnel(one: TunnelOutcome, seconds: float) -> dict[str, Any]:
    return {
        "name": one.tunnel.name,
        "between": [one.tunnel.source, one.tunnel.target],
        "interval_s": one.tunnel.interval,
        "shortest_interval_s": _finite(one.interval),
        "rekeys_wanted": one.asked,
        "rekeys": one.served,
        "first_key_s": None if one.first is None else round(one.first, 3),
        "starves": bool(one.starved),
        "starving_s": round(one.starving_time(seconds), 3),
        "starved": [[round(since, 3), None if till is None else round(till, 3)] for since, till in one.starved],
        "paths": [list(path.nodes) for path in one.usual],
        "why": one.why or None,
    }


def _link(one: LinkOutcome) -> dict[str, Any]:
    return {
        "name": one.name,
        "mean_key_rate": round(one.rate, 3),
        "shortest_interval_s": _finite(one.interval),
        "tunnels": one.tunnels,
        "bits": {
            "made": one.made,
            "used": one.used,
            "stored": one.made - one.used - one.overflowed - one.discarded,
            "overflowed": one.overflowed,
            "discarded": one.discarded,
        },
        "lowest_stored": min(one.stored, default=0),
    }


def duration(seconds: float) -> str:
    """``2 d 3 h``: the two largest units that say something."""
    if not math.isfinite(seconds):
        return "never"
    if seconds < 120:
        return f"{seconds:.3g} s"
    parts: list[str] = []
    for size, unit in ((DAY, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size and len(parts) < 2:
            parts.append(f"{int(seconds // size)} {unit}")
            seconds %= size
    return " ".join(parts)


def show(plan: Plan, console: Console) -> None:
    """Tables, and a last line that says whether any tunnel starves."""
    console.print(_tunnels(plan), _links(plan))
    starving = [one for one in plan.tunnels if one.starved]
    for one in starving:
        first = one.starved[0][0]
        text = f"{one.tunnel.name} starves first after {duration(first)}: {one.why}"
        console.print(Text(text, style="red"))
    if not starving:
        console.print(Text(f"No tunnel starves in {duration(plan.seconds)}.", style="green"))


def _tunnels(plan: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("tunnel", "path", "interval", "shortest", "first key", "rekeys", "starves"):
        table.add_column(name, overflow="fold")
    for one in plan.tunnels:
        way = "\n".join(str(path) for path in one.usual) or "-"
        told = "no"
        if one.starved:
            times = [
                f"{duration(since)} to {'the end' if till is None else duration(till)}"
                for since, till in one.starved[:SHOWN]
            ]
            more = [f"and {len(one.starved) - SHOWN} times more"] if len(one.starved) > SHOWN else []
            told = "\n".join([f"{duration(one.starving_time(plan.seconds))} in all", *times, *more])
        table.add_row(
            one.tunnel.name,
            way,
            duration(one.tunnel.interval),
            duration(one.interval),
            duration(math.inf if one.first is None else one.first),
            f"{one.served} of {one.asked}",
            Text(told, style="red" if one.starved else "green"),
        )
    return table


def _links(plan: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("link", "mean rate", "shortest interval", "tunnels", "keys made", "used", "lowest store"):
        table.add_column(name, overflow="fold")
    for one in plan.links:
        table.add_row(
            one.name,
            rate(one.rate),
            duration(one.interval),
            ", ".join(one.tunnels) or "-",
            str(one.made // KEY_BITS),
            str(one.used // KEY_BITS),
            f"{min(one.stored, default=0) // KEY_BITS} keys",
        )
    return table


def plot(plan: Plan, file: Path) -> None:
    """Each link's store over time, and when tunnels starve, as PNG, SVG or PDF; raises ``ConfigError``."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("--plot needs matplotlib: pip install 'qtunnel[plots]'") from None
    hours = plan.seconds < 3 * DAY
    unit, size = ("hours", 3600.0) if hours else ("days", DAY)
    figure = Figure(figsize=(10, 5.5))
    axes = figure.subplots()
    times = [time / size for time in plan.times]
    for one in plan.links:
        axes.plot(times, [bits / KEY_BITS for bits in one.stored], label=one.name, linewidth=1.2)
    for number, outcome in enumerate(one for one in plan.tunnels if one.starved):
        for index, (since, till) in enumerate(outcome.starved):
            end = plan.seconds if till is None else till
            label = f"{outcome.tunnel.name} starves" if index == 0 else None
            axes.axvspan(since / size, end / size, alpha=0.25, color=f"C{3 + number}", label=label, linewidth=0)
    axes.set_xlabel(unit)
    axes.set_ylabel(f"keys of {KEY_BITS} bits in store")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, ncols=2)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    try:
        figure.savefig(file, dpi=120)
    except ValueError as error:
        raise ConfigError(f"--plot {file}: {str(error).splitlines()[0][:120]}; name it .png, .svg or .pdf") from None
    except OSError as error:
        raise NetworkError(f"--plot {file}: {(error.strerror or str(error)).lower()}; name another file") from None
