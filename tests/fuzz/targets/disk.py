"""Files that this program wrote, or seem to be such: identities, state, keys agreed ahead, pads, stream indexes; and
what a former daemon left with the engine."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import zlib
from pathlib import Path
from uuid import UUID

from qtunnel.crypto.aead import CHACHA20_POLY1305
from qtunnel.crypto.kdf import Label, derive
from qtunnel.daemon.records import EPOCH_BOUND, header_line, peer_line, read
from qtunnel.daemon.takeover import epoch_of
from qtunnel.drivers.etsi004_index import SLOT, IndexesError, IndexFile
from qtunnel.drivers.file_format import _HEADER, _IMPRINT, IMPRINT_SIZE, Imprint, PadInfo, _digest
from qtunnel.drivers.file_ledger import SLOT_SIZE, Ledger, newest
from qtunnel.engines.steward_words import config_from_plain, config_to_plain, decode
from qtunnel.errors import EngineError, IdentityFileError, PadError, StoreError
from qtunnel.identity import Identity, PublicIdentity
from qtunnel.keys import stored
from qtunnel.keys.stored import Image, StoredKey
from qtunnel.rekey.model import Memory
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef
from tests.fuzz.draw import Draw, document, dumps, edited, spoiled
from tests.fuzz.places import SecretFile
from tests.fuzz.target import Target, say
from tests.rekey.gateways import IDENTITIES, settings

ALICE, BOB = IDENTITIES["hub"], IDENTITIES["b"]
PUBLIC = ALICE.public.to_text().encode()
SECRET = b"qtunnel-identity-v1\n# secret\n" + base64.b64encode(bytes(range(32))) + b"\n"


def public(data: bytes) -> None:
    """What reads as a public file is written and read as the same; a fingerprint that does not fit is refused."""
    text = data[1:] if data[:1] < b"\x40" else _lines(Draw(data[1:]), PUBLIC)
    found = PublicIdentity.parse(text.decode("ascii", "replace"))
    again = PublicIdentity.parse(found.to_text())
    assert again == found
    assert again.id == found.id


def _lines(draw: Draw, text: bytes) -> bytes:
    """Lines left out, doubled, swapped, spoiled."""
    lines = text.split(b"\n")
    for _ in range(draw.number(0, 3)):
        at = draw.number(0, 255) % len(lines)
        match draw.number(0, 4):
            case 0:
                lines.insert(at, lines[draw.number(0, 255) % len(lines)])
            case 1 if len(lines) > 1:
                del lines[at]
            case 2:
                lines.append(
                    draw.choice((b"kem: hqc-256", b"kem: nothing", b"# fingerprint aaaa", b"hqc-128: AAAA", b"x: "))
                )
            case _:
                lines[at] = spoiled(draw, lines[at], 2)
    return draw.choice((b"\n", b"\n", b"\r\n", b"\r")).join(lines)


_file = SecretFile()


def secret(data: bytes) -> None:
    """What reads as an identity has a seed of 32 bytes; an error quotes nothing of it."""
    text = data[1:] if data[:1] < b"\x40" else _lines(Draw(data[1:]), SECRET)
    try:
        found = Identity.load(_file.of(text))
    except IdentityFileError as error:
        say(str(error))
        assert base64.b64encode(bytes(range(32)))[:20].decode() not in str(error)
        return
    assert len(found.public.wireguard) == 32


MEMORY = Memory(7, bytes(range(12)), bytes(range(12)), 8, False, (("metro", 3),), 5)
STATE = [
    header_line(read(b"", bytes(12)).header).encode(),
    peer_line(ALICE.public.id.hex(), MEMORY, None).encode(),
    peer_line(BOB.public.id.hex(), Memory(), None).encode(),
]
ENTRY = {
    ALICE.public.id.hex(): {
        "epoch": 7, "proposed": 8, "sent": bytes(12).hex(), "seen": bytes(12).hex(), "lost": False,
        "held": {"metro": 3}, "stored": 5,
        "place": {"endpoint": "bob.example", "host": "10.99.0.2"},
    }
}  # fmt: skip
HEADER = {"version": 2, "lost": False, "seen": bytes(12).hex()}
OLD = {"version": 1, "peers": ENTRY}


def state(data: bytes) -> None:
    """Never raises; what it gives is within bounds, is written and read as the same, and what is damaged counts as
    lost."""
    draw = Draw(data)
    if draw.flag(6):
        content = draw.rest()
    elif draw.flag(6):
        content = dumps(draw, edited(draw, OLD)) + b"\n" + dumps(draw, edited(draw, ENTRY)) + b"\n"
    else:
        lines = [_with_crc(dumps(draw, edited(draw, HEADER, most=1))) if draw.flag(4) else STATE[0]]
        for _ in range(draw.number(0, 4)):
            line = _with_crc(dumps(draw, edited(draw, ENTRY))) if draw.flag() else draw.choice(STATE)
            lines.append(spoiled(draw, line) if draw.flag(3) else line)
        content = b"".join(lines)
    clock = b"\x40" + bytes(11)
    found = read(content, clock, [BOB.public.id.hex()])
    for memory in found.peers.values():
        assert 0 <= memory.epoch < EPOCH_BOUND
        assert len(memory.sent) == len(memory.seen) == 12
    assert not found.dropped or found.damage
    written = header_line(found.header) + "".join(
        peer_line(identity, memory, found.places.get(identity)) for identity, memory in found.peers.items()
    )
    again = read(written.encode(), clock)
    assert (again.damage, again.header, again.peers, again.places) == ("", found.header, found.peers, found.places)


def _with_crc(text: bytes) -> bytes:
    text = text.replace(b"\n", b" ")
    return f"{zlib.crc32(text):08x} ".encode() + text + b"\n"


STORE_KEY, SALT, ENDS = Secret(bytes(range(32))), bytes(32), (ALICE.public.id, BOB.public.id)


def store(data: bytes) -> None:
    """A reservoir's file, sealed with the right key whatever is inside: read and written as the same, or refused."""
    draw = Draw(data)
    if draw.flag(6):
        content = draw.rest()
    else:
        keys = tuple(
            StoredKey(
                KeyRef(draw.text(9), draw.text(20), len(key)), Secret(key), draw.number(0, 2**64 - 1), draw.number(0, 3)
            )
            for key in (draw.take(draw.number(0, 40)) for _ in range(draw.number(0, 5)))
        )
        peer_store = draw.choice((None, b"peer-sto"))
        image = Image(b"store-01", peer_store, keys[: len(keys) // 2], keys[len(keys) // 2 :])
        plain = bytes(stored._encode(image).reveal())
        plain = spoiled(draw, plain) if draw.flag() else plain
        head = stored._HEAD.pack(stored.FORMAT, draw.number(0, 2**64 - 1), SALT)
        with derive(STORE_KEY, Label.RESERVOIR_STORE, SALT, 32) as key:
            content = head + CHACHA20_POLY1305.seal(key, 0, plain, stored._bound(head, ENDS))
        content = spoiled(draw, content, 1) if draw.flag(4) else content
    try:
        generation, found = stored.unseal(content, STORE_KEY, ENDS)
    except StoreError as error:
        return say(str(error))
    for entry in (*found.own, *found.theirs):
        assert 0 < len(entry.key) == entry.ref.size
        assert 0 <= entry.state <= 2
    again = stored.unseal(stored.seal(found, generation, STORE_KEY, SALT, ENDS), STORE_KEY, ENDS)
    assert again == (generation, found)
    found.wipe()
    return None


INFO = PadInfo("00112233445566778899aabbccddeeff", 1 << 20, 1 << 19)
LEDGER = dataclasses.replace(
    Ledger.fresh(INFO, "a"), taken=64, reached=600_064, gaps=((524_288, 600_000),), dirty=((0, 64),), mark=bytes(16)
)


def pad(data: bytes) -> None:
    """The beginning of a pad and the record of its last use, with right digests whatever they say."""
    draw = Draw(data)
    head = bytearray(INFO.encode())
    for _ in range(draw.number(0, 3)):
        head[draw.number(0, 60)] = draw.choice((0, 1, 2, 255, draw.number(0, 255)))
    raw = bytes(head) if not draw.flag(4) else draw.rest()
    found = PadInfo.decode(_redigested(raw))
    assert found.lane("a")[1] <= found.size
    assert PadInfo.decode(found.encode()) == found
    for body in (draw.take(IMPRINT_SIZE), _imprint(draw, found)):
        imprint = Imprint.decode(body, found)
        if imprint is not None:
            assert imprint.encode(found)[:IMPRINT_SIZE] == body


def _redigested(head: bytes) -> bytes:
    """With the digest that the header should have."""
    return head[: _HEADER.size] + hashlib.sha256(head[: _HEADER.size]).digest() + head[_HEADER.size + 32 :]


def _imprint(draw: Draw, info: PadInfo) -> bytes:
    good = Imprint("a", 3, bytes(range(16))).encode(info)[: _IMPRINT.size]
    body = spoiled(draw, good, 2)[: _IMPRINT.size].ljust(_IMPRINT.size, b"\1")
    return body + _digest(info, body)


FIELDS = {
    "pad": INFO.pad_id, "size": INFO.size, "share_a": INFO.share_a, "side": "a", "sequence": 4, "generation": 2,
    "mark": "00" * 16,
    "opening": False, "taken": 64, "reached": 600_064, "gaps": [[524_288, 600_000]], "dirty": [[0, 64]], "lost": 0,
    "came_back": 0,
}  # fmt: skip


def ledger(data: bytes) -> None:
    """A ledger's slot, with a right digest whatever it says: nothing, or one that gives no byte twice."""
    draw = Draw(data)
    body = dumps(draw, edited(draw, FIELDS)) if not draw.flag(6) else draw.piece(200)
    slot = (hashlib.sha256(body.rstrip(b" \n")).hexdigest().encode() + b" " + body)[: SLOT_SIZE - 1].ljust(
        SLOT_SIZE - 1
    ) + b"\n"
    slot = spoiled(draw, slot, 1)[:SLOT_SIZE].ljust(SLOT_SIZE) if draw.flag(4) else slot
    found = newest(Ledger.decode(slot), Ledger.decode(LEDGER.encode()))
    assert found is not None
    if (found.info, found.side) != (INFO, "a"):
        return
    used = found.used
    for _ in range(6):
        offset, size = (
            draw.choice((524_288, 600_000, found.reached, draw.number(0, 2**21))),
            draw.choice((32, 16, 5000)),
        )
        before = found
        try:
            if draw.flag():
                found, start = found.take(size)
                assert start == before.taken
            else:
                found = found.give(offset, size)
                assert not any(low < offset + size and offset < high for low, high in before.used), "given twice"
        except PadError as error:
            say(str(error))
        assert sum(high - low for low, high in found.used) >= sum(high - low for low, high in used)
        used = found.used
        found = found.overwritten(found.to_overwrite((0, 0), 4096))
        decoded = Ledger.decode(found.encode())
        assert decoded == found


KSID = UUID("c42fe0b3-dfa7-4872-b170-9d3b63b1f841")


def indexes(data: bytes) -> None:
    """The file with a stream's next index: one that was written, or refused."""
    draw = Draw(data)
    content = b""
    for _ in range(2):
        line = f"{draw.choice((KSID, UUID(int=5)))} {draw.number(0, 2**33):010d} {draw.number(0, 99_999):05d}".encode()
        line = spoiled(draw, line, 1) if draw.flag(4) else line
        content += (line + b" %08x\n" % zlib.crc32(line))[:SLOT].ljust(SLOT)
    content = spoiled(draw, content, 2) if draw.flag(3) else content
    content = draw.rest() if draw.flag(6) else content
    found = IndexFile(Path("x"), KSID)._read(content)
    assert found is None or (found[0] in (0, 1) and found[1] >= 0)


NOTE = {"suite": 1, "peer": BOB.public.id[:8].hex(), "keys": [["metro", "key-1", 32]], "chained": True, "made": 5.0}


def note(data: bytes) -> None:
    """What a former daemon left in the engine of an epoch, or nothing."""
    found = epoch_of(5, document(data, NOTE).decode("latin-1"), settings("b", BOB.public))
    if found is not None:
        assert all(isinstance(key, KeyRef) for key in found.keys)


SET_UP = {
    "name": "qt0", "addresses": ["10.77.0.1/24", "fd77::1/64"], "mtu": 1420, "allowed_ips": ["10.0.0.0/8"],
    "routes": True,
    "txqueuelen": 500, "mark": 7, "guard_metric": 9,
}  # fmt: skip


def steward(data: bytes) -> None:
    """A message to the steward, and an interface's set-up in it."""
    plain = decode(document(data, SET_UP))
    found = config_from_plain(plain)
    assert config_from_plain(config_to_plain(found)) == found


TARGETS = {
    "public": Target(
        public, (IdentityFileError,), 400, (b"wireguard: ", b"x25519: ", b"ml-kem-768: ", b"# fingerprint ")
    ),
    "secret": Target(secret, (), 300, (b"kem: ", b"qtunnel-identity-v1\n")),
    "state": Target(state, (), 500, tuple(f'"{name}":'.encode() for name in (*ENTRY[ALICE.public.id.hex()], *HEADER))),
    "store": Target(store, (), 400),
    "pad": Target(pad, (PadError,), 300),
    "ledger": Target(ledger, (), 400, tuple(f'"{name}":'.encode() for name in FIELDS)),
    "indexes": Target(indexes, (IndexesError,), 200),
    "note": Target(note, (), 300),
    "steward": Target(steward, (EngineError,), 300),
}
