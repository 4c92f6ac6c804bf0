"""What goes into the engine with a key, so that a daemon which takes the engine over knows what is in force there; and
how it takes that up again.

The engine outlives a daemon that was killed, so that no packet is lost; its own lease ends what nobody renews. The next
daemon judges what it finds by its own policy. Keys and chain secrets are not found again: they died with the daemon.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from qtunnel.daemon.tunnel import Tunnel
from qtunnel.engines.base import Lease, Left
from qtunnel.errors import EngineError
from qtunnel.identity import PublicIdentity
from qtunnel.keys.policy import sources_required
from qtunnel.rekey.model import EpochInfo, Now, PeerSettings
from qtunnel.rekey.node import RekeyNode
from qtunnel.terms import CHAIN_REMEDY, ChainPolicy, KeyRef

MAX_NOTE = 900
"""Bytes that the engine keeps."""

NAMED_BY = 32
"""Bytes of a peer's id that name it: as hard to meet by chance or on purpose as a SHA-256."""

Publish = Callable[..., None]
"""Takes an event: its kind, the peer's name, fields."""


def lease_of(core: RekeyNode, peer: str) -> Lease | None:
    """Of the epoch that the peer should have now, and when those before it are over; None where it has none."""
    found = core.peers.get(peer)
    if found is None:
        return None
    context = found.context
    installed, ends = context.guard.installed, context.guard.ends
    if installed is None or ends is None:
        return None
    known, max_age = sorted(context.epochs.items()), context.settings.max_age
    before = tuple((epoch, info.made + max_age) for epoch, info in known if epoch < installed.epoch)
    return Lease(ends, note_of(installed, context.settings.public), before)


def note_of(info: EpochInfo, public: PublicIdentity) -> str:
    """The description of an epoch with that peer as one line; no secret is in it."""
    keys = [[key.source, key.key_id, key.size] for key in info.keys]
    document = {
        "peer": _named(public),
        "made": info.made,
        "suite": info.suite.id,
        "chained": info.chained,
        "keys": keys,
    }
    note = json.dumps(document, separators=(",", ":"))
    if len(note) > MAX_NOTE:  # of many sources with long key_IDs
        document["keys"] = [[key.source, "", key.size] for key in info.keys]
        note = json.dumps(document, separators=(",", ":"))
    return note if len(note) <= MAX_NOTE else ""


def _named(public: PublicIdentity) -> str:
    return public.id[:NAMED_BY].hex()


def epoch_of(epoch: int, note: str, settings: PeerSettings) -> EpochInfo | None:
    """The epoch that a former daemon described; None for one that cannot be read, or is of another suite or peer.

    In the engine a peer is a WireGuard key, which the configuration may have given to somebody else since.
    """
    try:
        document = json.loads(note)
        keys = tuple(KeyRef(str(source), str(key_id), int(size)) for source, key_id, size in document["keys"])
        if document["suite"] != settings.suite.id or document["peer"] != _named(settings.public):
            return None
        return EpochInfo(epoch, settings.suite, keys, bool(document["chained"]), float(document["made"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def shortfall(info: EpochInfo | None, settings: PeerSettings, now: float) -> str | None:
    """Why an epoch found in the engine may not go on, in words; None where it may."""
    if info is None:
        return "nobody can tell what it is made of"
    if len(set(info.sources) & set(settings.sources)) < sources_required(settings.policy):
        return "it has fewer QKD sources than the policy demands"
    if not 0 <= now - info.made < settings.max_age:
        return f"it is older than {settings.max_age:g} s"
    return None


async def take_up(tunnel: Tunnel, core: RekeyNode, settings: list[PeerSettings], now: Now, publish: Publish) -> None:
    """Go on with what an engine that was taken over has in place, peer by peer, as far as policy allows. What it
    refuses for one of them is repeated by the tunnel's looks; the others' turn comes all the same."""
    for peer in settings:
        left = tunnel.left.pop(peer.name, None)
        if left is not None:
            try:
                await _take_up(tunnel, core, peer, left, now, publish)
            except EngineError as error:
                publish("engine.trouble", peer.name, detail=str(error))


async def _take_up(
    tunnel: Tunnel, core: RekeyNode, settings: PeerSettings, left: Left, now: Now, publish: Publish
) -> None:
    if left.installed is None:
        await tunnel.block(settings.name)  # nothing but a random key, or one that nobody of ours has set
        if left.ended is not None:
            detail = f"no daemon renewed epoch {left.ended} within {settings.max_age:g} s: the engine blocked the peer"
            publish("peer.blocked", settings.name, detail=detail)
        return
    number, note = left.installed
    info = epoch_of(number, note, settings)
    problem = shortfall(info, settings, now.mono)
    session = None if left.in_force is None else epoch_of(*left.in_force, settings)
    if problem is None and left.in_force is not None:  # which may be of the epoch before
        problem = shortfall(session, settings, now.mono)
    if info is None or problem is not None:
        await tunnel.block(settings.name)
        publish("peer.blocked", settings.name, detail=f"epoch {number} of before the restart is not kept: {problem}")
        return
    core.take_up(settings.name, info, session, now)
    lease = lease_of(core, settings.name)
    if lease is not None:  # perhaps another max_age than before
        await tunnel.renew(settings.name, lease)
    then = "the next epoch begins a new chain"
    if settings.policy.chain is ChainPolicy.REQUIRED:
        then = f"the policy requires one, so no epoch follows and traffic ends at max_age; {CHAIN_REMEDY}"
    publish(
        "epoch.kept", settings.name, epoch=number, age=round(now.mono - info.made, 3), sources=list(info.sources),
        detail=f"in place since before the restart; its chain secret is lost: {then}",
    )  # fmt: skip
