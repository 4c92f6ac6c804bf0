"""The status: what is in force, by the session that the engine sends with; never what was only requested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from qtunnel.config import PeerConfig
from qtunnel.control.messages import PeerStatus, ReservoirStatus, UsedKey
from qtunnel.engines.base import PeerStats, format_endpoint
from qtunnel.keys.policy import Protection, level, satisfies, sources_required
from qtunnel.rekey.model import EpochInfo
from qtunnel.rekey.view import PeerView

PROVEN_KEPT = 60.0
"""Seconds: long enough to be read."""


@dataclass(slots=True)
class Tally:
    """What is counted of one peer since the daemon's start.

    last_error_at: monotonic seconds. last_error_proven: it is the peer's own, not what anybody can have us say of it.
    """

    done: int = 0
    failed: int = 0
    last_error: str | None = None
    last_error_at: float = 0.0
    last_error_proven: bool = False

    def tell(self, error: str, now: float, *, proven: bool = True) -> None:
        """Something went wrong; now: monotonic seconds. proven: what others send is not to hide it."""
        self.last_error, self.last_error_at, self.last_error_proven = error, now, proven

    def suspect(self, error: str, now: float) -> None:
        """As ``tell``, for what comes from its address without proof: it never hides an error of the peer's own that is
        newer than ``PROVEN_KEPT``."""
        if not self.last_error_proven or now - self.last_error_at >= PROVEN_KEPT:
            self.last_error, self.last_error_at, self.last_error_proven = error, now, False


def sources_of(info: EpochInfo, describe: Callable[[str], str]) -> list[str]:
    """Everything that went into an epoch, by name."""
    return ["x25519", *(kem.name for kem in info.suite.kem.kems), *(describe(name) for name in info.sources)]


def key_ids_of(info: EpochInfo) -> list[str]:
    """The QKD keys in an epoch, each as ``SOURCE KEY_ID``."""
    return [f"{key.source} {key.key_id}" for key in info.keys]


def protection_in_force(peer: PeerConfig, view: PeerView, stats: PeerStats | None, now: float) -> Protection:
    """The protection of the session that carries traffic now."""
    if view.protection in (Protection.BLOCKED, Protection.STARTING, Protection.EXPIRED):
        return view.protection
    info = in_force(view, stats)
    if info is None:
        # A session of an epoch that nobody can describe is one that should be over long since.
        unknown = stats is not None and stats.epoch_in_force is not None
        return Protection.EXPIRED if unknown else Protection.STARTING
    if now - info.made > peer.qkd.max_age:
        return Protection.EXPIRED
    return level(peer.policy, len(info.sources))


def is_stale(peer: PeerConfig, view: PeerView, stats: PeerStats | None, now: float) -> bool:
    """Whether the session is of an epoch past its time while the engine has a newer one, so that it has to go.

    Not while that old epoch is the one in place: in the grace of ``on_expiry: pqc-only`` another session would be of
    the same epoch, and a blocked peer has none.
    """
    if stats is None or stats.epoch_in_force is None or view.protection in (Protection.BLOCKED, Protection.EXPIRED):
        return False
    info = in_force(view, stats)
    return info is None or now - info.made > peer.qkd.max_age


def may_fall_short(peer: PeerConfig, view: PeerView, *, relaxed: bool) -> bool:
    """Whether WireGuard may have, or still come to, a session of an epoch before the one in place that has fewer QKD
    keys than the policy requires now.

    What the engine says of its session does not come into it: an engine that tells no epoch does not know, it may not
    answer, and a session that is not confirmed yet or the key before may still take the place of a better one. relaxed:
    the policy, by ``on_expiry: pqc-only``, does without QKD now. A blocked peer has no session.
    """
    if relaxed or view.installed is None or view.protection is Protection.BLOCKED:
        return False
    newest = view.installed.epoch
    return any(_falls_short(peer, info) for epoch, info in view.epochs.items() if epoch < newest)


def _falls_short(peer: PeerConfig, info: EpochInfo) -> bool:
    """Whether an epoch has fewer QKD keys than the policy requires, from sources that still are the peer's."""
    return sum(name in peer.qkd.sources for name in info.sources) < sources_required(peer.policy)


def in_force(view: PeerView, stats: PeerStats | None) -> EpochInfo | None:
    """The epoch of the session that sends now, where there is one. Where it can be of one of several, the oldest, with
    nothing in it that another of them lacks: what the session may not have is not claimed of it."""
    if stats is None or stats.epoch_in_force is None:
        return None
    info = view.epochs.get(stats.epoch_in_force)
    if info is None or stats.newest_epoch is None:
        return info
    possible = [its for epoch, its in view.epochs.items() if info.epoch <= epoch <= stats.newest_epoch]
    sources = set.intersection(*(set(its.sources) for its in possible))
    keys = tuple(key for key in info.keys if key.source in sources)
    return replace(info, keys=keys, chained=all(its.chained for its in possible))


def peer_status(
    peer: PeerConfig, view: PeerView, stats: PeerStats | None, tally: Tally, describe: Callable[[str], str],
    handshake_endpoint: str | None, installed: int | None, now: float, unix_now: float, supply: list[str] | None = None,
) -> PeerStatus:  # fmt: skip
    """One peer's line. installed: the epoch that the engine has taken. now: monotonic; unix_now: wall clock; both in
    seconds. supply: what its key sources have left, in words."""
    info = in_force(view, stats)
    protection = protection_in_force(peer, view, stats, now)
    endpoint = handshake_age = None
    if stats is not None:
        endpoint = None if stats.endpoint is None else format_endpoint(stats.endpoint)
        handshake_age = None if stats.last_handshake is None else max(0.0, unix_now - stats.last_handshake)
    return PeerStatus(
        name=peer.name,
        protected=satisfies(peer.policy, protection),
        protection=protection.value,
        policy=peer.qkd.policy,
        epoch_installed=installed,
        epoch_in_force=None if stats is None else stats.epoch_in_force,
        sources=[] if info is None else sources_of(info, describe),
        key_ids=[] if info is None else [UsedKey(source=key.source, key_id=key.key_id) for key in info.keys],
        chained=info is not None and info.chained,
        age_s=None if info is None else now - info.made,
        max_age_s=peer.qkd.max_age,
        next_rekey_s=None if view.next_rekey is None else view.next_rekey - now,
        expires_in_s=None if view.expires is None else view.expires - now,
        last_error=tally.last_error,
        last_error_age_s=None if tally.last_error is None else now - tally.last_error_at,
        role=view.role,
        endpoint=endpoint,
        handshake_endpoint=handshake_endpoint,
        last_handshake_age_s=handshake_age,
        record_mode=(stats.record_mode or None) if stats is not None else None,
        record_mode_reason=(stats.record_mode_reason or None) if stats is not None else None,
        rx_bytes=0 if stats is None else stats.rx_bytes,
        tx_bytes=0 if stats is None else stats.tx_bytes,
        rekeys_ok=tally.done,
        rekeys_failed=tally.failed,
        peer_policy=view.peer_policy,
        interval_s=view.interval,
        interval_usual_s=peer.rekey.interval,
        interval_reason=view.interval_reason or None,
        supply=supply or [],
        epoch_bytes=view.bytes,
        epoch_packets=None if stats is None or stats.packets is None else view.packets,
        max_bytes=peer.rekey.bytes,
        max_packets=peer.rekey.packets,
        reservoir=[
            ReservoirStatus(source=source, keys=keys, depth=peer.qkd.reservoir.depth, held=held)
            for source, (keys, held) in view.reservoir.items()
        ],
    )
