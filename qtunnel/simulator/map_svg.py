"""The map as a picture: nodes, links by their state, keys in store, rates."""

from __future__ import annotations

import math
from typing import Any
from xml.sax.saxutils import escape

from qtunnel.simulator.map_table import error, rate

WIDTH, HEIGHT, MARGIN = 960, 600, 90
COLOURS = {"up": "#2e7d32", "alarmed": "#c62828", "cut": "#757575", "no line of sight": "#f9a825"}
DASHES = {"cut": "3 7", "no line of sight": "9 6", "alarmed": "none", "up": "none"}

Point = tuple[float, float]


def svg(told: dict[str, Any], places: dict[str, list[float]]) -> str:
    """What ``Service.map`` gave, as an SVG file. places: where nodes were put, x and y in any unit; the rest are put
    on a circle."""
    at = _layout([node["name"] for node in told["nodes"]], places)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="20" y="30" font-size="18" font-weight="bold">{escape(told["network"])}</text>',
        f'<text x="20" y="50" font-size="12" fill="#555">{escape(_subtitle(told))}</text>',
    ]
    side: dict[frozenset[str], int] = {}
    labels = []
    for link in told["links"]:
        ends = frozenset(link["between"])
        line, label = _link(link, at, side.get(ends, 0))
        parts.append(line)
        labels.append(label)
        side[ends] = side.get(ends, 0) + 1
    parts += [_node(node, at[node["name"]]) for node in told["nodes"]]
    return "\n".join([*parts, *labels, "</svg>", ""])


def _subtitle(told: dict[str, Any]) -> str:
    totals = told["totals"]
    return (
        f"{told['time_s']:.0f} s; {totals['delivered']} keys delivered, {totals['relayed']} relayed, "
        f"{totals['stored']} stored, {totals['alarms']} alarms"
    )


def _layout(names: list[str], places: dict[str, list[float]]) -> dict[str, Point]:
    if all(name in places for name in names):
        points = {name: (float(places[name][0]), float(places[name][1])) for name in names}
    else:
        turn = 2 * math.pi / len(names)
        points = {
            name: (math.cos(i * turn - math.pi / 2), math.sin(i * turn - math.pi / 2)) for i, name in enumerate(names)
        }
    low = [min(point[axis] for point in points.values()) for axis in (0, 1)]
    span = [max(point[axis] for point in points.values()) - low[axis] for axis in (0, 1)]
    room = (WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN)

    def scaled(point: Point, axis: int) -> float:
        share = (point[axis] - low[axis]) / span[axis] if span[axis] else 0.5
        return MARGIN + share * room[axis]

    return {name: (scaled(point, 0), scaled(point, 1)) for name, point in points.items()}


def _link(link: dict[str, Any], at: dict[str, Point], number: int) -> tuple[str, str]:
    """Its line, and what is written on it.

    number: of further links between the same nodes, which are drawn beside each other.
    """
    (x1, y1), (x2, y2) = (at[end] for end in link["between"])
    length = math.hypot(x2 - x1, y2 - y1) or 1.0
    away = 24.0 * number
    bend = ((y1 - y2) / length * away, (x2 - x1) / length * away)
    x, y = (x1 + x2) / 2 + bend[0], (y1 + y2) / 2 + bend[1]
    colour, dash = COLOURS.get(link["state"], "#000"), DASHES.get(link["state"], "none")
    filled = link["stored_keys"] / link["max_keys"] if link["max_keys"] else 0.0
    first = f"{link['name']}: {rate(link['key_rate'])}, {error(link)}"
    second = f"{link['stored_keys']} keys" + ("" if link["state"] == "up" else f", {link['state']}")
    line = (
        f'<path d="M {x1:.1f} {y1:.1f} Q {x + bend[0]:.1f} {y + bend[1]:.1f} {x2:.1f} {y2:.1f}" fill="none" '
        f'stroke="{colour}" stroke-width="{2 + 5 * filled:.1f}" stroke-dasharray="{dash}"/>'
    )
    return line, "\n".join([_text(x, y - 6, 11, first, colour), _text(x, y + 10, 11, second)])


def _text(x: float, y: float, size: int, text: str, colour: str = "#555", weight: str = "normal") -> str:
    """Centred, with a white rim so that it can be read on a line."""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="middle"'
    rim = f'<text {place} fill="#fff" stroke="#fff" stroke-width="4" stroke-linejoin="round">{escape(text)}</text>'
    return f'{rim}<text {place} fill="{colour}">{escape(text)}</text>'


def _node(node: dict[str, Any], point: Point) -> str:
    x, y = point
    colour = "#1565c0" if node["up"] else "#bdbdbd"
    known = f"knows {node['learned_keys']} keys, {node['learned_shares']} shares of others"
    circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="15" fill="{colour}" stroke="#ffffff" stroke-width="2"/>'
    return "\n".join([circle, _text(x, y + 31, 13, node["name"], "#000", "bold"), _text(x, y + 46, 10, known)])
