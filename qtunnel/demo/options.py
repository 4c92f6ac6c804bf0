"""What a demo run is asked to do, and what that means for its timetable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qtunnel.errors import ConfigError

MIN_SECONDS = 5.0
"""Below this nothing can be seen."""

MAX_SECONDS = 86400.0
"""A day: every echo is remembered, 100 a second."""

MIN_INTERVAL = 1.0
"""The shortest that a configuration may ask for."""

MAX_AGE_INTERVALS = 3
"""max_age in rekey intervals: one rekey may fail without a block, and an outage shows within its third of a run."""

RETRY = 2.0
"""Seconds until a gateway has tried again after the KME is back: the first retries come within two."""

SHARE_OF_REKEYS = 0.8
"""Of the rekeys that the timetable has room for, as many have to happen: each takes a moment of its own."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Of the command line. seconds: of traffic; interval: seconds between rekeys."""

    seconds: float = 30.0
    interval: float = 2.0
    kme_outage: bool = False
    keep: bool = False
    policy: Literal["required", "preferred"] = "required"

    def check(self) -> None:
        """Raises ``ConfigError`` where nothing could be shown in the time."""
        for name, value in (("seconds", self.seconds), ("interval", self.interval)):
            if not value <= MAX_SECONDS:  # also what is not a number
                raise ConfigError(f"--{name} {value:g}: at most {MAX_SECONDS:g}")
        if self.seconds < MIN_SECONDS:
            raise ConfigError(f"--seconds {self.seconds:g}: too short to show anything; at least {MIN_SECONDS:g}")
        if self.interval < MIN_INTERVAL:
            raise ConfigError(f"--interval {self.interval:g}: at least {MIN_INTERVAL:g}, what a configuration allows")
        if self.seconds < 2 * self.interval:
            raise ConfigError(
                f"--interval {self.interval:g}: no rekey falls into {self.seconds:g} s; "
                f"use --seconds {2 * self.interval:g} or more"
            )
        needed = 3 * (self.max_age + RETRY)
        if self.kme_outage and self.seconds < needed:
            raise ConfigError(
                f"--kme-outage: a third of {self.seconds:g} s is too short for a key to get too old "
                f"(max_age {self.max_age:g} s); use --seconds {needed:g} or more, or a smaller --interval"
            )

    @property
    def max_age(self) -> float:
        """Seconds."""
        return MAX_AGE_INTERVALS * self.interval

    @property
    def outage(self) -> tuple[float, float] | None:
        """When the KME stops and when it is started again; seconds from the beginning of the run."""
        return (self.seconds / 3, self.seconds * 2 / 3) if self.kme_outage else None

    @property
    def load(self) -> tuple[float, float]:
        """When the throughput test begins and how long it takes, in seconds; with an outage it is over before."""
        return (0.05 * self.seconds, 0.25 * self.seconds) if self.kme_outage else (0.1 * self.seconds, self.seconds / 2)

    @property
    def rekeys_expected(self) -> int:
        """How many rekeys have to happen at least. In an outage none is counted on."""
        time = self.seconds if not self.kme_outage else self.seconds * 2 / 3 - RETRY
        return max(1, int(SHARE_OF_REKEYS * time / self.interval))
