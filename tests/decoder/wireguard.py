"""WireGuard's handshake and data messages (its white paper, section 5.4), under the PSKs of epochs, and its records."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from tests.decoder.contents import MalformedError
from tests.decoder.pcap import Datagram
from tests.decoder.primitives import Disclosed, Identity, agree, label
from tests.decoder.records import AEADS, TYPE, Fragment, Record, Records

CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
INITIATION, RESPONSE, COOKIE, DATA = 1, 2, 3, 4


def blake(*parts: bytes) -> bytes:
    return hashlib.blake2s(b"".join(parts)).digest()


def kdf(number: int, key: bytes, material: bytes) -> list[bytes]:
    secret, out, last = hmac.digest(key, material, "blake2s"), [], b""
    for at in range(1, number + 1):
        last = hmac.digest(secret, last + bytes([at]), "blake2s")
        out.append(last)
    return out


def opened(key: bytes, counter: int, sealed: bytes, associated: bytes = b"") -> bytes:
    return ChaCha20Poly1305(key).decrypt(bytes(4) + struct.pack("<Q", counter), sealed, associated)


@dataclass
class Session:
    """One session: ``epoch`` is the number of the epoch whose PSK opened the response."""

    initiator: Identity
    responder: Identity
    epoch: int
    keys: dict[int, bytes]
    """Key of data messages by the index that they carry."""
    records: dict[int, dict[str, bytes]]
    """Keys of records likewise, by AEAD."""
    senders: dict[int, Identity]
    packets: list[tuple[Identity, bytes]] = field(default_factory=list)
    """Contents of data messages, as sealed: an IP packet with zeros after it, or nothing."""
    delivered: list[tuple[Identity, Record]] = field(default_factory=list)


@dataclass
class _Initiation:
    initiator: Identity
    responder: Identity
    ephemeral: X25519PrivateKey
    h: bytes
    ck: bytes


class WireGuard:
    """Feed it the datagrams of WireGuard's port in order.

    ``psks`` gives what PSKs there were by then, as (epoch, PSK), in the order in which they are tried.
    """

    def __init__(self, disclosed: Disclosed, psks: Callable[[], Sequence[tuple[int, bytes]]]) -> None:
        self._disclosed, self._psks = disclosed, psks
        self._initiations: dict[int, _Initiation] = {}
        self._records = Records()
        self._by_index: dict[int, Session] = {}
        self.sessions: list[Session] = []
        self.unopened = 0
        """Responses under a PSK of no epoch."""
        self.cookies = 0

    @property
    def incomplete(self) -> int:
        """Records of which something came, but not enough."""
        return self._records.incomplete

    def feed(self, datagram: Datagram) -> None:
        content = datagram.payload
        kind = content[0] if content else 0
        if kind == TYPE and len(content) > 16:
            self._record(datagram)
        elif content[1:4] != bytes(3):
            raise MalformedError(f"a message of type {kind} with reserved bytes that are not 0")
        elif kind == INITIATION and len(content) == 148:
            self._initiation(content)
        elif kind == RESPONSE and len(content) == 92:
            self._response(content)
        elif kind == COOKIE and len(content) == 64:
            self.cookies += 1
        elif kind == DATA and len(content) >= 32 and len(content) % 16 == 0:
            self._data(content)
        else:
            raise MalformedError(f"no message of WireGuard: type {kind}, {len(content)} bytes")

    def _initiation(self, content: bytes) -> None:
        (sender,) = struct.unpack_from("<I", content, 4)
        e, static, timestamp = content[8:40], content[40:88], content[88:116]
        responder = self._receiver(content)
        ck = blake(CONSTRUCTION)
        h = blake(blake(ck, IDENTIFIER), responder.public["wireguard"])
        (ck,), h = kdf(1, ck, e), blake(h, e)
        ck, k = kdf(2, ck, agree(responder.wireguard, e))
        public, h = opened(k, 0, static, h), blake(h, static)
        known = [one for one in self._disclosed.identities if one.public["wireguard"] == public]
        if not known:
            raise MalformedError("an initiation of nobody known")
        (initiator,) = known
        ck, k = kdf(2, ck, agree(responder.wireguard, public))
        opened(k, 0, timestamp, h)
        h = blake(h, timestamp)
        if e not in self._disclosed.curves:
            raise MalformedError("the ephemeral key of an initiation was not disclosed")
        self._initiations[sender] = _Initiation(initiator, responder, self._disclosed.curves[e], h, ck)

    def _receiver(self, content: bytes) -> Identity:
        """Whose mac1 it has. mac2 is zeros as long as no cookie was given."""
        covered, mac1, mac2 = content[:-32], content[-32:-16], content[-16:]
        if any(mac2) and not self.cookies:
            raise MalformedError("mac2, and no cookie was seen")
        for identity in self._disclosed.identities:
            key = blake(b"mac1----", identity.public["wireguard"])
            if hashlib.blake2s(covered, digest_size=16, key=key).digest() == mac1:
                return identity
        raise MalformedError("a message for nobody known")

    def _response(self, content: bytes) -> None:
        sender, receiver = struct.unpack_from("<II", content, 4)
        e, nothing = content[12:44], content[44:60]
        begun = self._initiations[receiver]
        if self._receiver(content) is not begun.initiator:
            raise MalformedError("a response for another end")
        (ck,), h = kdf(1, begun.ck, e), blake(begun.h, e)
        (ck,) = kdf(1, ck, agree(begun.ephemeral, e))
        (ck,) = kdf(1, ck, agree(begun.initiator.wireguard, e))
        for number, psk in self._psks():
            last, t, k = kdf(3, ck, psk)
            try:
                opened(k, 0, nothing, blake(h, t))
            except InvalidTag:
                continue
            epoch = number
            break
        else:
            self.unopened += 1
            return
        keys = dict(zip((sender, receiver), kdf(2, last, b""), strict=True))
        by_aead = {aead: kdf(2, last, label(f"record/{aead}")) for aead in AEADS}
        records = {index: {aead: both[at] for aead, both in by_aead.items()} for at, index in enumerate(keys)}
        senders = {sender: begun.initiator, receiver: begun.responder}
        session = Session(begun.initiator, begun.responder, epoch, keys, records, senders)
        self.sessions.append(session)
        self._by_index |= {sender: session, receiver: session}

    def _data(self, content: bytes) -> None:
        index, counter = struct.unpack_from("<IQ", content, 4)
        session = self._by_index[index]
        session.packets.append((session.senders[index], opened(session.keys[index], counter, content[16:])))

    def _record(self, datagram: Datagram) -> None:
        fragment = Fragment.read(datagram.payload)
        if (session := self._by_index.get(fragment.receiver)) is None:
            raise MalformedError("a record of a session that was not seen")
        keys = session.records[fragment.receiver]
        ciphers = {name: (AESGCM if name.startswith("aes") else ChaCha20Poly1305)(key) for name, key in keys.items()}
        record = self._records.feed(datagram.source, fragment, ciphers)
        if record is not None:
            session.delivered.append((session.senders[fragment.receiver], record))
