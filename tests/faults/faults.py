"""The faults: what is done, what has to come of it, and what came of it."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.faults.lab import FaultLab, Site
from tests.faults.traffic import Traffic
from tests.support.netns import wait_until

BLOCK_BOUND = 1.0
"""Seconds after max_age within which traffic has to stop."""
EARLY = 0.1
"""Seconds before it that are not yet too early: an age is read some milliseconds after it is told."""
BACK = """
import time
real, real_ns = time.time, time.time_ns
time.time, time.time_ns = lambda: real() - 3600, lambda: real_ns() - 3600 * 10**9
from qtunnel.cli.main import main
main()
"""
"""A daemon for which it is an hour earlier."""


@dataclass
class Outcome:
    """What came of a fault: facts for the table, and what was not as it has to be."""

    facts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def fact(self, text: str) -> None:
        self.facts.append(text)

    def expect(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(problem)

    def said(self, site: Site, since: int, *words: str) -> None:
        """All words in one line of the log."""
        found = any(all(word in line for word in words) for line in site.log[since:].splitlines())
        self.expect(found, f"the log of {site.name} has no line with {words}")

    def lossless(self, seen: Traffic) -> None:
        self.fact(f"{seen.lost} of {seen.sent} lost")
        self.expect(seen.lost == 0, f"lost: {seen.gaps}")
        self.expect(seen.sent > 50, f"only {seen.sent} echoes")

    def blocked(self, seen: Traffic, at: float, until: float) -> None:
        """Nothing was lost but from ``at`` to ``until``; and from ``at`` on nothing passed."""
        inside = seen.lost_between(at - EARLY, until)
        first = min((gap[0] for gap in seen.gaps if gap[1] >= at - EARLY), default=until)
        self.fact(f"{seen.lost - inside} of {seen.sent} lost while allowed; blocked {first - at:+.2f} s from max_age")
        self.expect(seen.lost == inside, f"lost while policy allowed traffic: {seen.gaps}, {at}")
        self.expect(-EARLY <= first - at <= BLOCK_BOUND, f"blocked {first - at:+.2f} s from max_age")
        longest = max((last - begin for begin, last, _ in seen.gaps), default=0.0)
        self.expect(longest > 0.8 * (until - at) - BLOCK_BOUND, f"it did not stay blocked: {seen.gaps}")


Act = Callable[[FaultLab, Outcome], None]


@dataclass(frozen=True)
class Fault:
    """One line of the table. lab: which of LABS it is done in. quick: also part of every test run."""

    name: str
    expectation: str
    act: Act
    lab: str = "steady"
    quick: bool = False


LABS: dict[str, dict[str, Any]] = {
    "steady": {"interval": "20s", "max_age": "60s"},
    "short": {"interval": "4s", "max_age": "12s"},
    "long": {"interval": "20s", "max_age": "10m"},
    "wireguard-go": {"interval": "20s", "max_age": "60s", "engine": "wireguard-go"},
}

GOES_ON = "0 lost; a common new epoch"
DIFFERENT = "the two ends hold different QKD keys under the same key_ID"
BLOCKS = "0 lost while allowed; blocked within 1 s of max_age; a common new epoch afterwards"


# kill -9 at each step of a rekey

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
            yield Fault(f"kill -9 of {names[0]}'s daemon: {step}", GOES_ON, killed(step, *names), quick=quick)
    yield Fault("kill -9 of both daemons: committed, message 4 lost", GOES_ON,
                killed("committed, message 4 lost", "alice", "bob"))  # fmt: skip


# a daemon that nobody starts again, or that hangs


def lease_over(lab: FaultLab, outcome: Outcome) -> None:
    alice, before, since = lab.alice, lab.epoch, len(lab.alice.log)
    with lab.traffic() as seen:
        alice.kill()
        at = _stops(lab, alice)
        time.sleep(max(0.0, at - time.monotonic()) + 3)
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
            time.sleep(max(0.0, at - time.monotonic()) + 3)
        finally:
            os.kill(alice.process.pid, signal.SIGCONT)
        lab.agree(before)
        until = time.monotonic()
        time.sleep(0.5)
    outcome.blocked(seen, at, until)
    outcome.said(alice, since, "event=peer.blocked", "no new epoch for 12 s: traffic is blocked")


def _stops(lab: FaultLab, silent: Site) -> float:
    """When traffic has to stop, as the end tells that can: the silent one made the epoch when that did."""
    told = next(site for site in lab.sites.values() if site is not silent).expiry()
    assert told is not None
    return told[1]


# KMEs


def outage(names: tuple[str, ...], seconds: float | None, *words: str) -> Act:
    """Stopped for that long; None: until max_age is over, and 3 s more. words: of log and status, meanwhile."""

    def act(lab: FaultLab, outcome: Outcome) -> None:
        lab.lead()
        since = len(lab.alice.log)
        with lab.traffic() as seen:
            begin = time.monotonic()
            over: float | None = None
            for name in names:
                lab.sites[name].stop_kme()
            if seconds is None:
                over = _until_over(lab, *words)
            else:
                time.sleep(max(0.0, begin + seconds - time.monotonic()))
            for name in names:
                lab.sites[name].resume_kme()
            resumed = time.monotonic()
            lab.agree(lab.epoch)
            until = time.monotonic()
            outcome.fact(f"new epoch {until - resumed:.1f} s after the KME")
            time.sleep(0.5)
        _judge(outcome, lab, seen, over, until)
        outcome.said(lab.alice, since, "event=rekey.failed", *words)

    return act


def _until_over(lab: FaultLab, *words: str) -> float:
    """Wait until both ends are blocked, and 3 s more, and alice's last error in the status has these words; when
    max_age was over."""
    told: dict[str, tuple[int, float]] = {}

    def blocked() -> bool:
        for name, site in lab.sites.items():
            now = site.expiry()
            if now is not None:
                told[name] = max(now, told.get(name, now))  # each is a little too early, by how long the answer took
        return all(site.shown is not None and site.shown.protection == "blocked" for site in lab.sites.values())

    def explained() -> bool:
        shown = lab.alice.shown
        return shown is not None and all(word in (shown.last_error or "") for word in words)

    wait_until(blocked, "both ends are blocked", 90)
    time.sleep(3)
    wait_until(explained, f"the status of alice says {words}", 60)
    return min(at for _, at in told.values())


def _judge(outcome: Outcome, lab: FaultLab, seen: Traffic, over: float | None, until: float) -> None:
    if over is None:
        outcome.lossless(seen)
    else:
        outcome.blocked(seen, over, until)
        for site in lab.sites.values():
            outcome.said(site, 0, "event=peer.blocked", f"no new epoch for {LABS['short']['max_age'][:-1]} s")
    outcome.expect(lab.leaked() == 0, f"{lab.leaked()} packets in the clear")


def slow(name: str) -> Act:
    def act(lab: FaultLab, outcome: Outcome) -> None:
        lab.lead()
        before = lab.epoch
        with lab.traffic() as seen:
            lab.sites[name].tell("slow 10")
            try:
                lab.alice.rekey()
                _, took = lab.agree(before)
            finally:
                lab.sites[name].tell("pass")
            outcome.fact(f"the rekey took {took:.1f} s")
            outcome.expect(took > 10, "the KME was not slow")
        outcome.lossless(seen)

    return act


def lying(name: str, how: str, event: str, *words: str) -> Act:
    def act(lab: FaultLab, outcome: Outcome) -> None:
        lab.lead()
        since = len(lab.alice.log)
        with lab.traffic() as seen:
            told = lab.sites[name].tell(f"lie {how}")
            over = _until_over(lab, *words)
            lies = sum(line.startswith("lied") for line in lab.sites[name].said[told:])
            epoch = lab.epoch
            lab.sites[name].tell("pass")
            lab.agree(epoch)
            until = time.monotonic()
            time.sleep(0.5)
        outcome.fact(f"{lies} false answers")
        outcome.expect(lies > 0, "it did not lie")
        _judge(outcome, lab, seen, over, until)
        outcome.said(lab.alice, since, event, *words)

    return act


# the link, the engine, the disk, the clock


def cut(seconds: float) -> Act:
    def act(lab: FaultLab, outcome: Outcome) -> None:
        before, alice = lab.epoch, lab.alice
        with lab.traffic() as seen:
            begin = time.monotonic()
            for chain, direction in (("in", "iifname"), ("out", "oifname")):
                alice.rule(chain, f'{direction} "eth0" drop')
            alice.rekey()
            time.sleep(seconds)
            states = [site.shown for site in lab.sites.values()]
            alice.clear()
            end = time.monotonic()
            lab.agree(before, 90)
            until = time.monotonic()
            time.sleep(0.5)
        again = max((last for _, last, _ in seen.gaps), default=end)
        outcome.fact(f"traffic {max(0.0, again - end):.1f} s and a new epoch {until - end:.1f} s after the link")
        inside = seen.lost_between(begin - 0.05, until)
        outcome.fact(f"{seen.lost - inside} of {seen.sent} lost but by the link")
        outcome.expect(seen.lost == inside, f"lost: {seen.gaps}, the link was cut from {begin} to {end}")
        if seconds < 60:
            outcome.expect(again - end < 0.1, f"no traffic for {again - end:.2f} s after the link was back")
        shown = [peer.protection if peer is not None else "no status" for peer in states]
        over = seconds > 180 or seconds > lab_max_age(lab)
        outcome.fact(f"shown meanwhile: {', '.join(shown)}")
        outcome.expect(not over or "qkd+pqc" not in shown, f"the status claims {shown} over dead keys")

    return act


def lab_max_age(lab: FaultLab) -> float:
    peer = lab.alice.shown
    assert peer is not None
    return peer.max_age_s or 0.0


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
    outcome.said(alice, since, "event=engine.died", "was killed by SIGKILL")


def disk_full(lab: FaultLab, outcome: Outcome) -> None:
    alice, since = lab.alice, len(lab.alice.log)
    with alice.small_disk() as filler, lab.traffic() as seen:
        lab.lead()
        before = lab.epoch
        filler.fill()
        alice.rekey()
        epoch, _ = lab.agree(before)
        alice.kill()
        log = len(alice.log)
        alice.start()
        assert alice.process is not None
        code = alice.process.wait(60)
        outcome.fact(f"a rekey without a disk; a restart ends with code {code}")
        outcome.expect(code == 1, f"exit code {code}")
        outcome.said(alice, log, "node.state_dir:", "No space left on device; make room there")
        filler.free()
        alice.restart()
        lab.agree(epoch)
        time.sleep(0.5)
    outcome.lossless(seen)
    outcome.said(alice, since, "event=state.unwritable", "No space left on device")


def clock_back(lab: FaultLab, outcome: Outcome) -> None:
    alice, before = lab.alice, lab.epoch
    with lab.traffic() as seen:
        alice.kill()
        alice.program = ("-c", BACK)
        alice.restart()
        _, took = lab.agree(before)
        outcome.fact(f"a new epoch after {took:.1f} s")
        epoch = lab.epoch
        alice.program = ("-m", "qtunnel")
        alice.kill()
        alice.restart()
        lab.agree(epoch)
        time.sleep(0.5)
    outcome.lossless(seen)
    told = re.findall(r"ts=(\S+) .*event=daemon.ready", alice.log)
    outcome.expect(told[-2] < told[-3], f"the clock was not set back: {told}")


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


FAULTS: list[Fault] = [
    *kills(),
    Fault("clock of alice set back by an hour at a restart after kill -9", GOES_ON, clock_back),
    Fault("the disk of alice's state directory full, then kill -9", GOES_ON + "; starts once there is room", disk_full),
    Fault("KME of alice takes 10 s", GOES_ON, slow("alice")),
    Fault("KME of bob takes 10 s", GOES_ON, slow("bob")),
    Fault("link cut for 5 s", "0 lost but by the link; traffic at once; a common new epoch", cut(5)),
    Fault("engine of alice killed", "back by itself; nothing in the clear; a common new epoch", engine_killed),
    Fault("kill -9 of alice's daemon, not started again", BLOCKS + "; nothing in the clear", lease_over, "short", True),
    Fault("alice's daemon hangs (SIGSTOP)", BLOCKS, hanging, "short"),
    Fault("KME of alice stopped for 6 s", GOES_ON, outage(("alice",), 6, "connection refused"), "short", True),
    Fault("KME of bob stopped for 6 s", GOES_ON, outage(("bob",), 6, "partner KME kme-b: cannot be reached"), "short"),
    Fault("KME of alice stopped", BLOCKS,
          outage(("alice",), None, "policy requires QKD and there is no key: metro", "connection refused"), "short"),
    Fault("KME of bob stopped", BLOCKS,
          outage(("bob",), None, "policy requires QKD and there is no key: metro", "partner KME kme-b"), "short"),
    Fault("both KMEs stopped", BLOCKS,
          outage(("alice", "bob"), None, "policy requires QKD and there is no key: metro", "connection refused"),
          "short"),
    Fault("KME of bob gives a wrong key for a key_ID", BLOCKS,
          lying("bob", "wrong-key", "event=message.rejected", DIFFERENT), "short"),
    Fault("KME of alice gives the key_ID of another SAE's key", BLOCKS,
          lying("alice", "other-sae sae-carol", "event=rekey.failed", "too few QKD keys for the policy of one end",
                "metro: it gave no key; the log of the other end says why"), "short"),
    Fault("KME of alice answers malformed", BLOCKS,
          lying("alice", "malformed", "event=rekey.failed", "policy requires QKD and there is no key: metro",
                "enc_keys: HTTP 200, but "), "short"),
    Fault("KME of bob answers malformed", BLOCKS,
          lying("bob", "malformed", "event=rekey.failed", "too few QKD keys for the policy of one end; the peer says:",
                "metro: it gave no key; the log of the other end says why"), "short"),
    Fault("link cut for longer than max_age", "blocked at both ends; traffic with the next common epoch",
          cut(20), "short"),
    Fault("link cut for 200 s, longer than WireGuard's sessions live", "not shown as protected; a common new epoch",
          cut(200), "long"),
    Fault("kill -9 of alice's daemon, engine wireguard-go", "it ends with the daemon: no traffic, nothing in the clear",
          foreign_killed, "wireguard-go"),
]  # fmt: skip
