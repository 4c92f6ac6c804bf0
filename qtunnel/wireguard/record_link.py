"""Whether records go to a peer: agreed by reports, given up in silence, and asked for again."""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Final

from qtunnel.statemachine import Machine
from qtunnel.wireguard.record_format import MAX_COUNT
from qtunnel.wireguard.record_plain import Report
from qtunnel.wireguard.record_size import RecordSizer

NEVER: Final = inf

REPORT_INTERVAL: Final = 0.1
"""Seconds between two reports while records arrive: at 10 Gbit/s one in 2,000 records, and loss is met in a tenth of
a second."""

SILENCE: Final = 3.0
"""Seconds until a record with packets has to be reported: two round trips over satellites, and 30 reports missed."""

ASK: Final = 1.0
ASK_AGAIN: Final = 0.5
"""Seconds until the peer of such a record is asked for a report, and between two questions: of single records with long
pauses between them, or of their reports, one may be lost, but hardly four questions as well."""

FIRST_PROBE: Final = 0.25
LAST_PROBE: Final = 64.0
"""Seconds between two questions to a peer that does not answer; doubling from the first to the last, which costs such
a peer one datagram a minute."""

FIRST_PAUSE: Final = 1.0
"""Seconds without records after the first silence, and twice as long after each that follows, up to LAST_PROBE: a way
that lets single records pass but not a flow of them must not stop the traffic again and again."""

TOO_LOSSY: Final = 0.04
"""Share of datagrams lost from which packets of busy traffic go one by one: records are so small then that what they
save is less than what their parity costs (measured without delay: at 3 % records carry 1.05 to 1.3 times as much as
standard mode, at 5 % 0.8 to 1)."""

WHOLE_PER_HEALED: Final = 2
"""Records lost for each that was healed, which losses of single datagrams explain: with the sizes that go with a loss
they are 0.1 to 1; more, where a loss is met for which records are too large."""

LASTING: Final = 3
"""Measurements one after the other that show such a loss before a rest: a queue that overflows for some round trips, as
TCP finds its rate, is no lossy link."""

REST: Final = 10.0
"""Seconds until records are tried again on such a link: a third of a second tells whether it still loses."""

SOON: Final = 5.0
LAST_REST: Final = 80.0
"""Seconds within which a link that lost too much again has its rest doubled, up to the last."""

LOOK: Final = 1.0
"""Seconds between two looks at a rest: what a TCP flow needs to find its new rate."""

WORSE: Final = 1 / 2
WORSE_LOOKS: Final = 2
"""A rest was a mistake, and the loss, not the processor, the bound, where the traffic has less than this share of its
rate before, or is thin, at so many looks one after the other. One may fall into a pause between two transfers. The next
REST seconds there is no other rest: what records at this loss cost more than standard mode is less than this share."""

RISING: Final = 1.25
"""Times the rate of the look before, from which a flow is finding its rate, and nothing can be said of it yet: BBR
raises its own by a quarter at a time."""

SPOILED: Final = 3
SPOILED_SHARE: Final = 1 / 8
"""Records that forged datagrams spoiled, and their share of those since the first, from which packets go one by one:
there a forged datagram costs nothing. However little traffic there is: such losses can stop a TCP flow for good."""

TRUSTED: Final = 60.0
"""Seconds of records and reports after which a silence is again the first."""


class RecordState(Enum):
    OFF = "off"
    PROBING = "probing"
    ACTIVE = "active"
    RESTING = "resting"


class RecordEvent(Enum):
    SET = "record mode is set"
    UNSET = "record mode is unset"
    CONFIRMED = "the peer reports that records reach it"
    SILENCE = "records sent, no report for SILENCE"
    LOSSY = "busy, and more than TOO_LOSSY of the datagrams are lost"
    SPOILED = "forged datagrams spoil records"
    RESTED = "REST is over, or, not if SPOILED, fewer packets go than in records"


RECORD_TABLE: Final = {
    (RecordState.OFF, RecordEvent.SET): RecordState.PROBING,
    (RecordState.PROBING, RecordEvent.CONFIRMED): RecordState.ACTIVE,
    (RecordState.PROBING, RecordEvent.UNSET): RecordState.OFF,
    (RecordState.ACTIVE, RecordEvent.SILENCE): RecordState.PROBING,
    (RecordState.ACTIVE, RecordEvent.LOSSY): RecordState.RESTING,
    (RecordState.ACTIVE, RecordEvent.SPOILED): RecordState.RESTING,
    (RecordState.ACTIVE, RecordEvent.UNSET): RecordState.OFF,
    (RecordState.RESTING, RecordEvent.RESTED): RecordState.ACTIVE,
    (RecordState.RESTING, RecordEvent.UNSET): RecordState.OFF,
}


def _share(before: Report, report: Report, *, parity: bool) -> tuple[int, int]:
    """Fragments expected and received between two reports.

    Of records that never came, only their number is known: they have the usual size, and lost just as many datagrams as
    it takes to lose a record. That they lost all would be said of a link whose queues overflow for a moment.

    Where datagrams are lost one by one, parity heals most of the records that miss some. Records lost without that are
    lost whole, where a queue overflows that takes bursts, or a receiver cannot keep up: smaller ones would fare no
    better, and so only those count that the healed ones explain. One that a forged fragment spoiled counts as well: of
    several packets in a message of each only one would have been lost.
    """
    expected, received = report.expected - before.expected, report.received - before.received
    delivered = report.delivered - before.delivered
    lost = max(0, report.next - before.next - delivered)
    usual = max(1, expected // delivered) if delivered > 0 else 1
    if parity and usual > 1:
        spoiled = report.spoiled - before.spoiled
        lost = min(lost, WHOLE_PER_HEALED * (expected - received + 1) + spoiled)
    return expected + lost * usual, received + lost * max(0, usual - (2 if parity else 1))


class RecordLink:
    """Record mode with one peer. Times are monotonic seconds.

    suite: the AEAD's name, empty where record mode is off. ``reason`` tells why records are not sent.
    """

    def __init__(self) -> None:
        self.suite = ""
        self.reason = "not set"
        self.sizer = RecordSizer()
        self._machine = Machine(RECORD_TABLE, RecordState.OFF)
        self._must_reach = 0
        self._baseline = self._latest = self._unspoiled = Report(0, 0, 0, 0)
        self._unanswered_since = NEVER
        """When the first record with packets went out that no report has covered."""
        self._unanswered = 0
        """Its counter."""
        self._next_question = NEVER
        self._probe_interval = FIRST_PROBE
        self._pause = FIRST_PAUSE
        self._active_since = 0.0
        self.next_probe = 0.0
        self._rest = REST
        self._rest_until = 0.0
        self._rested_at = -inf
        self._heard = 0
        self._looked = 0.0
        self._looked_at = -1
        self._looked_rate = inf
        self._reported_at = 0.0
        self._rate = 0.0
        self._no_rest_until = 0.0
        self._worse_looks = 0
        self._lossy = 0
        self._attacked = False
        self.session = -1
        """Receiver index of the session that counters are of."""

    @property
    def state(self) -> RecordState:
        return self._machine.state

    @property
    def active(self) -> bool:
        return self._machine.state is RecordState.ACTIVE

    def set_suite(self, suite: str, now: float) -> None:
        """Record mode with this AEAD; empty: none."""
        if suite == self.suite:
            return
        if self.suite:
            self._machine.fire(RecordEvent.UNSET)
        self.suite, self.reason, self.sizer = suite, "not set", RecordSizer()
        if suite:
            self._machine.fire(RecordEvent.SET)
            self._pause = FIRST_PAUSE
            self._probe_from(now, "the peer has not answered in record mode yet")

    def use_session(self, index: int) -> None:
        """Records go out under that session; in a new one counters begin again, and what was agreed stays agreed."""
        if index != self.session:
            self.session = index
            self._must_reach = self._unanswered = 0
            self._baseline = self._latest = self._unspoiled = Report(0, 0, 0, 0)

    def data_sent(self, counter: int, now: float) -> RecordEvent | None:
        """A record with packets goes out under ``counter``; the event, where it is the last for a while."""
        if self._unanswered_since == NEVER:
            self._unanswered_since, self._unanswered = now, counter
            self._next_question = now + ASK
            return None
        return self.silent(counter, now)

    def silent(self, counter: int, now: float) -> RecordEvent | None:
        """Whether the peer has been silent for too long, ``counter`` being that of the next record; then the event."""
        if not self.active or now - self._unanswered_since < SILENCE:
            return None
        return self._give_up(RecordEvent.SILENCE, counter, now, f"no report of the peer for {SILENCE:.0f} s")

    def reported(self, report: Report, sent: int, now: float, heard: int = 0) -> RecordEvent | None:
        """The peer's report, under a session in which ``sent`` records went out; the event that it brought about.

        heard: datagrams with packets that came from the peer under the session. They make it busy as well: what the
        acknowledgments of a bulk flow cost slows that flow.
        """
        if report.next > sent or not report.received <= report.expected <= MAX_COUNT * report.delivered:
            return None  # no honest peer says so
        if any(new < old for new, old in zip(report.counts, self._latest.counts, strict=True)):
            return None  # overtaken by the one after it
        if report.next > self._unanswered:
            self._unanswered_since = self._next_question = NEVER
        before, self._baseline = self._baseline, report
        latest, self._latest = self._latest, report
        elapsed, self._reported_at = now - self._reported_at, now
        if self.state is RecordState.PROBING:
            if report.next <= self._must_reach or not report.delivered:
                return None
            self.reason = ""
            self._active_since = now
            self._machine.fire(RecordEvent.CONFIRMED)
            return RecordEvent.CONFIRMED
        if self.state is not RecordState.ACTIVE:
            return None
        if elapsed >= REPORT_INTERVAL / 2:
            came, self._heard = max(0, heard - self._heard), heard
            self._rate = (_share(latest, report, parity=self.sizer.parity)[0] + came) / elapsed
            self.sizer.carries(self._rate)
        if self._are_spoiled(report):
            self.reason = "records were spoiled by datagrams that this end did not send"
            return self._rest_from(now, RecordEvent.SPOILED, TRUSTED)
        expected, received = _share(before, report, parity=self.sizer.parity)
        if not self.sizer.measured(expected, received):
            self._baseline = before
            return None
        lossy = self.sizer.loss >= TOO_LOSSY and expected - received >= expected * TOO_LOSSY / 2
        self._lossy = self._lossy + 1 if lossy else 0
        if self._lossy < LASTING or not self.sizer.busy or now < self._no_rest_until:
            return None
        self.reason = f"{self.sizer.loss:.0%} of the datagrams are lost"
        return self._rest_from(now, RecordEvent.LOSSY, SOON)

    def _are_spoiled(self, report: Report) -> bool:
        """Whether forged datagrams spoil too many records; of those that are lost, for others come to no harm."""
        since = self._unspoiled
        spoiled, records = report.spoiled - since.spoiled, report.next - since.next
        harm = min(spoiled, records - (report.delivered - since.delivered))
        if not spoiled or harm >= SPOILED:
            self._unspoiled = report
        return harm >= max(SPOILED, records * SPOILED_SHARE)

    def _rest_from(self, now: float, event: RecordEvent, soon: float) -> RecordEvent:
        """soon: seconds after a rest within which another is twice as long."""
        self._unanswered_since = self._next_question = NEVER
        self._rest = min(2 * self._rest, LAST_REST) if now - self._rested_at < soon else REST
        self._rest_until = now + self._rest
        self._looked, self._looked_at, self._looked_rate, self._worse_looks = now, -1, inf, 0
        self._attacked = event is RecordEvent.SPOILED
        self._machine.fire(event)
        return event

    @property
    def next_look(self) -> float:
        """When ``probe_due``, ``silent`` or ``rest`` has something to do."""
        if self.active:
            return min(self._next_question, self._unanswered_since + SILENCE)
        return self._looked + LOOK if self.state is RecordState.RESTING else self.next_probe

    def rest(self, traffic: int, now: float) -> None:
        """Go back to records once the rest is over, and half the loss is believed then; or where it was a mistake.

        traffic: datagrams with packets of the peer's present session so far, both ways.
        """
        if self.state is not RecordState.RESTING or now < self._looked + LOOK:
            return
        if 0 <= self._looked_at <= traffic:  # not the first look, nor the first of a session
            rate = (traffic - self._looked_at) / (now - self._looked)
            self.sizer.carries(rate)
            worse = not self._attacked and (not self.sizer.busy or rate < self._rate * WORSE)
            self._worse_looks = self._worse_looks + 1 if worse and rate <= self._looked_rate * RISING else 0
            self._looked_rate = rate
        self._looked, self._looked_at = now, traffic
        if self._worse_looks == WORSE_LOOKS:
            self._no_rest_until = now + REST
        elif now >= self._rest_until:
            self._rested_at = now
            self.sizer.believe(TOO_LOSSY / 2)
        else:
            return
        self.reason, self._reported_at, self._lossy = "", now, 0
        self._machine.fire(RecordEvent.RESTED)

    def probe_from(self, now: float) -> None:
        """There is a new session, in which a peer may answer that did not before."""
        if self.state is RecordState.PROBING and self.session < 0:
            self.next_probe = now

    def probe_due(self, now: float) -> bool:
        """Whether to ask the peer now; the next time is set."""
        if self.active and now >= self._next_question:
            self._next_question = now + ASK_AGAIN
            return True
        if self.state is not RecordState.PROBING or now < self.next_probe:
            return False
        self.next_probe = now + self._probe_interval
        self._probe_interval = min(2 * self._probe_interval, LAST_PROBE)
        return True

    def _give_up(self, event: RecordEvent, counter: int, now: float, reason: str) -> RecordEvent:
        self._machine.fire(event)
        if now - self._active_since > TRUSTED:
            self._pause = FIRST_PAUSE
        self._must_reach = counter
        self._probe_from(now + self._pause, reason)
        self._pause = min(2 * self._pause, LAST_PROBE)
        return event

    def _probe_from(self, now: float, reason: str) -> None:
        self.reason = reason
        self._unanswered_since = self._next_question = NEVER
        self._probe_interval = FIRST_PROBE
        self.next_probe = now
