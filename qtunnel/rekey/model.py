"""What goes into the rekeying core and what comes out of it: settings, the present moment, effects."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from qtunnel.handshake.suites import Suite
from qtunnel.handshake.transcript import EpochKeys
from qtunnel.identity import PublicIdentity
from qtunnel.keys.stored import Image
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef, Policy


@dataclass(frozen=True, slots=True)
class Now:
    """The present. mono: monotonic seconds, for timers; unix_ns: wall clock in nanoseconds, for the replay time."""

    mono: float
    unix_ns: int


@dataclass(frozen=True, slots=True)
class Heard:
    """A peer spoke from an address.

    proven: it is there now. A first message alone does not show that: who saw one that did not arrive can send it from
    anywhere.
    """

    peer: str
    proven: bool


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """One peer as the configuration has it. interval, max_age: seconds; jitter: a fraction of the interval.

    has_endpoint: the configuration names an address of the peer. sources: names of the QKD sources towards it;
    mix: how many of them go into an epoch, the first ones that deliver, None for all.
    pqc_on_expiry: with ``qkd: required``, go on without QKD once max_age is over, instead of blocking at once.
    capabilities: bits of what our engine can do, for offers and answers. min_interval, max_interval: seconds in which
    the supply of keys moves the interval, None for not at all. max_bytes, max_packets: through the tunnel in both
    directions, after which a rekey is due. reservoir: keys of each source agreed ahead, 0 for none; reservoir_low: how
    few of them are told as an event; reservoir_age: seconds after which such a key is wiped; store_key: 32 bytes
    under which they are kept on disk, ``None`` for in memory alone.
    """

    name: str
    public: PublicIdentity
    suite: Suite
    policy: Policy
    interval: float
    jitter: float
    max_age: float
    pqc_on_expiry: bool = False
    has_endpoint: bool = True
    sources: tuple[str, ...] = ()
    mix: int | None = None
    pairing: Secret | None = None
    capabilities: int = 0
    min_interval: float | None = None
    max_interval: float | None = None
    max_bytes: int | None = None
    max_packets: int | None = None
    reservoir: int = 0
    reservoir_low: int = 0
    reservoir_age: float = 86_400.0
    store_key: Secret | None = None


@dataclass(frozen=True, slots=True)
class EpochInfo:
    """What is known of an epoch for good: never a secret. sources: QKD sources in it, in the offered order."""

    epoch: int
    suite: Suite
    keys: tuple[KeyRef, ...]
    chained: bool
    made: float

    @classmethod
    def of(cls, keys: EpochKeys, now: float) -> EpochInfo:
        return cls(keys.epoch, keys.suite, keys.keys, keys.chained, now)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(key.source for key in self.keys))


@dataclass(frozen=True, slots=True)
class Memory:
    """What of a peer must survive a restart; never a key.

    epoch: the newest committed one. sent, seen: replay times (TAI64N, 12 bytes) of our newest offer, and of the peer's
    newest one that was committed. proposed: the newest epoch that we offered. lost: there was more, and it is gone.
    held: by source, how many keys agreed ahead there were. stored: generation of the newest file of these keys, 0 where
    there was none; one with a smaller is an old copy.
    """

    epoch: int = 0
    sent: bytes = bytes(12)
    seen: bytes = bytes(12)
    proposed: int = 0
    lost: bool = False
    held: tuple[tuple[str, int], ...] = ()
    stored: int = 0

    @property
    def had_epochs(self) -> bool:
        """Whether there ever was, or may have been, an epoch with this peer."""
        return self.epoch > 0 or self.lost


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that the shell must do, in the order given."""

    peer: str


@dataclass(frozen=True, slots=True)
class Send(Effect):
    """Send datagrams to ``address``; None: to wherever the peer is believed to be.

    confirms: the epoch that they tell the peer is in place; not to be sent unless the engine has taken it.
    """

    datagrams: tuple[bytes, ...]
    address: Hashable | None = None
    confirms: int | None = None


@dataclass(frozen=True, slots=True)
class Fetch(Effect):
    """Ask key sources, then call ``RekeyNode.fetched`` with the ticket and what came of it."""

    ticket: int


@dataclass(frozen=True, slots=True)
class FetchNew(Fetch):
    """Get a fresh key of ``size`` bytes from ``enough`` of the sources, those that stand first where they deliver."""

    sources: tuple[str, ...]
    size: int
    enough: int


@dataclass(frozen=True, slots=True)
class FetchAhead(Fetch):
    """Get up to ``number`` fresh keys of ``size`` bytes from one source."""

    source: str
    number: int
    size: int


@dataclass(frozen=True, slots=True)
class FetchById(Fetch):
    """Get the keys of these references."""

    refs: tuple[KeyRef, ...]


@dataclass(frozen=True, slots=True)
class Look(Fetch):
    """Look at the status of these sources, of which keys from before a start are to be used, where nobody has since;
    then the ticket is called with no keys. One whose status does not come counts as looked at once its time is over."""

    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Install(Effect):
    """Give the engine the PSK of an epoch. previous: the one that it replaces, for handshakes under way.

    handshake_now: start a WireGuard handshake at once, as the other end has installed it already. record_suite: AEAD of
    the record mode that both ends have, empty for none.
    """

    epoch: int
    psk: Secret
    previous_epoch: int | None
    previous_psk: Secret | None
    handshake_now: bool
    record_suite: str = ""


@dataclass(frozen=True, slots=True)
class Block(Effect):
    """Put a random PSK in place and drop the session: no traffic until the next epoch."""


@dataclass(frozen=True, slots=True)
class Remember(Effect):
    """Keep in the state directory before anything else is done. identity: the peer's id, by which it is kept; its name
    may be another peer's by then."""

    identity: bytes
    memory: Memory


@dataclass(frozen=True, slots=True)
class Keep(Effect):
    """Put the keys agreed ahead on disk before anything else is done for that peer, and wipe ``image``; where that is
    ``None``, remove them from there.

    key: to seal the file; ends: our identity's id and the peer's. used: a key was taken out to be used, and the file of
    before still has it. Where that cannot be replaced or removed then, ``RekeyNode.unkept`` has to be called, and
    nothing sent to the peer until its next ``Keep``.
    """

    generation: int
    image: Image | None
    used: bool
    key: Secret | None
    ends: tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Notice(Effect):
    """Something happened: for log, status, metrics. Never holds a secret."""

    kind: str
    fields: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Defect(Effect):
    """The code failed for one peer, which is blocked and begins anew; the others go on."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of a ``Fetch``. failures: source name to what it said."""

    keys: tuple[tuple[KeyRef, Secret], ...] = ()
    failures: tuple[tuple[str, str], ...] = ()

    def wipe(self) -> None:
        """Wipe the keys: nobody wants them any more."""
        for _, key in self.keys:
            key.wipe()
