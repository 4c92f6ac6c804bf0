"""What is known of each key source: its state, what it said last, what it gave and what was lost. Told as events."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from qtunnel.config import KeySourceConfig
from qtunnel.control.messages import FaultKind
from qtunnel.daemon.clock import monotonic
from qtunnel.errors import (
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceCertificateError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceStatusError,
    KeySourceTimeoutError,
    KeySourceUnauthorizedError,
    KeySourceUnavailableError,
    KeySourceUnreachableError,
)
from qtunnel.events import EventStream
from qtunnel.keys.health import SourceHealth, SourceState
from qtunnel.keys.quality import SeenKeys, defect
from qtunnel.keys.source import SourceStatus
from qtunnel.keys.trust import Trust, TrustState
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef

DOWN = (KeySourceUnreachableError, KeySourceTimeoutError, KeySourceCertificateError, KeySourceUnauthorizedError)
"""What the calls of all peers would meet. A source that has no key, or not this one, answers and is not down."""

NOBODY = (KeySourceUnreachableError, KeySourceCertificateError)
"""Of these, what a look at the status meets only where a call for a key would meet it too. A status that hangs or is
forbidden says nothing of the keys; were the source put to rest by it, looks before keys would keep it there."""

FAULTS: dict[type[KeySourceError], FaultKind] = {
    KeySourceUnreachableError: "unreachable",
    KeySourceTimeoutError: "timeout",
    KeySourceCertificateError: "certificate",
    KeySourceUnauthorizedError: "unauthorized",
    KeyRequestRejectedError: "rejected",
    KeySourceUnavailableError: "unavailable",
    KeyNotFoundError: "key-not-found",
    KeySourceProtocolError: "protocol",
    KeySourceStatusError: "protocol",
}
"""Each kind of failure by the word that status and metrics have for it."""
DEFECT: FaultKind = "driver"
"""The word for a failure that is none of them: of the driver itself."""


@dataclass(slots=True)
class Known:
    """One source. towards: what it says of its keys with each peer, in the order of the configuration. detail: what it
    said last; key_size: of the key that it gave last, in bytes; faults: calls that failed, by ``FAULTS``. waited: the
    peer with which a key failed last, in a way that may be of that peer alone; unread: the one towards which the last
    look failed."""

    description: str
    health: SourceHealth
    towards: dict[str, Trust] = field(default_factory=dict)
    detail: str = ""
    last_error: str | None = None
    key_size: int | None = None
    waited: str | None = None
    unread: str | None = None
    faults: dict[FaultKind, int] = field(default_factory=dict)

    @property
    def healthy(self) -> bool | None:
        """``None`` where it was not asked yet."""
        return {SourceState.UNASKED: None, SourceState.WELL: True}.get(self.health.state, False)


class SourceBook:
    """All sources of the configuration, by name."""

    def __init__(self, events: EventStream) -> None:
        self._events = events
        self._known: dict[str, Known] = {}
        self._seen = SeenKeys(Secret.random(os.urandom, 32))

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def keep(
        self,
        sources: Mapping[str, KeySourceConfig],
        fresh: Mapping[str, object],
        intervals: Mapping[str, float],
        pairs: Collection[tuple[str, str]],
        quiet: Collection[str] = (),
    ) -> None:
        """The sources of another configuration; fresh: those that are new, or not those of before; intervals: the
        shortest between the rekeys that use each, in seconds; pairs: of peer and source; quiet: sources whose status
        tells neither QBER nor alarm. A quarantine stays in force for a source of the same name: only who clears it ends
        it."""
        before, self._known = self._known, {}
        for name, source in sources.items():
            its = before.get(name)
            stays = its is not None and (name not in fresh or its.health.state is SourceState.QUARANTINED)
            if its is None or not stays:
                its = Known(f"{source.driver}:{name}", SourceHealth(name, source.rules.limits, monotonic()))
            its.description, its.health.quarantine.limits = f"{source.driver}:{name}", source.rules.limits
            its.health.interval = intervals.get(name, its.health.interval)
            self._known[name] = its
            trusted = before[name].towards if name in before else {}
            its.towards = {}
            for peer in [peer for peer, own in pairs if own == name]:
                known = trusted.get(peer)
                if known is None or (name in fresh and known.state is not TrustState.QUARANTINED):
                    doubts = 0 if known is None else known.doubts  # of before stay, as keys may be on their way still
                    known = Trust(name, peer, source.rules.limits, warns=name not in quiet)
                    known.doubts = doubts
                known.quarantine.limits = source.rules.limits
                its.towards[peer] = known

    def describe(self, name: str) -> str:
        """Driver and name, as ``etsi014:metro``."""
        return self._known[name].description if name in self._known else name

    def refusal(self, name: str, peer: str) -> str | None:
        """Why it must not be asked for keys with that peer now; ``None`` where it may be."""
        its = self._known.get(name)
        if its is None:
            return None
        refusal, trust = its.health.refusal(monotonic()), its.towards.get(peer)
        if refusal is not None or trust is None:
            return refusal
        before = trust.state
        refusal = trust.refusal(monotonic())
        self._tell_trust(trust, before)
        return refusal

    def waits(self, name: str, peer: str) -> bool:
        """Whether its keys with that peer that are here already wait for the first look; not for longer than one that
        is asked for now, also where a source that rests is not looked at."""
        trust = self.trust(name, peer)
        if trust is None or trust.seen:
            return False
        if not trust.begun:
            trust.begins(monotonic())
        before, waits = trust.state, trust.refusal(monotonic()) is not None
        self._tell_trust(trust, before)
        return waits

    def resting(self, name: str) -> str | None:
        """Why it must not be asked for anything now; ``None`` where it may be."""
        its = self._known.get(name)
        return None if its is None else its.health.refusal(monotonic())

    def trust(self, name: str, peer: str) -> Trust | None:
        """What is known of its keys with that peer; ``None`` for a pair that the configuration has not."""
        its = self._known.get(name)
        return None if its is None else its.towards.get(peer)

    def barred(self, name: str, peer: str) -> bool:
        """Whether keys with that peer must not be used, also those that are here."""
        trust = self.trust(name, peer)
        return self._quarantined(name) or (trust is not None and trust.barred)

    def why(self, name: str, peer: str) -> str:
        """What barred them, in words."""
        its, trust = self._known.get(name), self.trust(name, peer)
        said = its.health.alarm if its is not None else None
        return said or (trust.why if trust is not None else "")

    def check(self, ref: KeyRef, key: Secret, call: str) -> None:
        """Raises ``KeySourceProtocolError``, the key wiped, for one that no working source delivers. That it is used
        once is for the core to see."""
        wrong = defect(key)
        before = self._seen.taken_for(f"{ref.source} {ref.key_id}", key) if wrong is None else None
        if before is not None:
            wrong = f"it was delivered before as {before}"
        if wrong is not None:
            key.wipe()
            raise KeySourceProtocolError(ref.source, call, f"key {ref.key_id} is not random: {wrong}", lost=1)

    def delivered(self, name: str, size: int) -> None:
        """A key of ``size`` bytes came."""
        its = self._known.get(name)
        if its is not None:
            its.key_size, its.waited = size, None
            self._well(name, its, "delivers keys", 1)

    def failed(
        self,
        name: str,
        problem: str,
        error: BaseException | None = None,
        *,
        towards: str | None = None,
        chosen_by: str | None = None,
        looked_at: str | None = None,
        alone: bool = True,
    ) -> None:
        """A call failed with ``problem``, in words. error: what was raised, where it says more. towards: the peer for
        whose key that was; chosen_by: the same, where it said what to ask for; looked_at: the one towards which this
        was a look; alone: no other peer uses the source."""
        its = self._known.get(name)
        if its is None:
            return  # it went while it was asked
        lost = error.lost if isinstance(error, KeySourceError) else 0
        if chosen_by is not None and isinstance(error, KeySourceTimeoutError):
            lost = 0  # nobody said that there is such a key, and the peer may have made its key_ID up
        if lost:
            self._events.publish("source.keys-lost", None, source=name, number=lost, detail=problem)
        fault = FAULTS.get(type(error), DEFECT) if isinstance(error, KeySourceError) else DEFECT
        its.faults[fault] = its.faults.get(fault, 0) + 1
        before = its.healthy
        if looked_at is not None and not alone and not _of_all(its, error, looked_at):
            return
        down = isinstance(error, DOWN if looked_at is None else NOBODY)
        if down and towards is not None:
            down = _met_by_all(its, error, towards, chosen=chosen_by is not None, alone=alone)
        its.health.failed(monotonic(), down=down, lost=lost)
        its.detail = its.last_error = problem
        if before is not False:
            self._events.publish("source.down", None, source=name, detail=problem)

    def lost(self, name: str, number: int, detail: str) -> None:
        """Keys that it gave and that nobody holds any more."""
        its = self._known.get(name)
        if its is not None:
            its.health.lost += number
            self._events.publish("source.keys-lost", None, source=name, number=number, detail=detail)

    def doubts(self, peer: str) -> dict[str, int]:
        """By source, how often its keys with that peer became such as must not be used."""
        return {name: its.towards[peer].doubts for name, its in self._known.items() if peer in its.towards}

    def looked(self, name: str, peer: str, status: SourceStatus, begun: float) -> list[str]:
        """Its status towards a peer was read. begun: when that was asked for; monotonic seconds. Returns the peers with
        which its keys must not be used from now on."""
        return self._newly_barred(name, peer, lambda: self._looked(name, peer, status, begun))

    def _newly_barred(self, name: str, peer: str, look: Callable[[], None]) -> list[str]:
        """What a look towards that peer barred: nothing, or the keys with that peer, or with all. The others are gone
        through only for the last: a hub looks at each of a thousand peers by itself."""
        its = self._known.get(name)
        before = self._quarantined(name), self.barred(name, peer)
        look()
        if its is None:
            return []
        news: list[str] = []
        if self._quarantined(name) and not before[0]:
            news = [other for other, trust in its.towards.items() if other != peer and not trust.barred]
        if peer in its.towards and self.barred(name, peer) and not before[1]:
            news.append(peer)
        for other in news:
            its.towards[other].doubts += 1
        return news

    def _quarantined(self, name: str) -> bool:
        its = self._known.get(name)
        return its is not None and its.health.state is SourceState.QUARANTINED

    def _looked(self, name: str, peer: str, status: SourceStatus, begun: float) -> None:
        its, trust = self._known.get(name), self.trust(name, peer)
        if its is None:
            return  # it went while it was asked
        before = its.health.state
        if its.health.looked(status, monotonic()):
            self._tell_quarantine(name, its)
        if trust is not None:
            known = trust.state
            trust.looked(status, begun, monotonic())
            self._tell_trust(trust, known)
        if its.health.state is SourceState.QUARANTINED:
            return
        if trust is not None and trust.state is TrustState.QUARANTINED:
            return  # told as what it is, and the others' keys may be as good as ever
        if status.healthy:
            its.unread = None
            self._well(name, its, status.detail, 0)
        elif status.for_all or not any(one.status is not None and one.status.healthy for one in its.towards.values()):
            its.health.failed(monotonic(), down=False)
            its.detail = its.last_error = status.detail
            if before in (SourceState.UNASKED, SourceState.WELL):
                self._events.publish("source.down", None, source=name, detail=status.detail)

    def unread(self, name: str, peer: str, error: KeySourceError) -> list[str]:
        """A look at its status towards a peer brought none. Returns what ``looked`` does."""
        trust = self.trust(name, peer)
        garbled, none = isinstance(error, KeySourceStatusError), isinstance(error, KeyRequestRejectedError)
        if trust is None:
            return []
        before = trust.state

        def failed() -> None:
            trust.failed(str(error), garbled=garbled, none=none)
            self._tell_trust(trust, before)

        return self._newly_barred(name, peer, failed)

    def _well(self, name: str, its: Known, detail: str, keys: int) -> None:
        before = its.healthy
        its.health.delivered(keys, monotonic())
        if its.health.state is SourceState.QUARANTINED:
            return
        its.detail = detail
        if before is not True:
            self._events.publish("source.up", None, source=name, detail=detail)

    def _tell_quarantine(self, name: str, its: Known) -> None:
        if its.health.state is SourceState.QUARANTINED:
            its.detail = its.last_error = its.health.alarm or ""
            self._events.publish("source.quarantined", None, source=name, detail=its.detail)
        else:
            its.detail = "its alarm has ended"
            self._events.publish("source.cleared", None, source=name, detail=its.detail)

    def _tell_trust(self, trust: Trust, before: TrustState) -> None:
        """An event where it is another state than before."""
        its, after = self._known.get(trust.name), trust.state
        if after is before or its is None:
            return
        if trust.barred:
            its.detail = its.last_error = f"towards {trust.peer}: {trust.why}"
            unreadable = after is TrustState.UNREADABLE
            self._events.publish(
                "source.unreadable" if unreadable else "source.quarantined",
                trust.peer, source=trust.name, detail=trust.why,
            )  # fmt: skip
        elif before is TrustState.QUARANTINED:
            self._events.publish("source.cleared", trust.peer, source=trust.name, detail="its alarm has ended")
        elif after is TrustState.UNKNOWN:
            detail = f"its keys are used without a look at its status: {trust.why}"
            self._events.publish("source.unwatched", trust.peer, source=trust.name, detail=detail)
        elif before is not TrustState.UNSEEN:
            self._events.publish("source.watched", trust.peer, source=trust.name, detail="its status is read again")

    def clear(self, name: str, peer: str | None = None) -> bool:
        """End a quarantine, by an operator: towards one peer, or the source's own and those towards all of them.
        Whether there was one."""
        its = self._known[name]
        concerned = list(its.towards.values()) if peer is None else [its.towards[peer]]
        whole = peer is None and its.health.state is SourceState.QUARANTINED
        if not whole and all(one.state is not TrustState.QUARANTINED for one in concerned):
            return False
        if peer is None:
            its.health.clear()
        for one in concerned:
            one.clear()
        its.detail = "cleared by an operator"
        self._events.publish("source.cleared", peer, source=name, detail=its.detail)
        return True

    def peers(self, name: str) -> list[str]:
        """Those that have keys of that source."""
        return list(self._known[name].towards) if name in self._known else []

    def names(self) -> list[str]:
        return list(self._known)

    def __iter__(self) -> Iterator[tuple[str, Known]]:
        return iter(self._known.items())


def _of_all(its: Known, error: BaseException | None, peer: str) -> bool:
    """Whether a look that failed towards one peer says something of the source: the status of a KME is one for each
    pair of SAEs, and one of them may be unknown there, or have a link that is down. It does once it happened to two."""
    if isinstance(error, NOBODY):
        return True
    before, its.unread = its.unread, peer
    return before not in (None, peer)


def _met_by_all(its: Known, error: BaseException | None, peer: str, *, chosen: bool, alone: bool) -> bool:
    """Whether the calls of all peers would fail as this one for a key with that peer: else one could put the source to
    rest for all. A KME refuses the key of another SAE with 401 (ETSI GS QKD 014 clause 5.4), or where it does not know
    the peer's, and it may wait in vain for the peer's KME, or for a key that never comes; that counts once it happened
    to two. chosen: whether the peer said which key."""
    if chosen and isinstance(error, KeySourceUnauthorizedError):
        return False
    if alone or isinstance(error, NOBODY):
        return True
    before, its.waited = its.waited, peer
    return before not in (None, peer)
