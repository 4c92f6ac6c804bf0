"""What a gateway's host is short of: room on the disk, descriptors, memory, its engine, names, a broker."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.daemon.accounts import fleet, start_broker
from tests.faults.fault import GOES_ON, Act, Fault, Outcome
from tests.faults.lab import FaultLab, Site
from tests.faults.traffic import kill
from tests.support.netns import PATIENCE, wait_until

MOST_REKEYS = 20
"""Until the disk is missed: each keeps some hundred bytes, and a block has 4,096."""


def engine_killed(lab: FaultLab, outcome: Outcome) -> None:
    before, alice, since = lab.epoch, lab.alice, len(lab.alice.log)
    with lab.traffic() as seen:
        begin = time.monotonic()
        os.kill(alice.engine(), signal.SIGKILL)
        wait_until(lambda: "event=engine.restarted" in alice.log[since:], "another engine", 30)
        alice.rekey()
        lab.agree(before)
        until = time.monotonic()
        time.sleep(0.5)
    inside = seen.lost_between(begin, until)
    longest = max((last - first for first, last, _ in seen.gaps), default=0.0)
    outcome.fact(f"no traffic for {longest:.1f} s, {seen.lost - inside} lost besides, {lab.leaked()} in the clear")
    outcome.expect(seen.lost == inside, f"lost: {seen.gaps}")
    outcome.expect(lab.leaked() == 0, "packets in the clear")
    outcome.said(alice, since, "event=engine.died")  # and by what, where this daemon started it


def disk_full(lab: FaultLab, outcome: Outcome) -> None:
    alice, since = lab.alice, len(lab.alice.log)
    with alice.small_disk() as filler, lab.traffic() as seen:
        lab.lead()
        before = lab.epoch
        filler.fill()
        rekeys = 0
        while "event=state.unwritable" not in alice.log[since:] and rekeys < MOST_REKEYS:
            alice.rekey()  # what is kept of one may find room in a block that the file has already
            before, _ = lab.agree(before)
            rekeys += 1
        alice.kill()
        log = len(alice.log)
        alice.start()
        assert alice.process is not None
        code = alice.process.wait(60 * PATIENCE)
        outcome.fact(f"rekeys without a disk; a restart ends with code {code}")
        outcome.expect(code == 1, f"exit code {code}")
        outcome.said(alice, log, "node.state_dir:", "No space left on device; make room there")
        filler.free()
        alice.restart()
        lab.agree(before)
        time.sleep(0.5)
    outcome.lossless(seen)
    outcome.said(alice, since, "event=state.unwritable", "No space left on device")


@contextmanager
def limited(site: Site, what: int, most: int) -> Iterator[None]:
    """prlimit(2) on the running daemon, while the block lasts."""
    assert site.process is not None
    pid = site.process.pid
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (most, before[1]))
    try:
        yield
    finally:
        if site.process.poll() is None:
            resource.prlimit(pid, what, before)


def descriptors(pid: int) -> int:
    """The lowest that is free: with that limit, no more can be opened."""
    used = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in range(len(used) + 1) if number not in used)


def address_space(pid: int) -> int:
    """Bytes that a process has mapped: with that limit, it gets no more."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def short_of(what: int, used: str, words: tuple[str, ...]) -> Act:
    """Alice's daemon gets no more of it for 6 s, more than an interval and less than max_age."""

    def act(lab: FaultLab, outcome: Outcome) -> None:
        alice = lab.alice
        lab.lead()
        since = len(alice.log)
        assert alice.process is not None
        with lab.traffic() as seen:
            with limited(alice, what, {"fds": descriptors, "memory": address_space}[used](alice.process.pid)):
                alice.rekey()
                time.sleep(6)
            code = alice.process.poll()
            outcome.fact("it goes on" if code is None else f"it ended with code {code}")
            if code is not None:
                alice.restart()
            _, took = lab.agree(lab.epoch)
            outcome.fact(f"new epoch {took:.1f} s after the fault")
            time.sleep(0.5)
        outcome.lossless(seen)
        outcome.expect("Traceback" not in alice.log[since:], "a traceback in the log")
        if words:
            outcome.said(alice, since, *words)
        outcome.expect(lab.leaked() == 0, f"{lab.leaked()} packets in the clear")

    return act


def no_names(lab: FaultLab, outcome: Outcome) -> None:
    """Endpoints are names, and nobody knows them any more; then both daemons are started anew."""
    sites = lab.sites.values()
    before = lab.epoch
    with lab.traffic() as seen:
        for site in sites:
            site.forget_names()
        lab.alice.rekey()
        before, took = lab.agree(before)
        outcome.fact(f"a new epoch {took:.1f} s after it was asked for")
        for site in sites:
            site.kill()
        for site in sites:
            site.restart()
        _, took = lab.agree(before)
        outcome.fact(f"a new epoch {took:.1f} s after a restart")
        time.sleep(0.5)
    for site in sites:
        site.know_names()
    outcome.lossless(seen)


def no_broker(lab: FaultLab, outcome: Outcome) -> None:
    """For 6 s; afterwards the fleet's view shows alice again."""
    before, alice = lab.epoch, lab.alice
    assert lab.broker is not None, "no mosquitto on this machine"
    wait_until(lambda: fleet(alice), "reports", 60)
    with lab.traffic() as seen:
        kill(lab.broker)
        time.sleep(6)
        during = lab.epoch
        lab.broker = start_broker(lab.directory, alice.namespace)
        back = time.monotonic()
        wait_until(lambda: fleet(alice), "reports again", 90)
        outcome.fact(f"{during - before} epochs meanwhile; reports again {time.monotonic() - back:.1f} s after it")
        lab.agree(during)
        time.sleep(0.5)
    outcome.lossless(seen)
    outcome.expect(during > before, "no rekey meanwhile")


HOSTS: list[Fault] = [
    Fault("the disk of alice's state directory full, then kill -9", GOES_ON + "; starts once there is room", disk_full,
          own=True),
    Fault("engine of alice killed", "back by itself; nothing in the clear; a common new epoch", engine_killed),
    Fault("descriptors of alice's daemon used up (prlimit) for 6 s", GOES_ON,
          short_of(resource.RLIMIT_NOFILE, "fds", ("oo many open files",)), "brief"),
    Fault("memory of alice's daemon used up (prlimit) for 6 s", GOES_ON,
          short_of(resource.RLIMIT_AS, "memory", ()), "brief"),
    Fault("DNS gone, endpoints are names; then kill -9 of both daemons", GOES_ON, no_names, "named", own=True),
    Fault("MQTT broker gone for 6 s", GOES_ON, no_broker, "reporting"),
]  # fmt: skip
