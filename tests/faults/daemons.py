"""Daemons that are killed, hang, or have a clock that is set."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from tests.faults.fault import BLOCK_BOUND, BLOCKS, EARLY, GOES_ON, Act, Fault, Outcome
from tests.faults.lab import Expiry, FaultLab, Site
from tests.support.netns import wait_until

Step = Callable[[FaultLab], AbstractContextManager[None]]


@contextmanager
def done(lab: FaultLab) -> Iterator[None]:
    """A rekey, from whose end on nothing more is under way."""
    before = lab.epoch
    lab.alice.rekey()
    wait_until(lambda: f"epoch={before + 1} " in lab.alice.log.split("rekey.done")[-1], "the rekey is done", 30)
    yield


STEPS: dict[str, Step] = {
    "alice waits for get key": lambda lab: lab.hang("alice", "enc_keys"),
    "proposed, message 1 lost": lambda lab: lab.trap(1),
    "bob waits for get key with key IDs": lambda lab: lab.hang("bob", "dec_keys"),
    "fetched, message 2 lost": lambda lab: lab.trap(2),
    "confirmed, message 3 lost": lambda lab: lab.trap(3),
    "committed, message 4 lost": lambda lab: lab.trap(4),
    "all done": done,
}


def killed(step: str, *names: str) -> Act:
    def act(lab: FaultLab, outcome: Outcome) -> None:
        lab.lead()
        before = lab.epoch
        engines = [lab.sites[name].engine() for name in names]
        since = {name: len(lab.sites[name].log) for name in names}
        with lab.traffic() as seen:
            with STEPS[step](lab):
                for name in names:
                    lab.sites[name].kill()
            begin = time.monotonic()
            for name in names:
                lab.sites[name].restart()
            epoch, _ = lab.agree(before + 1 if step == "all done" else before)
            outcome.fact(f"epoch {epoch} after {time.monotonic() - begin:.1f} s")
            time.sleep(0.5)
        outcome.lossless(seen)
        outcome.expect(engines == [lab.sites[name].engine() for name in names], "the engine was not kept")
        for name in names:
            outcome.said(lab.sites[name], since[name], "event=engine.adopted")
            outcome.said(lab.sites[name], since[name], "event=epoch.kept", "in place since before the restart")

    return act


def kills() -> Iterator[Fault]:
    for step in STEPS:
        for names in (("alice",), ("bob",)):
            quick = (step, names) in {
                ("confirmed, message 3 lost", ("alice",)),
                ("committed, message 4 lost", ("bob",)),
            }
            yield Fault(f"kill -9 of {names[0]}'s daemon: {step}", GOES_ON, killed(step, *names), quick=quick, own=True)
    yield Fault("kill -9 of both daemons: committed, message 4 lost", GOES_ON,
                killed("committed, message 4 lost", "alice", "bob"), own=True)  # fmt: skip


def lease_over(lab: FaultLab, outcome: Outcome) -> None:
    alice, before, since = lab.alice, lab.epoch, len(lab.alice.log)
    with lab.traffic() as seen:
        alice.kill()
        at = _stops(lab, alice)
        time.sleep(max(0.0, at.high - time.monotonic()) + 3)
        alice.restart()
        lab.agree(before)
        until = time.monotonic()
        time.sleep(0.5)
    outcome.blocked(seen, at, until)
    outcome.said(alice, since, "event=peer.blocked", "no daemon renewed epoch", "the engine blocked the peer")
    outcome.expect(lab.leaked() == 0, f"{lab.leaked()} packets in the clear")


def hanging(lab: FaultLab, outcome: Outcome) -> None:
    alice, before, since = lab.alice, lab.epoch, len(lab.alice.log)
    assert alice.process is not None
    with lab.traffic() as seen:
        os.kill(alice.process.pid, signal.SIGSTOP)
        try:
            at = _stops(lab, alice)
            time.sleep(max(0.0, at.high - time.monotonic()) + 3)
        finally:
            os.kill(alice.process.pid, signal.SIGCONT)
        lab.agree(before)
        until = time.monotonic()
        time.sleep(0.5)
    outcome.blocked(seen, at, until)
    outcome.said(alice, since, "event=peer.blocked", "no new epoch for 12 s: traffic is blocked")


def _stops(lab: FaultLab, silent: Site) -> Expiry:
    """When traffic has to stop, as the end tells that can: the silent one made the epoch when that did."""
    told = next(site for site in lab.sites.values() if site is not silent).expiry()
    assert told is not None
    return told


def hangs_for(seconds: float, engine: bool = False) -> Act:
    """Alice's daemon, or her engine, while no key gets too old."""

    def act(lab: FaultLab, outcome: Outcome) -> None:
        alice, before = lab.alice, lab.epoch
        assert alice.process is not None
        pid = alice.engine() if engine else alice.process.pid
        with lab.traffic() as seen:
            begin = time.monotonic()
            os.kill(pid, signal.SIGSTOP)
            try:
                time.sleep(seconds)
            finally:
                with suppress(ProcessLookupError):  # an engine that hangs is replaced
                    os.kill(pid, signal.SIGCONT)
            end = time.monotonic()
            lab.agree(before, 90)
            until = time.monotonic()
            outcome.fact(f"a new epoch {until - end:.1f} s after its end")
            time.sleep(0.5)
        if engine:
            longest = max((last - first for first, last, _ in seen.gaps), default=0.0)
            outcome.fact(f"no traffic for {longest:.1f} s")
            outcome.by_the_link(seen, begin, until)
        else:
            outcome.lossless(seen)
        outcome.expect(lab.leaked() == 0, f"{lab.leaked()} packets in the clear")

    return act


# clocks


def stepped(seconds: float) -> Act:
    """Alice's clock and her engine's, to and, after two rekeys, back, while they run."""

    def act(lab: FaultLab, outcome: Outcome) -> None:
        with lab.traffic() as seen:
            for offset in (seconds, 0.0):
                lab.alice.clock.set(offset)
                for site in (lab.alice, lab.bob):
                    before = lab.epoch
                    site.rekey()
                    _, took = lab.agree(before)
                outcome.fact(f"a new epoch {took:.1f} s after {site.name} was asked")
            time.sleep(0.5)
        outcome.lossless(seen)
        hours = {stamp[:13] for stamp in re.findall(r"ts=(\S+) .*event=rekey.done", lab.alice.log)}
        outcome.expect(len(hours) > 1, f"the clock was not set: {hours}")

    return act


def restarted(seconds: float) -> Act:
    """Alice's daemon is killed, and starts by another clock; and once more, by the right one."""

    def act(lab: FaultLab, outcome: Outcome) -> None:
        alice, before = lab.alice, lab.epoch
        with lab.traffic() as seen:
            for offset in (seconds, 0.0):
                alice.kill()
                alice.clock.set(offset)
                alice.restart()
                before, took = lab.agree(before)
                outcome.fact(f"a new epoch after {took:.1f} s")
            time.sleep(0.5)
        outcome.lossless(seen)
        told = re.findall(r"ts=(\S+) .*event=daemon.ready", alice.log)
        outcome.expect((told[-2] < told[-3]) == (seconds < 0), f"the clock was not set: {told}")

    return act


def foreign_killed(lab: FaultLab, outcome: Outcome) -> None:
    before, alice = lab.epoch, lab.alice
    with lab.traffic() as seen:
        begin = time.monotonic()
        alice.kill()
        time.sleep(3)
        alice.restart()
        lab.agree(before)
        until = time.monotonic()
        time.sleep(0.5)
    inside = seen.lost_between(begin - EARLY, until)
    first = min((gap[0] for gap in seen.gaps), default=until)
    outcome.fact(f"blocked {first - begin:+.2f} s from its end, {seen.lost - inside} lost besides, "
                 f"{lab.leaked()} in the clear")  # fmt: skip
    outcome.expect(first - begin <= BLOCK_BOUND, "it went on without a daemon")
    outcome.expect(seen.lost == inside, f"lost: {seen.gaps}")
    outcome.expect(lab.leaked() == 0, "packets in the clear")


DAEMONS: list[Fault] = [
    *kills(),
    *(Fault(f"clock of alice set {way} by an hour at a restart after kill -9", GOES_ON, restarted(by), own=True)
      for way, by in (("back", -3600.0), ("forwards", 3600.0))),
    *(Fault(f"clock of alice set {way} by an hour, and later right again, while she runs", GOES_ON, stepped(by),
            own=True)
      for way, by in (("back", -3600.0), ("forwards", 3600.0))),
    Fault("kill -9 of alice's daemon, not started again", BLOCKS + "; nothing in the clear", lease_over, "short", True,
          own=True),
    Fault("alice's daemon hangs (SIGSTOP)", BLOCKS, hanging, "short", own=True),
    Fault("kill -9 of alice's daemon, engine wireguard-go", "it ends with the daemon: no traffic, nothing in the clear",
          foreign_killed, "wireguard-go"),
    Fault("alice's daemon hangs (SIGSTOP) for 200 s, max_age 10 min", GOES_ON, hangs_for(200), "long"),
    Fault("alice's engine hangs (SIGSTOP) for 200 s", "back by itself; nothing in the clear; a common new epoch",
          hangs_for(200, engine=True), "long", own=True),
]  # fmt: skip
