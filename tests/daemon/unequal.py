"""A pair of daemons with engines of their own each, rekeying under numbered traffic."""

from __future__ import annotations

import os
import re
import signal

from tests.daemon.sites import TUNNEL, Site, protected
from tests.support.netns import wait_until
from tests.support.ping import answered, gaps


def done(site: Site) -> int:
    """Rekeys that succeeded, by the log: a status takes half a minute where nothing helps the processor."""
    return site.log.count("event=rekey.done")


def carries(site: Site) -> bool:
    """Whether the session in force is of an epoch, by the log."""
    levels = re.findall(r"event=protection\.in-force.* after=(\S+)", site.log)
    return bool(levels) and levels[-1] not in ("starting", "blocked", "expired")


def loses_nothing(sites: tuple[Site, Site], engines: tuple[str, str], *, rekeys: int, interval: str = "2s") -> None:
    """Both protected, then that many rekeys while echoes go both ways; each one is answered."""
    for site, engine in zip(sites, engines, strict=True):
        site.write(engine=engine, interval=interval)
        site.start()
    for site in sites:
        wait_until(lambda site=site: carries(site), f"{site.name} is protected", 60)  # type: ignore[misc]
    alice, bob = sites
    pings = [
        here.host.start("ping", "-n", "-i", "0.05", TUNNEL[there.name]) for here, there in ((alice, bob), (bob, alice))
    ]
    before = done(alice), done(bob)
    for site, count in zip(sites, before, strict=True):
        wait_until(lambda site=site, count=count: done(site) >= count + rekeys, f"{rekeys} rekeys", 120)  # type: ignore[misc]
    for ping in pings:
        os.kill(ping.pid, signal.SIGINT)  # ping(8) sums up
        output = ping.communicate(timeout=30)[0]
        assert not gaps(output), sorted(gaps(output))
        assert len(answered(output)) > 10 * rekeys, output
    for site, engine in zip(sites, engines, strict=True):
        assert protected(site), site.log
        assert site.status()["node"]["engine"] == engine
        assert "Traceback" not in site.log
