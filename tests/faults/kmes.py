"""Faults of the KMEs, at one end and at both."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.faults.fault import BLOCKS, GOES_ON, LABS, Act, Fault, Outcome
from tests.faults.lab import Expiry, FaultLab
from tests.faults.traffic import Traffic
from tests.support.netns import wait_until

DIFFERENT = "the two ends hold different QKD keys under the same key_ID"
NO_KEY = "policy requires QKD and there is no key: metro"
GAVE_NONE = "metro: it gave no key; the log of the other end says why"


def outage(names: tuple[str, ...], seconds: float | None, *words: str) -> Act:
    """Stopped for that long; None: until max_age is over, and 3 s more. words: of log and status, meanwhile."""

    def act(lab: FaultLab, outcome: Outcome) -> None:
        lab.lead()
        since = len(lab.alice.log)
        with lab.traffic() as seen:
            begin = time.monotonic()
            over: Expiry | None = None
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


def _until_over(lab: FaultLab, *words: str) -> Expiry:
    """Wait until both ends are blocked, and 3 s more, and alice's last error in the status has these words; when
    max_age was over."""
    told: dict[str, Expiry] = {}

    def blocked() -> bool:
        for name, site in lab.sites.items():
            now = site.expiry()
            if now is not None:
                told[name] = now.with_(told.get(name))
        return all(site.shown is not None and site.shown.protection == "blocked" for site in lab.sites.values())

    def explained() -> bool:
        shown = lab.alice.shown
        return shown is not None and all(word in (shown.last_error or "") for word in words)

    wait_until(blocked, "both ends are blocked", 90)
    time.sleep(3)
    wait_until(explained, f"the status of alice says {words}", 60)
    return min(told.values(), key=lambda one: one.low)


def _judge(outcome: Outcome, lab: FaultLab, seen: Traffic, over: Expiry | None, until: float) -> None:
    if over is None:
        outcome.lossless(seen)
    else:
        outcome.blocked(seen, over, until)
        for site in lab.sites.values():
            outcome.said(site, 0, "event=peer.blocked", f"no new epoch for {LABS['short']['max_age'][:-1]} s")
    outcome.expect(lab.leaked() == 0, f"{lab.leaked()} packets in the clear")


def slow(*names: str) -> Act:
    def act(lab: FaultLab, outcome: Outcome) -> None:
        lab.lead()
        before = lab.epoch
        with lab.traffic() as seen:
            for name in names:
                lab.sites[name].tell("slow 10")
            try:
                lab.alice.rekey()
                _, took = lab.agree(before)
            finally:
                for name in names:
                    lab.sites[name].tell("pass")
            outcome.fact(f"the rekey took {took:.1f} s")
            outcome.expect(took > 10, "the KME was not slow")
        outcome.lossless(seen)

    return act


def for_a_while(names: tuple[str, ...], command: str, event: str, words: str) -> Act:
    """The relays do as they are told for 6 s, which is more than an interval and less than max_age. words: of the logs
    of those ends."""

    def act(lab: FaultLab, outcome: Outcome) -> None:
        lab.lead()
        sites = [lab.sites[name] for name in names]
        since = {site.name: len(site.log) for site in lab.sites.values()}
        with lab.traffic() as seen:
            for site in sites:
                site.tell(command)
            time.sleep(6)
            for site in sites:
                site.tell("pass")
            _, took = lab.agree(lab.epoch)
            outcome.fact(f"new epoch {took:.1f} s after the fault")
            time.sleep(0.5)
        outcome.lossless(seen)
        outcome.said(lab.alice, since["alice"], event)
        if names == ("alice", "bob"):  # alice has no key, so bob may have been asked for none
            sites = [lab.alice]
        for site in sites:
            outcome.said(site, since[site.name], words)

    return act


def lying(names: tuple[str, ...], how: str, event: str, *words: str) -> Act:
    def act(lab: FaultLab, outcome: Outcome) -> None:
        lab.lead()
        since = len(lab.alice.log)
        sites = [lab.sites[name] for name in names]
        with lab.traffic() as seen:
            told = {site.name: site.tell(f"lie {how}") for site in sites}
            over = _until_over(lab, *words)
            lies = [sum(line.startswith("lied") for line in site.said[told[site.name] :]) for site in sites]
            epoch = lab.epoch
            for site in sites:
                site.tell("pass")
            lab.agree(epoch)
            until = time.monotonic()
            time.sleep(0.5)
        outcome.fact(f"{sum(lies)} false answers")
        outcome.expect(sum(lies) > 0, "it did not lie")
        _judge(outcome, lab, seen, over, until)
        outcome.said(lab.alice, since, event, *words)

    return act


WHERE = {"KME of alice": ("alice",), "KME of bob": ("bob",), "both KMEs": ("alice", "bob")}
"""In a row's name, and of whom."""


def whiles() -> Iterator[Fault]:
    """Every kind at one end, at the other, and at both. What alice says where only bob's is at fault: the peer's words,
    or her own KME's."""
    kinds = {
        "does not answer": ("hang", ""),
        "answers HTTP 503": ("status 503", "HTTP 503"),
        "answers HTTP 401": ("status 401", "HTTP 401"),
        "breaks its answers off": ("break", ""),
        "has a certificate that is none of a KME's": ("stranger", "certificate"),
    }
    for kind, (command, words) in kinds.items():
        for where, names in WHERE.items():
            subject = f"{where} {kind}" if where != "both KMEs" else f"{where}: each {kind}"
            yield Fault(
                f"{subject}, for 6 s", GOES_ON, for_a_while(names, command, "event=rekey.failed", words), "brief"
            )


def lies() -> Iterator[Fault]:
    mismatch = ("event=rekey.failed", DIFFERENT)  # message.rejected names it, too, but once a minute
    for where, names in WHERE.items():
        verb = "give" if where == "both KMEs" else "gives"
        yield Fault(f"{where} {verb} a wrong key for a key_ID", BLOCKS, lying(names, "wrong-key", *mismatch), "short")
    yield Fault("KME of alice gives the key_ID of another SAE's key", BLOCKS,
                lying(("alice",), "other-sae sae-carol", "event=rekey.failed",
                      "too few QKD keys for the policy of one end",
                      GAVE_NONE), "short")  # fmt: skip
    own, others = (NO_KEY, "enc_keys: HTTP 200, but "), (
        "too few QKD keys for the policy of one end; the peer says:", GAVE_NONE)  # fmt: skip
    for where, names in WHERE.items():
        verb = "answer" if where == "both KMEs" else "answers"
        words = own if "alice" in names else others
        yield Fault(
            f"{where} {verb} malformed", BLOCKS, lying(names, "malformed", "event=rekey.failed", *words), "short"
        )


REFUSED, PARTNER = "connection refused", "partner KME kme-b"
KMES: list[Fault] = [
    Fault("KME of alice takes 10 s", GOES_ON, slow("alice")),
    Fault("KME of bob takes 10 s", GOES_ON, slow("bob")),
    Fault("both KMEs take 10 s", GOES_ON, slow("alice", "bob")),
    Fault("KME of alice stopped for 6 s", GOES_ON, outage(("alice",), 6, REFUSED), "short", True),
    Fault("KME of bob stopped for 6 s", GOES_ON, outage(("bob",), 6, f"{PARTNER}: cannot be reached"), "short"),
    Fault("both KMEs stopped for 6 s", GOES_ON, outage(("alice", "bob"), 6, REFUSED), "short"),
    *whiles(),
    Fault("KME of alice stopped", BLOCKS, outage(("alice",), None, NO_KEY, REFUSED), "short"),
    Fault("KME of bob stopped", BLOCKS, outage(("bob",), None, NO_KEY, PARTNER), "short"),
    Fault("both KMEs stopped", BLOCKS, outage(("alice", "bob"), None, NO_KEY, REFUSED), "short"),
    *lies(),
]
