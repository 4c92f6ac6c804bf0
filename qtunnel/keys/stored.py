"""A peer's reservoir as it lies on disk: sealed under a key, for one pair of gateways, with a number that only grows.

A file is a head (format, generation, salt) and what is held, sealed by ChaCha20-Poly1305 (RFC 8439) under a key of its
own: HKDF-Expand of the store's key with the salt. So no nonce is ever used twice, however often it is written. The head
and both gateways' identities are authenticated with it: a file of another peer, of another gateway or with another
generation in its head does not open.

What is held is the keys and, since format 2, the marks of withdrawn keys of which the peer has not heard yet, and when
a look last found nothing wrong with each source's keys. That is by the same clock, in the same moment, as the times at
which the keys came: whatever becomes of the clock, they are in the order in which they were.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from qtunnel.crypto.aead import CHACHA20_POLY1305, AuthenticationError
from qtunnel.crypto.kdf import Label, derive, frame
from qtunnel.errors import StoreError
from qtunnel.secret import Secret
from qtunnel.terms import MARK_SIZE, STORE_SIZE, KeyRef

FORMAT = b"qtkeys\x00\x02"
FORMER = b"qtkeys\x00\x01"
"""Keys alone. It is read, and never written."""
SALT_SIZE = 32
MAX_FILE = 16 << 20
"""Bytes. Two reservoirs of 1,024 keys of sixteen sources, with the longest key_IDs, have 11 MB; marks of
withdrawn ones 64 KB more."""
_HEAD = struct.Struct(f">{len(FORMAT)}sQ{SALT_SIZE}s")
_COUNTS = struct.Struct(f">{STORE_SIZE}sB{STORE_SIZE}sHH")
_KEY = struct.Struct(">BQBBH")
"""State, milliseconds since 1970 (UTC), bytes of source, key_ID and key, which follow in that order."""
_MORE = struct.Struct(">HH")
"""Behind the keys, since format 2: how many marks and how many looks follow, in that order."""
_LOOK = struct.Struct(">QB")
"""Milliseconds since 1970 (UTC), bytes of the source, which follows."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """since: when it came, in milliseconds of the wall clock. state: of a key of ours the place (0 fetched, 1
    announced, 2 shared), of the peer's 1 where it knows that we hold it, else 0."""

    ref: KeyRef
    key: Secret
    since: int
    state: int


@dataclass(frozen=True, slots=True)
class Image:
    """All of a reservoir. peer_store: ``None`` where the peer never told one. Its keys are copies of its own.
    withdrawn: marks of keys that must not be used, and of which the peer has not heard. vouched: by source, when a look
    last found nothing wrong with its keys, in milliseconds of the wall clock, and before every key that came since."""

    store: bytes
    peer_store: bytes | None
    own: tuple[StoredKey, ...]
    theirs: tuple[StoredKey, ...]
    withdrawn: tuple[bytes, ...] = ()
    vouched: tuple[tuple[str, int], ...] = ()

    def wipe(self) -> None:
        for entry in (*self.own, *self.theirs):
            entry.key.wipe()


def seal(image: Image, generation: int, key: Secret, salt: bytes, ends: tuple[bytes, bytes]) -> bytes:
    """The file's content. key, salt: 32 bytes each, the salt random and new for every file; ends: our identity's id
    and the peer's."""
    head = _HEAD.pack(FORMAT, generation, salt)
    with derive(key, Label.RESERVOIR_STORE, salt, 32) as own, _encode(image) as plain:
        return head + CHACHA20_POLY1305.seal_secret(own, 0, plain, _bound(head, ends))


def unseal(content: bytes, key: Secret, ends: tuple[bytes, bytes]) -> tuple[int, Image]:
    """Generation and keys; raises ``StoreError`` for anything but a whole file of ``seal`` with the same arguments."""
    if len(content) < _HEAD.size:
        raise StoreError("it is cut short" if content else "it is empty")
    found, generation, salt = _HEAD.unpack_from(content)
    if found not in (FORMAT, FORMER):
        raise StoreError("it is no store of keys, or one of another version")
    head = content[: _HEAD.size]
    try:
        with derive(key, Label.RESERVOIR_STORE, salt, 32) as own:
            plain = CHACHA20_POLY1305.open_secret(own, 0, content[_HEAD.size :], _bound(head, ends))
    except AuthenticationError:
        raise StoreError("it does not open: it is damaged, sealed under another key, or of another pair") from None
    with plain:
        return generation, _decode(plain, more=found == FORMAT)


def _bound(head: bytes, ends: tuple[bytes, bytes]) -> bytes:
    return frame(head, *ends)


def _encode(image: Image) -> Secret:
    peer_store = image.peer_store
    known, counts = peer_store is not None, (len(image.own), len(image.theirs))
    buffer = bytearray(_COUNTS.pack(image.store, known, peer_store or bytes(STORE_SIZE), *counts))
    try:
        for entry in (*image.own, *image.theirs):
            source, key_id = entry.ref.source.encode(), entry.ref.key_id.encode()
            buffer += _KEY.pack(entry.state, entry.since, len(source), len(key_id), len(entry.key))
            buffer += source + key_id
            buffer += entry.key.reveal()
        buffer += _MORE.pack(len(image.withdrawn), len(image.vouched)) + b"".join(image.withdrawn)
        for name, at in image.vouched:
            buffer += _LOOK.pack(at, len(name.encode())) + name.encode()
        return Secret(buffer)
    finally:
        buffer[:] = bytes(len(buffer))


def _decode(plain: Secret, *, more: bool) -> Image:
    """What ``_encode`` wrote, to its last byte. more: the keys are not all of it."""
    view = plain.reveal()
    made: list[StoredKey] = []
    try:
        store, known, peer_store, own, theirs = _COUNTS.unpack_from(view)
        at = _COUNTS.size
        for _ in range(own + theirs):
            entry, at = _entry(view, at)
            made.append(entry)
        withdrawn, vouched, at = _behind(view, at) if more else ((), (), at)
        if at != len(view):
            raise ValueError("more than it says")
        refs = [entry.ref for entry in made]
        if known > 1 or len(set(refs[:own])) != own or len(set(refs[own:])) != theirs:
            raise ValueError("inconsistent")
        return Image(store, peer_store if known else None, tuple(made[:own]), tuple(made[own:]), withdrawn, vouched)
    except (ValueError, struct.error):
        for entry in made:
            entry.key.wipe()
        raise StoreError("its content is not what this version writes") from None
    finally:
        view.release()


def _entry(view: memoryview, at: int) -> tuple[StoredKey, int]:
    """A key, and where what comes after it begins."""
    state, since, source, key_id, size = _KEY.unpack_from(view, at)
    at += _KEY.size
    ends = at + source, at + source + key_id, at + source + key_id + size
    if ends[-1] > len(view) or not size or state > 2:
        raise ValueError("out of range")
    ref = KeyRef(bytes(view[at : ends[0]]).decode(), bytes(view[ends[0] : ends[1]]).decode(), size)
    return StoredKey(ref, Secret(view[ends[1] : ends[2]]), since, state), ends[-1]


def _behind(view: memoryview, at: int) -> tuple[tuple[bytes, ...], tuple[tuple[str, int], ...], int]:
    """Marks, looks, and where they end."""
    marks, looks = _MORE.unpack_from(view, at)
    at += _MORE.size
    end = at + marks * MARK_SIZE
    if end > len(view):
        raise ValueError("out of range")
    withdrawn = tuple(bytes(view[place : place + MARK_SIZE]) for place in range(at, end, MARK_SIZE))
    vouched: dict[str, int] = {}
    for _ in range(looks):
        when, size = _LOOK.unpack_from(view, end)
        end += _LOOK.size + size
        if end > len(view):
            raise ValueError("out of range")
        vouched[bytes(view[end - size : end]).decode()] = when
    if len(vouched) != looks or len(set(withdrawn)) != marks:
        raise ValueError("inconsistent")
    return withdrawn, tuple(vouched.items()), end
