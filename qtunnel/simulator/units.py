"""Types for quantities with units in a topology: lengths, losses, frequencies, angles, bits."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from qtunnel.config.types import is_number, parse_duration, parse_percentage

_QUANTITY = re.compile(r"([-+]?\d{1,15}(?:\.\d{1,15})?(?:[eE][-+]?\d{1,3})?)\s*([A-Za-z/µ°%]*)")

_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def _of(units: dict[str, float], example: str, *, negative: bool = False) -> BeforeValidator:
    """Reads a number with one of the units; the value is in the one that stands for 1."""

    def parse(value: object) -> float:
        text = str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
        match = _QUANTITY.fullmatch(text)
        if match is None or match[2] not in units:
            known = ", ".join(unit for unit in units if unit)
            raise ValueError(f"must be a number with a unit ({known}), such as {example}")
        amount = float(match[1]) * units[match[2]]
        if not math.isfinite(amount) or (amount < 0 and not negative):
            raise ValueError(f"must not be negative; write {example}")
        return amount

    return BeforeValidator(parse)


Kilometres = Annotated[float, _of({"km": 1.0, "m": 1e-3}, "25 km")]
Metres = Annotated[float, _of({"m": 1.0, "cm": 1e-2, "mm": 1e-3}, "20 cm")]
Nanometres = Annotated[float, _of({"nm": 1e-9}, "1550.12 nm")]
"""Metres, written in nm."""
Decibels = Annotated[float, _of({"dB": 1.0}, "2 dB")]
DecibelsPerKilometre = Annotated[float, _of({"dB/km": 1.0}, "0.2 dB/km")]
Dbm = Annotated[float, _of({"dBm": 1.0}, "0 dBm", negative=True)]
Hertz = Annotated[float, _of({f"{prefix}Hz": size for prefix, size in _PREFIXES.items()}, "1 GHz")]
Seconds = Annotated[float, _of({"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "ps": 1e-12}, "1 ns")]
"""Of a gate or a dead time, shorter than durations are otherwise."""
Radians = Annotated[float, _of({"urad": 1e-6, "µrad": 1e-6, "mrad": 1e-3, "rad": 1.0}, "20 urad")]
Degrees = Annotated[
    float,
    _of({"deg": math.pi / 180, "°": math.pi / 180}, "60 deg"),
    AfterValidator(lambda angle: min(angle, math.pi / 2)),
]
"""Radians, written in degrees; at most 90."""
Bits = Annotated[
    int,
    _of({f"{prefix}{unit}": size for prefix, size in _PREFIXES.items() for unit in ("bit", "b")}, "2.5 Mbit"),
    AfterValidator(int),
]
BitsPerSecond = Annotated[float, _of({f"{prefix}bit/s": size for prefix, size in _PREFIXES.items()}, "10 kbit/s")]


def parse_threshold(value: Any) -> float:
    """A QBER in percent, or excess noise in shot noise units as a plain number."""
    if is_number(value):
        found = float(value)
    elif isinstance(value, str) and "%" in value:
        found = parse_percentage(value)
    else:
        raise ValueError("must be a QBER such as 11%, or for cv shot noise units such as 0.1")
    if not 0 < found <= 10:
        raise ValueError("must be above 0; the usual are 11%, and 0.1 for cv")
    return found


Threshold = Annotated[float, BeforeValidator(parse_threshold)]


def parse_scale(value: Any) -> float:
    """How many seconds of the network pass in one of the clock: a number, or ``"1s = 1h"``."""
    if is_number(value):
        scale = float(value)
    else:
        left, equals, right = str(value).partition("=")
        if not equals:
            raise ValueError("must be a number, or a comparison such as '1s = 1h'")
        scale = parse_duration(right.strip()) / (parse_duration(left.strip()) or math.inf)
    if not 1e-3 <= scale <= 1e7:
        raise ValueError("must be from 0.001 to 10000000 seconds of the network in one of the clock")
    return scale


TimeScale = Annotated[float, BeforeValidator(parse_scale)]
