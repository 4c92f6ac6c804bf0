"""What a key source is: the protocol every driver implements.

Keys are requested by the handshake's initiator (``get_key``) and fetched by its responder under the reference that
crossed the network (``get_key_by_id``). Both calls consume: they are never blindly repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from qtunnel.secret import Secret
from qtunnel.terms import KeyRef as KeyRef


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """What a key source says of itself; ``None`` where it does not tell.

    healthy: it answered and can deliver. detail: one line for people. stored_keys: keys ready, max_keys: how many it
    can hold, key_size: their default size in bytes, qber: quantum bit error rate as a fraction (0.033), key_rate:
    secret bits per second. alarm: what the source warns of, in words, where its keys must not be trusted any more: an
    eavesdropper, a QBER too high, a device that was opened. for_all: alarm and qber hold for the keys with every peer
    of the source; ``False`` where they are of the keys with this one peer alone, as of one link of several.
    """

    healthy: bool
    detail: str
    stored_keys: int | None = None
    max_keys: int | None = None
    key_size: int | None = None
    qber: float | None = None
    key_rate: float | None = None
    alarm: str | None = None
    for_all: bool = True


class KeySource(Protocol):
    """One source of keys shared with one peer.

    Every method raises a ``qtunnel.errors.KeySourceError`` and nothing else. ``description`` names driver and source
    for people, e.g. ``etsi014:metro``.
    """

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    async def status(self) -> SourceStatus:
        """The source's own view of itself; does not consume."""
        ...

    async def get_key(self, size: int) -> tuple[KeyRef, Secret]:
        """A fresh key of ``size`` bytes that the peer can fetch by its reference. Consumes."""
        ...

    async def get_key_by_id(self, ref: KeyRef) -> Secret:
        """The key of that reference, of exactly ``ref.size`` bytes. Consumes."""
        ...


@runtime_checkable
class BatchKeySource(KeySource, Protocol):
    """A source that gives several keys at once, for whoever keeps some in store.

    Each call is one request to the source, which gives all of it or fails: so an error's ``lost`` says all that may be
    gone. Where the source gives fewer keys at once than are asked for, the list is shorter; ask again for the rest. One
    that refuses a request for several before anything was consumed, as it has not so many or not all of these, is asked
    for fewer.
    """

    async def get_keys(self, size: int, number: int) -> list[tuple[KeyRef, Secret]]:
        """From 1 to ``number`` fresh keys of ``size`` bytes. Consumes."""
        ...

    async def get_keys_by_ids(self, refs: Sequence[KeyRef]) -> list[Secret]:
        """The keys of the first of ``refs``, in their order, at least one. Consumes these and no others."""
        ...
