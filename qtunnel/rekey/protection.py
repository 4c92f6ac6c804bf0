"""How long the key in force may protect, and what happens then: never an old key in silence."""

from __future__ import annotations

from enum import Enum

from qtunnel.keys.policy import Protection, level, sources_required
from qtunnel.rekey.model import EpochInfo, PeerSettings
from qtunnel.rekey.timing import RELAXED_GRACE
from qtunnel.statemachine import Machine
from qtunnel.terms import QkdPolicy


class GuardState(Enum):
    """STARTING and BLOCKED let no traffic through: a random PSK is in place."""

    STARTING = "starting"
    PROTECTED = "protected"
    RELAXED = "relaxed"
    BLOCKED = "blocked"


class GuardEvent(Enum):
    INSTALLED = "an epoch is installed"
    EXPIRED_RELAX = "max_age is over, policy allows PQC alone"
    EXPIRED_BLOCK = "max_age is over"
    FORBIDDEN = "the policy has become stricter than what is installed"


GUARD_TABLE = {
    (GuardState.STARTING, GuardEvent.INSTALLED): GuardState.PROTECTED,
    (GuardState.PROTECTED, GuardEvent.INSTALLED): GuardState.PROTECTED,
    (GuardState.PROTECTED, GuardEvent.EXPIRED_RELAX): GuardState.RELAXED,
    (GuardState.PROTECTED, GuardEvent.EXPIRED_BLOCK): GuardState.BLOCKED,
    (GuardState.RELAXED, GuardEvent.INSTALLED): GuardState.PROTECTED,
    (GuardState.RELAXED, GuardEvent.EXPIRED_BLOCK): GuardState.BLOCKED,
    (GuardState.PROTECTED, GuardEvent.FORBIDDEN): GuardState.BLOCKED,
    (GuardState.RELAXED, GuardEvent.FORBIDDEN): GuardState.BLOCKED,
    (GuardState.BLOCKED, GuardEvent.INSTALLED): GuardState.PROTECTED,
}


class Guard:
    """Watches the age of one peer's installed epoch."""

    def __init__(self, settings: PeerSettings, start: float) -> None:
        self._settings = settings
        self._machine = Machine(GUARD_TABLE, GuardState.STARTING)
        self._start = start
        self._relaxed_since: float | None = None
        self.installed: EpochInfo | None = None

    @property
    def state(self) -> GuardState:
        return self._machine.state

    @property
    def relaxed(self) -> bool:
        """Whether policy, by ``on_expiry: pqc-only``, does without QKD now: the last epoch with it is too old."""
        return self._relaxed_since is not None

    def install(self, info: EpochInfo) -> None:
        """A new epoch is in place."""
        self.installed = info
        self._machine.fire(GuardEvent.INSTALLED)
        if level(self._settings.policy, len(info.sources)) is Protection.QKD_PQC:
            self._relaxed_since = None

    def change(self, settings: PeerSettings, now: float) -> bool:
        """Other settings from now on. Whether they forbid what is installed, which is blocked then.

        QKD keys count towards a floor only where their source is still one of the peer's: somebody may have taken it
        out of the configuration because nobody trusts it any more. now: monotonic seconds.
        """
        self._settings = settings
        policy = settings.policy
        if not settings.pqc_on_expiry or policy.qkd is not QkdPolicy.REQUIRED:
            self._relaxed_since = None
        if self.state not in (GuardState.PROTECTED, GuardState.RELAXED):
            return False
        assert self.installed is not None
        counted = [source for source in self.installed.sources if source in settings.sources]
        too_few = len(counted) < sources_required(policy) and not self.relaxed
        if too_few or (self.state is GuardState.RELAXED and not self.relaxed):
            self._machine.fire(GuardEvent.FORBIDDEN)
            self._start = now
            return True
        return False

    def protection(self) -> Protection:
        """What protects the traffic by what is installed."""
        if self.state is GuardState.STARTING:
            return Protection.STARTING
        if self.state is GuardState.BLOCKED:
            return Protection.BLOCKED
        if self.state is GuardState.RELAXED:
            return Protection.EXPIRED
        assert self.installed is not None
        return level(self._settings.policy, len(self.installed.sources))

    @property
    def deadline(self) -> float | None:
        """When the state changes by itself; monotonic seconds."""
        if self.state is GuardState.PROTECTED and self.installed is not None:
            return self.installed.made + self._settings.max_age
        if self.state is GuardState.RELAXED and self._relaxed_since is not None:
            return self._relaxed_since + RELAXED_GRACE
        if self.state in (GuardState.STARTING, GuardState.BLOCKED) and self._may_relax:
            return self._start + self._settings.max_age
        return None

    @property
    def ends(self) -> float | None:
        """When traffic stops unless another epoch comes, grace included; monotonic seconds. What the engine is told, in
        case nobody is there then to stop it."""
        grace = RELAXED_GRACE if self.state is GuardState.PROTECTED and self._may_relax else 0.0
        passes = self.state in (GuardState.PROTECTED, GuardState.RELAXED)
        return self.deadline + grace if passes and self.deadline is not None else None

    @property
    def _may_relax(self) -> bool:
        policy = self._settings.policy
        return self._settings.pqc_on_expiry and policy.qkd is QkdPolicy.REQUIRED and self._relaxed_since is None

    def tick(self, now: float) -> GuardEvent | None:
        """What has happened by now, at most one thing a call."""
        deadline = self.deadline
        if deadline is None or now < deadline:
            return None
        if self.state in (GuardState.STARTING, GuardState.BLOCKED):
            # Nothing to block: no epoch is in place. From here on PQC alone may start one.
            self._relaxed_since = now
            return GuardEvent.EXPIRED_RELAX
        if self.state is GuardState.PROTECTED and self._may_relax:
            self._relaxed_since = now
            self._machine.fire(GuardEvent.EXPIRED_RELAX)
            return GuardEvent.EXPIRED_RELAX
        self._machine.fire(GuardEvent.EXPIRED_BLOCK)
        assert self.installed is not None  # which was PROTECTED or RELAXED
        self._start = self.installed.made  # other settings may allow PQC alone later: max_age after this epoch
        return GuardEvent.EXPIRED_BLOCK
