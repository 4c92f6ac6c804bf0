"""What the two directions of one peer share: the epochs, the chain, the keys in hand, and the effects to come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

from qtunnel.crypto.kem import Encapsulate
from qtunnel.handshake.cookies import held
from qtunnel.handshake.fragments import Message, MessageType, cut, mac1_key
from qtunnel.handshake.transcript import EpochKeys
from qtunnel.identity import Identity
from qtunnel.keys.chain import EpochChain
from qtunnel.keys.held import HeldKeys, problem_of
from qtunnel.keys.policy import Protection, Shortfall, judge
from qtunnel.keys.schedule import Schedule
from qtunnel.keys.used import UsedKeys
from qtunnel.keys.volume import Volume
from qtunnel.rekey.limits import OWN_EPOCH_JUMP
from qtunnel.rekey.model import Effect, EpochInfo, Fetched, Install, Memory, Notice, Now, PeerSettings, Remember
from qtunnel.rekey.protection import Guard
from qtunnel.rekey.timing import KEY_LIFETIME, REPLACED_KEPT
from qtunnel.secret import RandomBytes, Secret
from qtunnel.terms import ChainPolicy, KeyRef, Policy, QkdPolicy, record_suite

OVERTAKEN = {
    Shortfall.QKD: ("qkd-required", "the policy has become stricter while the exchange was under way"),
    Shortfall.CHAIN: ("chain-required", "another epoch came first, and the policy requires a chain, which this lacks"),
    Shortfall.UNWANTED: (
        "qkd-off",
        "the policy was turned off while the exchange was under way, and this has QKD keys",
    ),
}
"""Why an exchange that was good when its answer was made is not installed any more: reason and words."""


Put = Callable[[KeyRef, Secret, float], None]
"""Keeps a key from now on; monotonic seconds."""


class PeerContext:
    """State of one peer, and the outbox that its machines write to."""

    def __init__(
        self,
        local: Identity,
        settings: PeerSettings,
        memory: Memory,
        now: Now,
        random_bytes: RandomBytes,
        tickets: Iterator[int],
        used: UsedKeys,
        effects: list[Effect],
        encapsulate: Encapsulate | None,
        crowd: Callable[[], int] = lambda: 1,
    ) -> None:
        self.local, self.settings, self.memory = local, settings, memory
        self.random_bytes, self.tickets, self.encapsulate = random_bytes, tickets, encapsulate
        self._used, self._crowd = used, crowd
        self.mac_key = mac1_key(settings.public.id)
        self.cookie = held(settings.public.id)
        self.chain = EpochChain()
        self.ours = HeldKeys(KEY_LIFETIME)  # got from our source, to be offered
        self.theirs = HeldKeys(KEY_LIFETIME)  # fetched by the references that the peer offered
        self.guard = Guard(settings, now.mono)
        self.schedule = Schedule(
            settings.interval, settings.jitter, settings.max_age, settings.min_interval, settings.max_interval
        )
        self.volume = Volume(settings.max_bytes, settings.max_packets)
        self.floor = memory.epoch  # the newest epoch known to be committed: older ones are never installed
        self.epoch = max(memory.epoch, memory.proposed)  # the newest that anybody proposed, as far as it counts
        self.epochs: dict[int, EpochInfo] = {}
        self.effects = effects  # the node's, one for all peers
        self.peer_capabilities = 0  # as its last offer or answer had them
        self.peer_policy: Policy | None = None  # as it stood in the newest exchange that was proven
        self.pressed: Callable[[float], bool] = lambda now: False  # whether we are flooded; now: monotonic seconds
        self.held_ahead: Callable[[], tuple[tuple[str, int], ...]] = lambda: memory.held  # the reservoir says it later
        self.withdrawn: Callable[[KeyRef], bool] = lambda ref: False  # likewise
        self.vouched: dict[str, float] = {}
        """By source, when a look last found nothing wrong with its keys; monotonic seconds."""
        self._psk: tuple[int, Secret] | None = None
        self._protection = Protection.STARTING

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def policy(self) -> Policy:
        """Our policy as it stands now: relaxed where ``on_expiry: pqc-only`` says so."""
        policy = self.settings.policy
        return replace(policy, qkd=QkdPolicy.PREFERRED) if self.guard.relaxed else policy

    @property
    def higher(self) -> bool:
        """Whether our identity is the higher of the two: it decides the roles."""
        return self.local.public.id > self.settings.public.id

    def good_until(self, source: str) -> float:
        """When a look last found nothing wrong with that source's keys; monotonic seconds."""
        return self.vouched.get(source, float("-inf"))

    def fraction(self) -> float:
        """A random number, 0 <= x < 1."""
        return int.from_bytes(self.random_bytes(6), "big") / (1 << 48)

    def reschedule(self) -> None:
        """The schedule by the settings as they are now; failures in a row go on being counted."""
        settings, before = self.settings, self.schedule
        self.schedule = Schedule(
            settings.interval, settings.jitter, settings.max_age, settings.min_interval, settings.max_interval,
            before.failures,
        )  # fmt: skip
        self.schedule.go_on(before)
        self.volume.max_bytes, self.volume.max_packets = settings.max_bytes, settings.max_packets

    def notice(self, kind: str, **fields: object) -> None:
        self.effects.append(Notice(self.name, kind, fields))

    def datagrams(self, kind: MessageType, exchange: bytes, body: bytes) -> list[bytes]:
        return cut(Message(kind, self.settings.suite.id, exchange, body), self.mac_key)

    def remember(self, **changes: object) -> None:
        """Keep epoch or replay times in the state directory, and how many keys there are in the reservoir."""
        self.memory = replace(self.memory, held=self.held_ahead(), **changes)  # type: ignore[arg-type]  # fields of Memory by name
        self.effects.append(Remember(self.name, self.settings.public.id, self.memory))

    @property
    def taken(self) -> int:
        """The newest epoch number that has a key, or may have one at the peer: nobody else's exchange gets it.

        Two exchanges may be under way side by side. Were both to commit one number, each end would have the key of
        the other's, and both would call it the same.
        """
        return max(self.floor, self.chain.in_doubt)

    def hear_of(self, epoch: int) -> None:
        """The peer proposed this epoch: our next one is newer, within bounds."""
        if epoch <= self.floor + OWN_EPOCH_JUMP:
            self.epoch = max(self.epoch, epoch)

    def judge(self, remote: Policy, sources: int, *, chained: bool) -> Shortfall | None:
        """Whether an epoch is allowed by our policy as it stands now and by the peer's; None if so."""
        return judge(self.policy, remote, sources, chained=chained, had_epochs=self.memory.had_epochs)

    def overtaken(self, keys: EpochKeys) -> Shortfall | None:
        """Why keys that were good when their answer was made are not to be installed any more; None if they are."""
        if self.policy.qkd is QkdPolicy.OFF and keys.keys:
            return Shortfall.UNWANTED
        return self.judge(self.policy, self.counted(keys.keys), chained=keys.chained)

    def counted(self, keys: Iterable[KeyRef]) -> int:
        """Sources of an epoch that still are the peer's: the configuration may have changed during its exchange."""
        return len({key.source for key in keys if key.source in self.settings.sources})

    @property
    def chain_lost(self) -> bool:
        """Whether our policy requires a chain that we do not hold any more."""
        required = self.settings.policy.chain is ChainPolicy.REQUIRED
        return required and self.memory.had_epochs and not self.chain.links

    def admit(self, put: Put, result: Fetched, now: Now) -> tuple[tuple[str, str], ...]:
        """Keep the keys that came, where they are what they should be. Returns what failed: source and words."""
        failures = list(result.failures)
        for ref, key in result.keys:
            problem = problem_of(ref, key, self.settings.sources)
            if problem is None and not self._used.admit(self.name, ref, key, self._crowd()):
                problem = f"{ref.source}: delivered a key for the second time (key_ID {ref.key_id}); it is not used"
            if problem is None and self.withdrawn(ref):
                problem = f"{ref.source}: delivered a key that was withdrawn after an alarm (key_ID {ref.key_id})"
            if problem is None:
                put(ref, key, now.mono)
            else:
                key.wipe()
                failures.append((ref.source, problem))
        for source, detail in failures:
            self.notice("source.failed", source=source, detail=detail)
        return tuple(failures)

    def is_news(self, ref: KeyRef, key: Secret) -> bool:
        """Whether a key that was kept over a restart never came since; it counts as one that came."""
        problem = problem_of(ref, key, (ref.source,))  # whether the source is still the peer's is looked at later
        return problem is None and self._used.admit(self.name, ref, key, self._crowd())

    def install(
        self, keys: EpochKeys, now: Now, *, handshake_now: bool, chain: Callable[[], None], made: float | None = None,
        **memory: object,
    ) -> None:  # fmt: skip
        """An epoch is committed: hand its PSK to the engine. chain: brings the epoch chain up to date. made: monotonic
        seconds, where not now. memory: what else is to be remembered of it."""
        begins_anew = self.memory.had_epochs and not keys.chained
        self.floor = max(self.floor, keys.epoch)
        self.epoch = max(self.epoch, keys.epoch)
        # First of all: a crash between the two must not let an older epoch in later.
        self.remember(epoch=self.floor, **memory)
        previous, self._psk = self._psk, (keys.epoch, keys.psk)
        suite = record_suite(self.settings.capabilities, self.peer_capabilities)
        if previous is not None:
            # A blocked tunnel's last PSK is dead: nobody may finish a handshake with it.
            before = previous[0], previous[1].copy()
            self.effects.append(Install(self.name, keys.epoch, keys.psk.copy(), *before, handshake_now, suite))
            previous[1].wipe()
        else:
            self.effects.append(Install(self.name, keys.epoch, keys.psk.copy(), None, None, handshake_now, suite))
        chain()
        info = EpochInfo.of(keys, now.mono if made is None else made)
        self._forget_epochs(now)
        self.epochs[keys.epoch] = info
        self.guard.install(info)
        self.volume.restart()
        if begins_anew:
            detail = "one end had lost the chain's secrets: what earlier epochs had of QKD protects no more"
            self.notice("chain.reset", epoch=keys.epoch, detail=detail)
        self.show_protection()

    def heed(self, policy: Policy) -> None:
        """The peer's policy, from the transcript of an exchange that it has proven to be part of; a change is told."""
        before, self.peer_policy = self.peer_policy, policy
        if before is None or before == policy:
            return
        lower = policy.qkd < before.qkd or policy.min_sources < before.min_sources or policy.chain < before.chain
        self.notice("peer.policy", before=before.words, after=policy.words, lowered=lower)

    def _forget_epochs(self, now: Now) -> None:
        """Descriptions of epochs that no session can use any more; the one in force may be older than the newest."""
        replaced = sorted(self.epochs)
        for epoch, successor in pairwise(replaced):
            if self.epochs[successor].made < now.mono - REPLACED_KEPT:
                del self.epochs[epoch]

    def block(self) -> None:
        """Forget the PSK, so that no later handshake can fall back to it."""
        if self._psk is not None:
            self._psk[1].wipe()
            self._psk = None

    def current_psk(self) -> tuple[int, Secret] | None:
        """Epoch and PSK (a copy) as installed: for an engine that was restarted."""
        return None if self._psk is None else (self._psk[0], self._psk[1].copy())

    def show_protection(self) -> None:
        """Tell when the level of protection changed."""
        level = self.guard.protection()
        if level is not self._protection:
            self.notice("protection.changed", before=self._protection.value, after=level.value)
            self._protection = level
