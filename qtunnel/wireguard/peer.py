"""What is known of one peer."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from qtunnel.secret import Secret
from qtunnel.wireguard.allowed_ips import Prefixes
from qtunnel.wireguard.cookie import CookieJar
from qtunnel.wireguard.endpoint import Endpoint, without_source
from qtunnel.wireguard.epoch_label import EpochLabel
from qtunnel.wireguard.limits import MAX_STAGED_PACKETS
from qtunnel.wireguard.noise import NoiseHandshake
from qtunnel.wireguard.record_link import RecordLink
from qtunnel.wireguard.session import Keypairs
from qtunnel.wireguard.tai64n import TimestampSource
from qtunnel.wireguard.timers import PeerTimers

PSK_SIZE = 32
NO_PSK = bytes(PSK_SIZE)
"""An all-zero preshared key: none (white paper section 5.2)."""


@dataclass(slots=True)
class LabelledPsk:
    """A preshared key and what the operator said of it, if anything."""

    psk: Secret
    label: EpochLabel = field(default_factory=EpochLabel)

    @property
    def epoch(self) -> int | None:
        return self.label.epoch


@dataclass(slots=True)
class PendingInitiation:
    """An initiation that waits for its response."""

    local_index: int
    handshake: NoiseHandshake


class Peer:
    """One peer; only the device and its parts change it. Times are monotonic seconds unless the name says otherwise."""

    __slots__ = (
        "allowed_ips",
        "cookies",
        "ended_epoch",
        "endpoint",
        "handshake_attempts",
        "initiated_with_psk",
        "keypairs",
        "last_handshake_unix_ns",
        "last_initiation_received",
        "last_initiation_sent",
        "last_timestamp",
        "mismatched_responses",
        "past_packets",
        "pending",
        "previous_psk",
        "psk",
        "public_key",
        "records",
        "rx_bytes",
        "sent_last_minute_handshake",
        "staged",
        "timers",
        "timestamps",
        "tx_bytes",
    )

    timers: PeerTimers

    def __init__(self, public_key: bytes, psk: Secret) -> None:
        self.public_key = public_key
        self.psk = LabelledPsk(psk)
        self.previous_psk: LabelledPsk | None = None
        self.ended_epoch: int | None = None
        """The epoch whose time was over, while nobody has set another key since."""
        self.initiated_with_psk = False
        """An initiation was sent since ``psk`` was set."""
        self.mismatched_responses = 0
        """Responses since ``psk`` was set that were made with the previous one."""
        self.endpoint: Endpoint | None = None
        self.allowed_ips: Prefixes[Peer] = Prefixes(self)
        self.keypairs = Keypairs()
        self.pending: PendingInitiation | None = None
        self.cookies = CookieJar(public_key)
        self.staged: deque[bytes] = deque(maxlen=MAX_STAGED_PACKETS)
        self.timestamps = TimestampSource()
        self.last_timestamp = b""
        self.last_initiation_sent = float("-inf")
        self.last_initiation_received = float("-inf")
        self.handshake_attempts = 0
        self.sent_last_minute_handshake = False
        self.last_handshake_unix_ns = 0
        self.records = RecordLink()
        self.rx_bytes = 0
        self.tx_bytes = 0
        self.past_packets = 0
        """Of sessions that are over."""

    @property
    def packets(self) -> int:
        """Packets sealed and opened, each with a nonce of its own: a record is one, whatever is in it."""
        return self.past_packets + self.keypairs.packets

    def set_psk(self, psk: LabelledPsk, previous: LabelledPsk | None) -> None:
        """A preshared key, perhaps the same again; the one before lives on only where it is given."""
        if psk.psk != self.psk.psk:
            self.initiated_with_psk = False
            self.mismatched_responses = 0
        self.psk.psk.wipe()
        self.wipe_previous_psk()
        self.psk, self.previous_psk, self.ended_epoch = psk, previous, None
        self.timers.psk_set(psk.label.ends)

    def end_before(self, epoch: int, ends: float) -> None:
        """The key of that epoch, before the one in place, and its sessions end then, where they would not sooner."""
        labels = [keypair.label for keypair in self.keypairs.held]
        if self.previous_psk is not None:
            labels.append(self.previous_psk.label)
        for label in labels:
            if label.epoch == epoch and label is not self.psk.label:
                label.ends = min(label.ends, ends)

    def wipe_previous_psk(self) -> None:
        if self.previous_psk is not None:
            self.previous_psk.psk.wipe()
            self.previous_psk = None

    def wipe_psks(self) -> None:
        self.set_psk(LabelledPsk(Secret(NO_PSK)), None)

    def forget_source(self) -> None:
        """Let the host choose the local address: what was learned may be stale, and stand in the way."""
        if self.endpoint is not None:
            self.endpoint = without_source(self.endpoint)

    def __repr__(self) -> str:
        return f"<Peer {short_key(self.public_key)}>"


def short_key(public_key: bytes) -> str:
    """Eight hex digits that tell peers apart in a log."""
    return public_key[:4].hex()
