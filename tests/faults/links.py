"""Faults of the link, and of what a gateway stands on: addresses and interfaces."""

from __future__ import annotations

import time

from tests.faults.fault import Act, Fault, Outcome
from tests.faults.lab import FaultLab
from tests.faults.traffic import Traffic
from tests.support.netns import join, wait_until


def healed(lab: FaultLab, before: int) -> float:
    """Wait for a common epoch after the fault, and for the echoes of then; when it was there, monotonic seconds."""
    lab.agree(before, 90)
    until = time.monotonic()
    time.sleep(0.5)
    return until


def resumed(outcome: Outcome, seen: Traffic, end: float, until: float, what: str) -> float:
    """Tell how long after the fault there was traffic, and an epoch; the seconds without traffic from then on."""
    again = max((last for _, last, _ in seen.gaps), default=end)
    outcome.fact(f"traffic {max(0.0, again - end):.1f} s and a new epoch {until - end:.1f} s after the {what}")
    return again - end


def at_once(outcome: Outcome, silence: float) -> None:
    """silence: as ``resumed`` gives it."""
    outcome.expect(silence < 0.1, f"no traffic for {silence:.2f} s after the link was back")


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
            until = healed(lab, before)
        silence = resumed(outcome, seen, end, until, "link")
        inside = seen.lost_between(begin - 0.05, until)
        outcome.fact(f"{seen.lost - inside} of {seen.sent} lost but by the link")
        outcome.expect(seen.lost == inside, f"lost: {seen.gaps}, the link was cut from {begin} to {end}")
        if seconds < 60:
            at_once(outcome, silence)
        shown = [peer.protection if peer is not None else "no status" for peer in states]
        over = seconds > 180 or seconds > lab_max_age(lab)
        outcome.fact(f"shown meanwhile: {', '.join(shown)}")
        outcome.expect(not over or "qkd+pqc" not in shown, f"the status claims {shown} over dead keys")

    return act


def lab_max_age(lab: FaultLab) -> float:
    peer = lab.alice.shown
    assert peer is not None
    return peer.max_age_s or 0.0


def impaired(seconds: float, lossless: bool, **impairment: float) -> Act:
    """The emulated link does that to datagrams for some seconds, in which rekeys go on."""

    def act(lab: FaultLab, outcome: Outcome) -> None:
        before = lab.epoch
        with lab.traffic() as seen:
            begin = time.monotonic()
            lab.link.set(**impairment)
            time.sleep(seconds)
            during = lab.epoch
            fate = lab.link.set()
            end = time.monotonic()
            lab.agree(max(before, during), 60)
            time.sleep(0.5)
        outcome.fact(", ".join(f"{count} datagrams {what}" for what, count in fate.items() if count))
        outcome.fact(f"{during - before} epochs meanwhile")
        outcome.expect(during > before, "no rekey got through")
        if lossless:
            outcome.lossless(seen)
        else:
            outcome.by_the_link(seen, begin, end + 0.5)
        outcome.expect(lab.leaked() == 0, f"{lab.leaked()} packets in the clear")

    return act


def deaf(name: str, seconds: float) -> Act:
    """One end hears nothing, though it is heard."""

    def act(lab: FaultLab, outcome: Outcome) -> None:
        before, site = lab.epoch, lab.sites[name]
        with lab.traffic() as seen:
            begin = time.monotonic()
            site.rule("in", 'iifname "eth0" drop')
            lab.alice.rekey()
            time.sleep(seconds)
            site.clear()
            end = time.monotonic()
            until = healed(lab, before)
        silence = resumed(outcome, seen, end, until, "link")
        outcome.by_the_link(seen, begin, until)
        at_once(outcome, silence)

    return act


def moved(lab: FaultLab, outcome: Outcome) -> None:
    """Bob's outer address, and back: alice knows him by the old one alone."""
    host = lab.bob.namespace
    with lab.traffic() as seen:
        begin = time.monotonic()
        for old, new in (("10.98.0.2", "10.98.0.9"), ("10.98.0.9", "10.98.0.2")):
            before = lab.epoch
            at = time.monotonic()
            host.ip("addr", "del", f"{old}/24", "dev", "eth0")
            host.ip("addr", "add", f"{new}/24", "dev", "eth0")
            lab.agree(before, 90)
            outcome.fact(f"a new epoch {time.monotonic() - at:.1f} s after the move to {new}")
        until = time.monotonic()
        time.sleep(0.5)
    longest = max((last - first for first, last, _ in seen.gaps), default=0.0)
    outcome.fact(f"no traffic for {longest:.1f} s at most")
    outcome.by_the_link(seen, begin, until)
    outcome.expect(lab.leaked() == 0, f"{lab.leaked()} packets in the clear")


def outer_removed(lab: FaultLab, outcome: Outcome) -> None:
    """The interface that the link is at, at both ends, for 5 s; then there is another one."""
    before = lab.epoch
    with lab.traffic() as seen:
        begin = time.monotonic()
        lab.alice.namespace.ip("link", "del", "eth0")
        time.sleep(5)
        join(lab.alice.namespace, lab.bob.namespace)
        lab.alice.namespace.address("eth0", "10.99.0.1/24")
        lab.bob.namespace.address("eth0", "10.99.0.2/24")
        end = time.monotonic()
        until = healed(lab, before)
    resumed(outcome, seen, end, until, "interface")
    outcome.by_the_link(seen, begin, until)
    outcome.expect(lab.leaked() == 0, f"{lab.leaked()} packets in the clear")


def tunnel_removed(lab: FaultLab, outcome: Outcome) -> None:
    """By somebody else, with ip(8)."""
    before, alice, since = lab.epoch, lab.alice, len(lab.alice.log)
    with lab.traffic() as seen:
        begin = time.monotonic()
        alice.namespace.ip("link", "del", alice.interface)
        wait_until(lambda: "event=engine.restarted" in alice.log[since:], "another engine", 30)
        lab.agree(before)
        until = time.monotonic()
        time.sleep(0.5)
    longest = max((last - first for first, last, _ in seen.gaps), default=0.0)
    outcome.fact(f"no traffic for {longest:.1f} s, {lab.leaked()} in the clear")
    outcome.by_the_link(seen, begin, until)
    outcome.expect(lab.leaked() == 0, "packets in the clear")


RECOVERS = "0 lost but by the link; a common new epoch"
AT_ONCE = "0 lost but by the link; traffic at once; a common new epoch"
BACK = "back by itself; nothing in the clear; a common new epoch"
MEANWHILE = "0 lost; rekeys go on meanwhile"
LOSSY = "0 lost but by the link; rekeys go on meanwhile"
LINKS: list[Fault] = [
    Fault("link cut for 5 s", AT_ONCE, cut(5)),
    Fault("link cut from bob to alice for 5 s", AT_ONCE, deaf("alice", 5)),
    Fault("link cut from alice to bob for 5 s", AT_ONCE, deaf("bob", 5)),
    Fault("outer interfaces removed for 5 s", RECOVERS + "; nothing in the clear", outer_removed),
    Fault("tunnel interface of alice removed", BACK, tunnel_removed, own=True),
    Fault("link reorders a fifth of all datagrams by up to 20 ms, for 10 s", MEANWHILE,
          impaired(10, True, reorder=0.2), "faulty link"),
    Fault("link duplicates a fifth of all datagrams, for 10 s", MEANWHILE,
          impaired(10, True, duplicate=0.2), "faulty link"),
    Fault("link takes 100 ms longer, for 10 s", MEANWHILE, impaired(10, True, delay_s=0.1), "faulty link"),
    Fault("link corrupts 2 % of all datagrams, for 10 s", LOSSY, impaired(10, False, corrupt=0.02), "faulty link"),
    Fault("link loses 5 % of all datagrams, for 10 s", LOSSY, impaired(10, False, lose=0.05), "faulty link"),
    Fault("link carries 5 Mbit/s, a quarter of the load, for 10 s", LOSSY,
          impaired(10, False, rate=5e6), "faulty link"),
    Fault("address of bob changes, and changes back", RECOVERS + "; nothing in the clear", moved, "moving"),
    Fault("link cut for longer than max_age", "blocked at both ends; traffic with the next common epoch",
          cut(20), "short"),
    Fault("link cut for 200 s, longer than WireGuard's sessions live", "not shown as protected; a common new epoch",
          cut(200), "long"),
]  # fmt: skip
