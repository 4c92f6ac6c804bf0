"""Transport keys of one handshake, and a peer's current, next and previous ones (white paper section 6.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from qtunnel.crypto.kdf import Label
from qtunnel.secret import Secret
from qtunnel.wireguard.epoch_label import EpochLabel
from qtunnel.wireguard.limits import PREVIOUS_KEYPAIRS, REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME
from qtunnel.wireguard.record_format import MAX_COUNTER
from qtunnel.wireguard.record_join import JoinBuffers, RecordJoiner
from qtunnel.wireguard.record_plain import Report
from qtunnel.wireguard.replay import ReplayWindow

if TYPE_CHECKING:
    from qtunnel.wireguard.peer import Peer


RECORD_SUITES: dict[str, tuple[Label, type[ChaCha20Poly1305] | type[AESGCM]]] = {
    "chacha20-poly1305": (Label.RECORD_CHACHA20_POLY1305, ChaCha20Poly1305),
    "aes-256-gcm": (Label.RECORD_AES_256_GCM, AESGCM),
}
"""The AEADs of record mode, each with the label that its keys are derived under."""


class RecordKeys:
    """Record mode's part of a session: keys and counters of its own. keys: for sending and receiving; wiped. buffers:
    of the device, for records that wait for datagrams."""

    __slots__ = (
        "delivered",
        "joiner",
        "last_report",
        "next",
        "reported",
        "seal",
        "send_counter",
        "suite",
        "unseal",
        "window",
    )

    def __init__(self, suite: str, keys: tuple[Secret, Secret], buffers: JoinBuffers) -> None:
        _, aead = RECORD_SUITES[suite]
        sending, receiving = keys
        self.suite = suite
        self.seal = aead(bytes(sending.reveal())).encrypt_into
        self.unseal = aead(bytes(receiving.reveal())).decrypt_into
        sending.wipe()
        receiving.wipe()
        self.send_counter = 0
        self.window = ReplayWindow()
        self.joiner = RecordJoiner(self.window.seen, buffers.make)
        self.next = 0
        self.delivered = 0
        self.last_report = float("-inf")
        self.reported = True
        """Nothing but reports arrived since the last report of ours."""

    def may_send(self) -> bool:
        return self.send_counter <= MAX_COUNTER

    def begins(self, counter: int) -> bool:
        """Whether nothing of that record was there before."""
        return counter not in self.joiner and not self.window.seen(counter)

    def accept(self, counter: int) -> bool:
        """An authenticated record; False where it was there before."""
        if not self.window.accept(counter):
            return False
        self.next = max(self.next, counter + 1)
        self.delivered += 1
        return True

    def report(self, *, question: bool) -> Report:
        counters = self.joiner.counters
        return Report(self.next, counters.expected, counters.received, self.delivered, counters.spoiled, question)


class Keypair:
    """Keys, indices and counters of one session.

    label: of the PSK that went into it, which may end it before its time. created: monotonic seconds;
    created_unix_ns: the same moment as Unix time. ``seal`` and ``unseal``: of
    ChaCha20-Poly1305, encrypt_into and decrypt_into.
    """

    __slots__ = (
        "created",
        "created_unix_ns",
        "initiator",
        "label",
        "local_index",
        "peer",
        "records",
        "remote_index",
        "seal",
        "send_counter",
        "unseal",
        "window",
    )

    def __init__(
        self,
        peer: Peer,
        keys: tuple[Secret, Secret],
        *,
        initiator: bool,
        local_index: int,
        remote_index: int,
        label: EpochLabel,
        created: float,
        created_unix_ns: int,
        records: RecordKeys | None = None,
    ) -> None:
        sending, receiving = keys
        self.peer = peer
        self.seal = ChaCha20Poly1305(bytes(sending.reveal())).encrypt_into
        self.unseal = ChaCha20Poly1305(bytes(receiving.reveal())).decrypt_into
        sending.wipe()
        receiving.wipe()
        self.initiator = initiator
        self.local_index = local_index
        self.remote_index = remote_index
        self.label = label
        self.created = created
        self.created_unix_ns = created_unix_ns
        self.records = records
        self.send_counter = 0
        self.window = ReplayWindow()

    @property
    def epoch(self) -> int | None:
        """The number that the operator gave that PSK, if any."""
        return self.label.epoch

    @property
    def heard(self) -> int:
        """Datagrams with packets that came under this session, about."""
        return self.window.next + (self.records.joiner.counters.received if self.records is not None else 0)

    @property
    def packets(self) -> int:
        """Sealed and opened under this session, by its counters: what was lost on the way counts too."""
        records = self.records
        own = self.send_counter + self.window.next
        return own if records is None else own + records.send_counter + records.next

    def may_send(self, now: float) -> bool:
        return not self.expired(now) and self.send_counter < REJECT_AFTER_MESSAGES

    def expired(self, now: float) -> bool:
        return now - self.created >= REJECT_AFTER_TIME or self.label.over(now)


class Keypairs:
    """Which session sends and which still receive. Methods return the sessions that are to be forgotten."""

    __slots__ = ("current", "next", "previous")

    def __init__(self) -> None:
        self.current: Keypair | None = None
        self.next: Keypair | None = None
        self.previous: list[Keypair] = []

    @property
    def packets(self) -> int:
        """Under all these sessions together."""
        return sum(keypair.packets for keypair in self.held)

    @property
    def held(self) -> list[Keypair]:
        """All of them."""
        return [keypair for keypair in (self.current, self.next, *self.previous) if keypair]

    def add(self, new: Keypair) -> list[Keypair]:
        """A session just derived: the initiator may send with it, the responder waits for its first packet."""
        if not new.initiator:
            gone = [self.next] if self.next else []
            self.next = new
            return gone
        retired = [keypair for keypair in (self.current, self.next) if keypair]
        self.current, self.next = new, None
        return self._retire(retired)

    def confirm(self) -> list[Keypair]:
        """The peer sent with the next session, which is the current one from now on."""
        retired = [self.current] if self.current else []
        self.current, self.next = self.next, None
        return self._retire(retired)

    def clear(self) -> list[Keypair]:
        """Forget all."""
        gone = self.held
        self.current = self.next = None
        self.previous = []
        return gone

    def _retire(self, keypairs: list[Keypair]) -> list[Keypair]:
        kept = keypairs[::-1] + self.previous
        self.previous = kept[:PREVIOUS_KEYPAIRS]
        return kept[PREVIOUS_KEYPAIRS:]
