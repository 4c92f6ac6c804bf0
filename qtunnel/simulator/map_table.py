"""The map as tables for people."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

STATE_COLOURS = {"up": "green", "alarmed": "bold red", "cut": "red", "no line of sight": "yellow"}

LEARNED = "own: keys of a node's SAEs; whole: keys of others that it knows; shares: parts of others' keys."


def show(told: dict[str, Any], console: Console) -> None:
    """Print what ``Service.map`` gave."""
    console.print(tables(told))


def tables(told: dict[str, Any]) -> Group:
    title = f"{told['network']}, {told['time_s']:.0f} s of the network's time; keys of {told['key_size']} bits"
    totals = told["totals"]
    sums = (
        f"Links made {totals['made']} keys: {totals['used']} used, {totals['stored']} stored, "
        f"{totals['overflowed']} overflowed, {totals['discarded']} thrown away. "
        f"Delivered {totals['delivered']}, {totals['relayed']} of them relayed; {totals['refused']} requests refused, "
        f"{totals['lost']} keys lost on their way"
    )
    sums += f", {totals['expired']} fetched at one end only." if totals.get("expired") else "."
    parts: list[Any] = [Text(title, style="bold"), _links(told), _pairs(told), _nodes(told), Text(LEARNED), Text(sums)]
    parts += [Text(f"{link['name']}: {link['alarm']}", style="bold red") for link in told["links"] if link["alarm"]]
    known = told["eavesdropper"]
    if known["keys"] or known["shares"]:
        text = f"Nobody noticed an eavesdropper, who knows {known['keys']} keys and shares of {known['shares']} more."
        parts.append(Text(text, style="bold red"))
    return Group(*parts)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        right = name in (
            "rate",
            "QBER",
            "stored",
            "made",
            "used",
            "keys",
            "relayed",
            "refused",
            "whole",
            "shares",
            "own",
        )
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    return table


def _links(told: dict[str, Any]) -> Table:
    table = _table("link", "protocol", "state", "rate", "QBER", "stored", "made", "used")
    for link in told["links"]:
        state = Text(link["state"], style=STATE_COLOURS.get(link["state"], ""))
        made, used = (link["bits"][name] // told["key_size"] for name in ("made", "used"))
        stored = f"{link['stored_keys']}/{link['max_keys']}"
        table.add_row(
            link["name"], link["protocol"], state, rate(link["key_rate"]), error(link), stored, str(made), str(used)
        )
    return table


def _pairs(told: dict[str, Any]) -> Table:
    table = _table("between", "path", "rate", "stored", "keys", "relayed", "refused")
    for pair in told["pairs"]:
        way = "\n".join(" - ".join(path["nodes"]) for path in pair["paths"])
        table.add_row(
            " and ".join(pair["between"]),
            way if way else Text(pair["problem"] or "", style="red"),
            rate(pair["key_rate"]),
            str(pair["stored_keys"]),
            str(pair["delivered"]),
            str(pair["relayed"]),
            str(pair["refused"]),
        )
    return table


def _nodes(told: dict[str, Any]) -> Table:
    table = _table("node", "own", "whole", "shares")
    for node in told["nodes"]:
        name = Text(node["name"] if node["up"] else f"{node['name']} (lost)", style="" if node["up"] else "red")
        table.add_row(name, str(node["own_keys"]), str(node["learned_keys"]), str(node["learned_shares"]))
    return table


def rate(bits: float) -> str:
    """``6.9 Mbit/s``."""
    for size, unit in ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if bits >= size:
            return f"{bits / size:.3g} {unit}"
    return f"{bits:.3g} bit/s"


def error(link: dict[str, Any]) -> str:
    """QBER in percent, or excess noise in shot noise units."""
    if link["qber"] is None:
        return f"{link['excess_noise']:.3f} SNU"
    return f"{link['qber']:.2%}"
