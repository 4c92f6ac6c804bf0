"""What crosses the control socket: one JSON object per line, version 1.

A request is ``{"version": 1, "request": NAME, ...}``. Its answer is ``{"version": 1, "ok": true, "result": {...}}`` or
``{"version": 1, "ok": false, "error": {"code": CODE, "message": TEXT}}``; ``events`` is answered by one line
``{"version": 1, "event": {...}}`` per event. All times are in seconds. Nothing here holds a secret; a key_ID is public.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

VERSION: Final = 1

MAX_REQUEST = 4096
"""Bytes of a request line: a peer's name and some words."""

MAX_RESPONSE = 16 * 1024 * 1024
"""Bytes of a response line: a status of some 10,000 peers at about 1 kB each."""

RELOAD_TIMEOUT = 120.0
"""Seconds that a reload may take: the file of a hub of 1,000 peers is read in some ten seconds on a busy machine."""

REKEY_TIMEOUT = 30.0
"""Seconds that a rekey's outcome is waited for by default: several retransmissions and a slow KME."""

MAX_REKEY_TIMEOUT = 300.0

RequestName = Literal["ping", "status", "rekey", "reload", "events", "clear-source"]
Protection = Literal["qkd+pqc", "pqc-only", "blocked", "starting", "expired"]
NodeState = Literal["starting", "up", "engine-down", "interface-altered", "stopping"]
SourceStateName = Literal["not asked yet", "well", "failing", "resting", "partly in quarantine", "in quarantine"]
TrustName = Literal[
    "not looked at yet", "no alarm", "status not known", "status unreadable", "in quarantine", "tells none"
]
DOUBTED: tuple[TrustName, ...] = ("status not known", "status unreadable", "in quarantine")
"""Of these, what a person has to know of."""
FaultKind = Literal[
    "unreachable", "timeout", "certificate", "unauthorized", "rejected", "unavailable", "key-not-found", "protocol",
    "driver",
]  # fmt: skip
"""How a call of a key source can fail: each kind of ``KeySourceError``, and the driver itself."""
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
ErrorCode = Literal[
    "bad-request", "version", "forbidden", "busy", "unknown-peer", "unknown-source", "timeout", "failed", "config",
    "stopping", "internal",
]  # fmt: skip


class Message(BaseModel):
    """Base: immutable, and a field too many is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Request(Message):
    """peer: for ``status`` and ``clear-source`` (``None``: all) and ``rekey``; source: for ``clear-source``; timeout_s:
    for ``rekey``; history: for ``events``."""

    version: Literal[1] = VERSION
    request: RequestName
    peer: str | None = Field(default=None, max_length=256)
    source: str | None = Field(default=None, max_length=256)
    timeout_s: float = Field(default=REKEY_TIMEOUT, gt=0, le=MAX_REKEY_TIMEOUT, allow_inf_nan=False)
    history: bool = False


class NodeStatus(Message):
    """The gateway itself. uptime: seconds since the daemon started. interface: its name. config_error: why the newest
    configuration is not the one in use, until a good one is loaded. audit_records: number of the newest record in the
    audit log, ``None`` where there is none; audit_error: why nothing is recorded now. page: the address of the page,
    where one is served. engine_restarts, rejected
    (datagrams and offers that did not count, by reason): since the daemon's start."""

    name: str
    fingerprint: str
    version: str
    uptime: float
    engine: str
    engine_pid: int | None = None
    interface: str
    state: NodeState
    config_error: str | None = None
    config_error_age_s: float | None = None
    engine_restarts: int = 0
    audit_records: int | None = None
    audit_error: str | None = None
    page: str | None = None
    rejected: dict[str, int] = {}


class UsedKey(Message):
    """A QKD key that went into the epoch in force: its source's name and its key_ID."""

    source: str
    key_id: str


class ReservoirStatus(Message):
    """Keys agreed ahead with a peer from one source. keys: that both ends hold and this one can offer; depth: as
    configured; held: all here, those on their way and the peer's included."""

    source: str
    keys: int
    depth: int
    held: int


class PeerStatus(Message):
    """One peer.

    protected: as its policy asks. protection: of the traffic now. policy: the QKD policy; peer_policy: what the other
    end demands, by the newest exchange. epoch_installed, epoch_in_force: handed to the engine, of the session that
    sends now. sources, key_ids, chained, age_s: of the epoch in force. role: ``initiator``, or ``responder`` where
    rekeys are the peer's turn. next_rekey_s: until this end begins one, which for a responder is when it takes over;
    negative when overdue, ``None`` while one is under way or where this end never begins. expires_in_s: likewise from
    now. endpoint: of WireGuard; handshake_endpoint: of the hybrid handshake. interval_s: between rekeys, as in force;
    interval_usual_s: as configured; interval_reason: why the two differ. supply: what the key sources have left, a line
    each, where the interval goes by it. epoch_bytes, epoch_packets: through the tunnel since the last rekey; max_bytes,
    max_packets: after which the next is due, ``None`` for no such limit. record_mode: the AEAD of record mode where it
    is in force; record_mode_reason: why not, where both ends have it.
    """

    name: str
    protected: bool
    protection: Protection
    policy: str
    peer_policy: str | None = None
    epoch_installed: int | None = None
    epoch_in_force: int | None = None
    sources: list[str] = []
    key_ids: list[UsedKey] = []
    chained: bool = False
    age_s: float | None = None
    max_age_s: float | None = None
    next_rekey_s: float | None = None
    expires_in_s: float | None = None
    last_error: str | None = None
    last_error_age_s: float | None = None
    role: str = ""
    endpoint: str | None = None
    handshake_endpoint: str | None = None
    last_handshake_age_s: float | None = None
    record_mode: str | None = None
    record_mode_reason: str | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0
    rekeys_ok: int = 0
    rekeys_failed: int = 0
    interval_s: float | None = None
    interval_usual_s: float | None = None
    interval_reason: str | None = None
    supply: list[str] = []
    epoch_bytes: int = 0
    epoch_packets: int | None = None
    max_bytes: int | None = None
    max_packets: int | None = None
    reservoir: list[ReservoirStatus] = []


class PlainPeerStatus(Message):
    """A plain WireGuard peer. preshared_key: whether it has one, which never changes by itself."""

    name: str
    protection: Literal["wireguard-only"] = "wireguard-only"
    preshared_key: bool = False
    endpoint: str | None = None
    last_handshake_age_s: float | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0


class SourcePeerStatus(Message):
    """What a key source says of its keys with one peer. stored_keys, qber (a fraction): as it told them last, ``None``
    where it does not tell. alarm: why none of them is used. problem: why the last look brought no status. status_age_s:
    seconds since the last status that came was asked for; silent_s: for how many none has come, ``None`` where the last
    look brought one."""

    peer: str
    state: TrustName
    stored_keys: int | None = None
    qber: float | None = None
    alarm: str | None = None
    problem: str | None = None
    status_age_s: float | None = None
    silent_s: float | None = None


class KeySourceStatus(Message):
    """One key source; healthy is ``None`` where it was not asked yet.

    stored_keys, max_keys, key_rate (secret bits per second): as it told them last of the first peer that it told them
    of; qber (a fraction): the worst of all peers, and qber_age_s how old that is in seconds; ``None`` where it does not
    tell. towards: of each peer.
    keys_used_per_day: at the rate of the last hour. days_left: until it is empty, a lower bound where it tells no
    key_rate; ``None`` where not known, and where ``lasts``: no less is made than used. keys_taken, keys_lost: since the
    daemon's start. faults: calls that failed, by kind, likewise. alarm: why it is in quarantine.
    """

    name: str
    description: str
    healthy: bool | None
    state: SourceStateName = "not asked yet"
    detail: str = ""
    last_error: str | None = None
    stored_keys: int | None = None
    max_keys: int | None = None
    qber: float | None = None
    qber_age_s: float | None = None
    qber_limit: float | None = None
    key_rate: float | None = None
    keys_used_per_day: float | None = None
    days_left: float | None = None
    lasts: bool = False
    keys_taken: int = 0
    keys_lost: int = 0
    faults: dict[FaultKind, int] = {}
    alarm: str | None = None
    towards: list[SourcePeerStatus] = []

    @property
    def doubted(self) -> list[SourcePeerStatus]:
        """Peers with which its keys are not used, or used without a status."""
        return [its for its in self.towards if its.state in DOUBTED]


class Status(Message):
    """The answer to ``status``."""

    version: Literal[1] = VERSION
    node: NodeStatus
    peers: list[PeerStatus] = []
    plain_peers: list[PlainPeerStatus] = []
    key_sources: list[KeySourceStatus] = []

    @property
    def protected(self) -> bool:
        """Whether every peer shown is protected as its policy asks; no peer at all protects nothing, and what holds
        while somebody else changes the interface is not known. Plain peers have no policy and do not count."""
        return (
            self.node.state != "interface-altered" and bool(self.peers) and all(peer.protected for peer in self.peers)
        )


class RekeyOutcome(Message):
    """The answer to ``rekey``. ok: a new epoch was agreed. protected: the peer is, by its policy, with it."""

    version: Literal[1] = VERSION
    peer: str
    ok: bool
    protected: bool
    protection: Protection
    epoch: int | None = None
    sources: list[str] = []
    key_ids: list[UsedKey] = []
    chained: bool = False
    duration_ms: float
    error: str | None = None


class SourceCleared(Message):
    """The answer to ``clear-source``: its quarantine has ended. peer: towards whom, ``None`` for all."""

    version: Literal[1] = VERSION
    source: str
    peer: str | None = None


class ReloadOutcome(Message):
    """The answer to ``reload``. changes: what was done, in words; trouble: what of it engine or kernel refused so far,
    and is tried again."""

    version: Literal[1] = VERSION
    file: str
    changes: list[str] = []
    warnings: list[str] = []
    trouble: list[str] = []


class Pong(Message):
    """The answer to ``ping``. config: the file that the daemon reads."""

    pid: int
    qtunnel: str
    config: str | None = None
