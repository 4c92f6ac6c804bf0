"""Networks with physics that are as simple as can be, so that every number can be foreseen."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

from qtunnel.qkdnet.channel import Fibre
from qtunnel.qkdnet.conditions import Conditions, Figures, Hardware
from qtunnel.qkdnet.link import LinkSpec
from qtunnel.qkdnet.network import Network, NodeSpec

RATE = 2560.0
"""Bits per second of a link of no length: ten keys."""


def simple(conditions: Conditions) -> Figures:
    """RATE, a hundredth less for each km; QBER 2 %, and 25 % of an eavesdropper's share, who costs all key."""
    error = 0.02 + conditions.noise + conditions.intercepted / 4
    rate = max(0.0, RATE * (1 - conditions.length / 100)) if error <= 0.11 else 0.0
    return Figures(rate * 10 ** (-conditions.loss / 10), 4 * RATE, error)


def spec(name: str, one: str, other: str, **options: object) -> LinkSpec:
    made = LinkSpec(name, (one, other), Hardware(), Fibre(0.0), sample=1000.0)
    return replace(made, **options)  # type: ignore[arg-type]  # options of the dataclass


def chain(*nodes: str, **options: object) -> Network:
    links = [spec(f"{one}-{other}", one, other, **options) for one, other in itertools.pairwise(nodes)]
    return Network([NodeSpec(node) for node in nodes], links, simple)


def counting() -> Callable[[int], bytes]:
    """Bytes that differ from call to call and are the same in every run."""
    number = itertools.count(1)

    def draw(size: int) -> bytes:
        value = next(number)
        return bytes((value * 37 + index * 11 + value // 7) % 256 for index in range(size))

    return draw
