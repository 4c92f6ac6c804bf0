"""An epoch in force with a key that came to be in doubt: whether, and when, another one takes its place."""

from __future__ import annotations

from qtunnel.keys.policy import Protection, sources_required
from qtunnel.keys.volume import least_gap
from qtunnel.rekey.ahead import Ahead
from qtunnel.rekey.context import PeerContext
from qtunnel.rekey.timing import GRACE_AT_START
from qtunnel.terms import KeyRef, QkdPolicy


class Doubts:
    """Of one peer. No alarm blocks a tunnel: X25519 and ML-KEM are in its epoch as well, and who can raise alarms could
    end it. Nor does one bring more than a rekey in each usual interval: or who can raise them could use up the keys of
    the other sources."""

    def __init__(self, context: PeerContext, ahead: Ahead) -> None:
        self._context, self._ahead = context, ahead
        self._barred: set[str] = set()
        """Sources that raised an alarm, until a look finds nothing wrong with them."""
        self._asked = float("-inf")
        """When the last rekey was due because of this; monotonic seconds."""

    def vouch(self, source: str) -> None:
        """A look found nothing wrong with that source's keys."""
        self._barred.discard(source)

    def due(self, source: str, now: float, *, initiates: bool) -> float | None:
        """An alarm at that source: when a rekey is to begin for it; monotonic seconds.

        ``None`` where the epoch in force has no key that came since the last good look. Also where another one could
        have no better, as no source delivers and nothing is agreed ahead: then policy acts in its time, and until then
        an epoch with a key in doubt is no worse than one without.
        """
        context, settings = self._context, self._context.settings
        self._barred.add(source)
        installed = context.guard.installed
        in_force = context.guard.protection() in (Protection.QKD_PQC, Protection.PQC_ONLY)
        if installed is None or not in_force or context.policy.qkd is QkdPolicy.OFF:
            return None
        good_until = context.good_until(source)
        if not any(ref.source == source and self._came(ref) > good_until for ref in installed.keys):
            return None
        better = [its for its in settings.sources if its not in self._barred or self._ahead.reservoir.shared(its)]
        if len(better) < max(1, sources_required(context.policy)):
            return None
        earliest = installed.made + least_gap(settings.interval, settings.min_interval)
        due = max(now, earliest, self._asked + settings.interval)
        # Both ends may see the alarm, and one beginning is enough.
        self._asked = due if initiates else due + GRACE_AT_START
        return self._asked

    def _came(self, ref: KeyRef) -> float:
        """Where that is not known any more, as after a restart, it may have been just now."""
        for held in (self._context.ours, self._context.theirs):
            came = held.arrived(ref)
            if came is not None:
                return came
        return float("inf")
