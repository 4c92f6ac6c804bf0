"""How each fault of a plan is done, and undone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.daemon.accounts import start_broker
from tests.faults.lab import FaultLab, Site
from tests.faults.traffic import kill
from tests.soak.plan import Planned

MAX_AGES = ("60s", "61s")
"""Reloads change from one to the other."""


class Acts:
    """On a lab, with the broker that alice reports to."""

    def __init__(self, lab: FaultLab) -> None:
        self._lab = lab
        self._broker: subprocess.Popen[str] | None = None
        self._reloads = 0
        self.start_broker()

    @property
    def broker(self) -> bool:
        return self._broker is not None

    def start_broker(self) -> None:
        self._broker = start_broker(self._lab.directory, self._lab.alice.namespace)

    def do(self, fault: Planned) -> str:
        """Returns when all is again as it was, but for what the daemons make of it; more about it, in words."""
        return _ACTS[fault.kind](self, fault)

    def sites(self, fault: Planned) -> list[Site]:
        return [site for name, site in self._lab.sites.items() if fault.end in (name, "both")]

    def _kme_stopped(self, fault: Planned) -> str:
        sites = self.sites(fault)
        for site in sites:
            site.stop_kme()
        time.sleep(fault.seconds)
        for site in sites:
            site.resume_kme()
        return ""

    def _relay(self, command: str, fault: Planned) -> str:
        (site,) = self.sites(fault)
        with telling(site, command):
            time.sleep(fault.seconds)
        return command

    def _kme_holds(self, fault: Planned) -> str:
        return self._relay(f"hold {'enc_keys' if fault.end == 'alice' else 'dec_keys'}", fault)

    def _wrong_key(self, fault: Planned) -> str:
        """One, as each takes its exchange the thirty seconds that an end waits for a good answer."""
        (site,) = self.sites(fault)
        since = len(site.said)
        with telling(site, "lie wrong-key"):
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and not any(line.startswith("lied") for line in site.said[since:]):
                time.sleep(0.005)
        return f"{sum(line.startswith('lied') for line in site.said[since:])} false answers"

    def _killed(self, fault: Planned) -> str:
        sites = self.sites(fault)
        for site in sites:
            site.kill()
        time.sleep(fault.seconds)
        for site in sites:
            site.restart()
        return ""

    def _hangs(self, fault: Planned) -> str:
        (site,) = self.sites(fault)
        assert site.process is not None
        os.kill(site.process.pid, signal.SIGSTOP)
        try:
            time.sleep(fault.seconds)
        finally:
            os.kill(site.process.pid, signal.SIGCONT)
        return ""

    def _clock(self, fault: Planned) -> str:
        """To and, some seconds later, back: two steps."""
        (site,) = self.sites(fault)
        site.clock.set(fault.amount)
        time.sleep(fault.seconds)
        site.clock.set(0)
        return f"by {fault.amount:+.0f} s and back"

    def _reload(self, fault: Planned) -> str:
        (site,) = self.sites(fault)
        assert site.process is not None
        self._reloads += 1
        site.config["peers"][0]["qkd"]["max_age"] = MAX_AGES[self._reloads % 2]
        assert site.file.exists()  # written by being asked for
        os.kill(site.process.pid, signal.SIGHUP)
        time.sleep(fault.seconds)
        return ""

    def _no_broker(self, fault: Planned) -> str:
        if self._broker is None:
            return "there is no broker on this machine"
        kill(self._broker)
        time.sleep(fault.seconds)
        self.start_broker()
        return ""

    def _link(self, fault: Planned, **impairment: float | bool) -> str:
        self._lab.link.set(**impairment)
        time.sleep(fault.seconds)
        fate = self._lab.link.set()
        return ", ".join(f"{name} {count}" for name, count in fate.items() if count)


_ACTS: dict[str, Callable[[Acts, Planned], str]] = {
    "KME stopped": Acts._kme_stopped,
    "KME slow": lambda acts, fault: acts._relay(f"slow {fault.amount}", fault),
    "KME does not answer": Acts._kme_holds,
    "KME answers malformed": lambda acts, fault: acts._relay("lie malformed", fault),
    "KME gives another SAE's key_ID": lambda acts, fault: acts._relay("lie other-sae sae-carol", fault),
    "KME gives a wrong key": Acts._wrong_key,
    "daemon killed": Acts._killed,
    "daemon stopped (SIGSTOP)": Acts._hangs,
    "clock stepped": Acts._clock,
    "reload (SIGHUP)": Acts._reload,
    "broker gone": Acts._no_broker,
    "link loses": lambda acts, fault: acts._link(fault, lose=fault.amount),
    "link reorders": lambda acts, fault: acts._link(fault, reorder=fault.amount),
    "link duplicates": lambda acts, fault: acts._link(fault, duplicate=fault.amount),
    "link corrupts": lambda acts, fault: acts._link(fault, corrupt=fault.amount),
    "link delays": lambda acts, fault: acts._link(fault, delay_s=fault.amount),
    "link is narrow": lambda acts, fault: acts._link(fault, rate=fault.amount),
    "link cut": lambda acts, fault: acts._link(fault, cut=True),
}


@contextmanager
def telling(site: Site, command: str) -> Iterator[None]:
    """The relay does this while the block lasts."""
    site.tell(command)
    try:
        yield
    finally:
        site.tell("pass")
