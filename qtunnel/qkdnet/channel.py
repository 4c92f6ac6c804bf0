"""The way from sender to receiver: how much light arrives, and when there is a line of sight at all.

A channel's loss is constant between the moments that ``next_change`` names. Times are seconds of the network.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Protocol

NEVER = math.inf

EARTH_RADIUS = 6371.0
"""km, the mean (IUGG)."""
EARTH_GM = 398600.4418
"""km^3/s^2, the Earth's gravitational parameter (IERS Conventions 2010, table 1.1)."""

PASS_STEP = 10.0
"""Seconds of a pass with one loss: a low satellite's changes by less than 1 dB in them."""
FADE_STEP = 0.1
"""dB to which a fade is rounded, so that figures that were computed once are found again."""
QUANTILES = 16
"""Parts of equal chance that a fade is averaged over."""


class Channel(Protocol):
    """length: km of fibre (0 in free space). attenuation: dB per km of it."""

    @property
    def length(self) -> float: ...
    @property
    def attenuation(self) -> float: ...

    def loss_at(self, now: float) -> float | None:
        """dB besides the fibre's; ``None`` where there is no line of sight."""

    def next_change(self, now: float, *, fades: bool = True) -> float:
        """The first moment after ``now`` at which the loss may be another, without ``fades`` what ``typical`` gives;
        infinite where there is none."""

    def typical(self, now: float) -> list[float]:
        """Losses in dB, each as likely as the others, that ``loss_at`` comes to in the long run; empty out of sight."""


@dataclass(frozen=True, slots=True)
class Fibre:
    """length: km; attenuation: dB per km; loss: dB of connectors, splices and filters."""

    length: float
    attenuation: float = 0.2
    loss: float = 0.0

    def loss_at(self, now: float) -> float | None:
        return self.loss

    def next_change(self, now: float, *, fades: bool = True) -> float:
        return NEVER

    def typical(self, now: float) -> list[float]:
        return [self.loss]


@dataclass(frozen=True, slots=True)
class Fading:
    """Log-normal fades: deviation in dB, interval in seconds for which one lasts; seed says which they are.

    Every fade follows from its number alone, so a run can be repeated, and begun anywhere.
    """

    deviation: float
    interval: float
    seed: str

    def at(self, now: float) -> float:
        """dB, positive for less light."""
        number = self._number(now)
        digest = hashlib.sha256(f"{self.seed}/{number}".encode()).digest()
        first, second = (int.from_bytes(digest[i : i + 8], "big") / 2**64 for i in (0, 8))
        normal = math.sqrt(-2 * math.log(1 - first)) * math.cos(2 * math.pi * second)  # Box and Muller, 1958
        return rounded(self.deviation * normal)

    def quantiles(self) -> list[float]:
        return [rounded(self.deviation * _normal_quantile((i + 0.5) / QUANTILES)) for i in range(QUANTILES)]

    def next_change(self, now: float) -> float:
        return (self._number(now) + 1) * self.interval

    def _number(self, now: float) -> int:
        return math.floor(round(now / self.interval, 9))


def rounded(decibels: float) -> float:
    """To the next tenth of a dB."""
    return round(decibels / FADE_STEP) * FADE_STEP


def _normal_quantile(share: float) -> float:
    """By bisection of the error function: called sixteen times a link."""
    low, high = -8.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        if 0.5 * (1 + math.erf(middle / math.sqrt(2))) < share:
            low = middle
        else:
            high = middle
    return low


def beam_loss(distance: float, divergence: float, receiver: float, sender: float = 0.0) -> float:
    """dB that a Gaussian beam loses over ``distance`` km to a telescope of diameter ``receiver`` metres.

    divergence: radians, half the angle at which the intensity is 1/e^2 of its middle, pointing errors included. sender:
    metres, the beam's diameter at the start. What a centred round aperture catches: Saleh and Teich, Fundamentals of
    Photonics, section 3.1, eq. 3.1-16.
    """
    width = math.hypot(sender / 2, divergence * distance * 1e3)
    caught = -math.expm1(-2 * (receiver / 2) ** 2 / width**2)
    return -10 * math.log10(caught)


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """A level way through air. distance: km; attenuation_air: dB per km; the beam as in ``beam_loss``."""

    distance: float
    divergence: float = 20e-6
    receiver: float = 0.2
    sender: float = 0.1
    air: float = 0.2
    loss: float = 0.0
    fading: Fading | None = None
    length: float = field(default=0.0, init=False)
    attenuation: float = field(default=0.0, init=False)

    def loss_at(self, now: float) -> float | None:
        return max(0.0, self._clear() + (self.fading.at(now) if self.fading else 0.0))

    def _clear(self) -> float:
        beam = beam_loss(self.distance, self.divergence, self.receiver, self.sender)
        return beam + self.air * self.distance + self.loss

    def next_change(self, now: float, *, fades: bool = True) -> float:
        return self.fading.next_change(now) if self.fading and fades else NEVER

    def typical(self, now: float) -> list[float]:
        fades = self.fading.quantiles() if self.fading else [0.0]
        return [max(0.0, self._clear() + fade) for fade in fades]


@dataclass(frozen=True, slots=True)
class Satellite:
    """A satellite on a round orbit, seen from one station; the Earth's own turning is left out.

    altitude: km. highest, lowest: radians of elevation, of a pass and from which on light is exchanged. first: the
    middle of the first pass, every: from one to the next; seconds. zenith: dB of the atmosphere straight up. The beam
    as in ``beam_loss``.
    """

    altitude: float
    highest: float
    lowest: float
    first: float
    every: float
    divergence: float = 10e-6
    receiver: float = 1.0
    sender: float = 0.3
    zenith: float = 3.0
    loss: float = 3.0
    fading: Fading | None = None
    length: float = field(default=0.0, init=False)
    attenuation: float = field(default=0.0, init=False)
    pass_length: float = field(default=0.0, init=False)
    """Seconds from rising above ``lowest`` to sinking below it."""

    def __post_init__(self) -> None:
        nearest, farthest = self._central_angle(self.highest), self._central_angle(self.lowest)
        if farthest > nearest:
            length = 2 * math.acos(math.cos(farthest) / math.cos(nearest)) / self._angular_speed
            object.__setattr__(self, "pass_length", round(length, 6))

    @property
    def _angular_speed(self) -> float:
        """Radians a second of a round orbit, by Kepler's third law."""
        return math.sqrt(EARTH_GM / (EARTH_RADIUS + self.altitude) ** 3)

    def _central_angle(self, elevation: float) -> float:
        """Between station and the point under the satellite, seen from the Earth's centre."""
        return math.acos(EARTH_RADIUS * math.cos(elevation) / (EARTH_RADIUS + self.altitude)) - elevation

    def _middle(self, now: float) -> float:
        """Of the pass that is nearest."""
        return self.first + max(0, round((now - self.first) / self.every)) * self.every

    def elevation_and_range(self, offset: float) -> tuple[float, float]:
        """Radians and km, ``offset`` seconds from the middle of a pass."""
        angle = math.acos(math.cos(self._central_angle(self.highest)) * math.cos(self._angular_speed * offset))
        orbit = EARTH_RADIUS + self.altitude
        distance = math.sqrt(EARTH_RADIUS**2 + orbit**2 - 2 * EARTH_RADIUS * orbit * math.cos(angle))
        return math.atan2(orbit * math.cos(angle) - EARTH_RADIUS, orbit * math.sin(angle)), distance

    def _into(self, now: float) -> tuple[float, float]:
        """The beginning of the nearest pass, and how far into it this is; to the microsecond, so that all agree."""
        begin = self._middle(now) - self.pass_length / 2
        return begin, round(now - begin, 6)

    def _clear(self, now: float) -> float | None:
        _, into = self._into(now)
        if not 0 <= into < self.pass_length:
            return None
        begin_step = math.floor(into / PASS_STEP) * PASS_STEP
        middle = (begin_step + min(self.pass_length, begin_step + PASS_STEP)) / 2
        elevation, distance = self.elevation_and_range(middle - self.pass_length / 2)
        air = self.zenith / math.sin(max(elevation, self.lowest))
        return rounded(beam_loss(distance, self.divergence, self.receiver, self.sender) + air + self.loss)

    def loss_at(self, now: float) -> float | None:
        clear = self._clear(now)
        if clear is None or self.fading is None:
            return clear
        return max(0.0, clear + self.fading.at(now))

    def next_change(self, now: float, *, fades: bool = True) -> float:
        length = self.pass_length
        if length <= 0:
            return NEVER
        begin, into = self._into(now)
        if into < 0:
            return begin
        if into >= length:
            return begin + self.every
        step = begin + min(length, (math.floor(into / PASS_STEP) + 1) * PASS_STEP)
        return min(step, self.fading.next_change(now)) if self.fading and fades else step

    def typical(self, now: float) -> list[float]:
        clear = self._clear(now)
        if clear is None:
            return []
        fades = self.fading.quantiles() if self.fading else [0.0]
        return [max(0.0, clear + fade) for fade in fades]
