"""A second reading of docs/protocol.md, against a capture of real gateways, the vectors, and what engines send."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from qtunnel.handshake.fragments import Message, MessageType, cut, mac1_key
from qtunnel.wireguard.record_cut import RecordCutter
from tests.decoder.agreement import compare
from tests.decoder.handshake import Handshakes
from tests.decoder.live import KEPT, session
from tests.decoder.pcap import CaptureError, Datagram, read_capture
from tests.decoder.primitives import Disclosed, Identity
from tests.decoder.records import PARITY, Fragment, Packet, Record, Records
from tests.decoder.session import HANDSHAKE_PORT, decode, decode_datagrams, read_disclosed

CAPTURE, TOLD = KEPT / "two-epochs.pcap", KEPT / "two-epochs.json"
DISCLOSED = read_disclosed(TOLD)
OURS = ("pcap", "primitives", "contents", "handshake", "wireguard", "records", "session")
"""The decoder: the other modules here make captures, and compare."""


def test_it_is_a_reading_of_its_own() -> None:
    for name in OURS:
        tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text())
        modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        modules += [one.name for node in ast.walk(tree) if isinstance(node, ast.Import) for one in node.names]
        ours = {module for module in modules if module.startswith(("qtunnel", "tests"))}
        assert ours <= {f"tests.decoder.{other}" for other in OURS}, name


def test_the_kept_capture_is_what_the_daemons_said() -> None:
    compare(decode(CAPTURE, DISCLOSED), json.loads(TOLD.read_text()))


@pytest.mark.root
@pytest.mark.parametrize("suite", [{"kem": "ml-kem-768", "cipher": "aes-256-gcm"}])
def test_a_session_of_now_is_what_the_daemons_say(tmp_path: Path, suite: dict[str, str]) -> None:
    capture, told = session(tmp_path, pairing=True, **suite)
    compare(decode(capture, read_disclosed(told)), json.loads(told.read_text()))


def datagrams() -> list[Datagram]:
    return read_capture(CAPTURE)


def test_a_changed_byte_in_any_datagram_is_seen() -> None:
    """Of the handshake and of WireGuard: at the beginning, in the middle and at the end of each of the first 30."""
    made, good = datagrams(), decode(CAPTURE, DISCLOSED)
    assert len({one.payload[0] for one in made[:30] if HANDSHAKE_PORT in (one.source[1], one.target[1])}) == 4
    for number in range(30):
        size = len(made[number].payload)
        for at in (0, 6, size // 2, size - 1):
            payload = bytearray(made[number].payload)
            payload[at] ^= 0x04
            changed = [*made[:number], replace(made[number], payload=bytes(payload)), *made[number + 1 :]]
            found = decode_datagrams(changed, DISCLOSED)
            assert found.problems or (found.unopened, found.incomplete) != (good.unopened, 0), (number, at)


def test_datagrams_that_are_repeated_or_come_late_change_nothing() -> None:
    made = datagrams()
    handshake = [one for one in made if HANDSHAKE_PORT in (one.source[1], one.target[1])]
    found = decode_datagrams([*handshake, *handshake], DISCLOSED)
    assert found.problems == []
    assert [one.psk for one in found.exchanges] == [one.psk for one in decode(CAPTURE, DISCLOSED).exchanges]
    first, second = handshake[0], handshake[1]
    assert decode_datagrams([second, first, *handshake[2:]], DISCLOSED).problems == []


@pytest.mark.parametrize(
    ("without", "words"),
    [
        ({"qkd_keys": {}}, "vendor"),
        ({"drawn": []}, "ephemeral keys were not disclosed"),
        ({"identities": DISCLOSED.identities[:1]}, "nobody known"),
        ({"pairing": bytes(32)}, "does not open"),
    ],
)
def test_each_secret_is_needed(without: dict[str, Any], words: str) -> None:
    found = decode(CAPTURE, replace(DISCLOSED, **without))
    assert any(words in problem for problem in found.problems)
    assert not any(one.psk for one in found.exchanges)


def test_another_qkd_key_opens_no_proof() -> None:
    keys = {name: bytes(32) for name in DISCLOSED.qkd_keys}
    found = decode(CAPTURE, replace(DISCLOSED, qkd_keys=keys))
    assert [one.answer is not None for one in found.exchanges][:1] == [True]
    assert not any(one.psk for one in found.exchanges)


def vectors() -> Iterator[Any]:
    path = Path(__file__).parents[1] / "vectors/handshake/handshake.json"
    for vector in json.loads(path.read_text())["vectors"]:
        if vector["suite"] <= 4:
            yield pytest.param(vector, id=vector["name"])


@pytest.mark.parametrize("vector", list(vectors()))
def test_the_vectors(vector: dict[str, Any]) -> None:
    def raw(name: str) -> bytes:
        return bytes.fromhex(vector[name] or "")

    alice, bob = (Identity(name, raw(f"{name}_seed")) for name in ("initiator", "responder"))
    chain = vector["chain"] or {"id": "", "secret": ""}
    disclosed = Disclosed(
        [alice, bob], [raw("initiator_ephemeral"), raw("initiator_ephemeral_kem_seed")],
        {(one["source"], one["key_id"]): bytes.fromhex(one["key"]) for one in vector["qkd_keys"]},
        raw("pairing_secret") or None, {bytes.fromhex(chain["id"]): bytes.fromhex(chain["secret"])},
    )  # fmt: skip
    there = [bytes.fromhex(one) for one in vector["init_datagrams"]]
    with_cookie = [bytes.fromhex(one) for one in vector["init_datagrams_with_cookie"]]
    commit = [bytes.fromhex(one) for one in vector["commit_datagrams"]]

    def back(kind: MessageType, body: bytes) -> list[bytes]:
        return cut(Message(kind, vector["suite"], raw("exchange_id"), body), mac1_key(alice.id))

    ours, theirs = ("10.0.0.1", HANDSHAKE_PORT), ("10.0.0.2", HANDSHAKE_PORT)
    handshakes = Handshakes(disclosed)
    for payload in there:
        handshakes.feed(Datagram(0.0, ours, theirs, payload))
    handshakes.feed(Datagram(0.0, theirs, ours, raw("cookie_reply")))
    for payload in with_cookie:
        handshakes.feed(Datagram(0.0, ours, theirs, payload))
    for payload in back(MessageType.RESPONSE, raw("response")):
        handshakes.feed(Datagram(0.0, theirs, ours, payload))
    for payload in commit:
        handshakes.feed(Datagram(0.0, ours, theirs, payload))
    for payload in back(MessageType.COMMITTED, raw("committed")):
        handshakes.feed(Datagram(0.0, theirs, ours, payload))
    (exchange,) = handshakes.exchanges
    assert (handshakes.cookies, exchange.offer.epoch, exchange.confirmed) == (1, vector["epoch"], [3, 4])
    assert exchange.psk.hex() == vector["psk"]
    assert exchange.answer is not None
    assert exchange.answer.detail == "fine"
    assert [key[:2] for key in exchange.keys] == [(one["source"], one["key_id"]) for one in vector["qkd_keys"]]


def packet(size: int) -> bytes:
    """A packet item: a vnet header without anything, and an IPv4 packet of that many bytes."""
    return bytes(10) + b"\x45\x00" + size.to_bytes(2, "big") + bytes([size % 251]) * (size - 4)


sizes = st.lists(st.integers(20, 9000), min_size=1, max_size=6)


@settings(max_examples=60)
@given(sizes, st.booleans(), st.integers(0, 63), st.integers(0, (1 << 48) - 1), st.sampled_from([1040, 1440, 4096]))
def test_records_as_an_engine_cuts_them(packets: list[int], parity: bool, lost: int, counter: int, size: int) -> None:
    """With parity also where one datagram of the record is lost."""
    plain = b"".join(map(packet, packets))
    for aead, cipher in (("aes-256-gcm", AESGCM), ("chacha20-poly1305", ChaCha20Poly1305)):
        key = cipher(bytes(range(32)))
        burst = bytes(RecordCutter(size).cut(key.encrypt_into, memoryview(plain), 0xDEADBEEF, counter, parity=parity))
        count = burst[2]
        step = size if count > 1 else len(burst) // (1 + parity)
        made = [Fragment.read(burst[at : at + step]) for at in range(0, len(burst), step)]
        assert len(made) == count + parity
        assert {(one.receiver, one.counter) for one in made} == {(0xDEADBEEF, counter)}
        if parity:
            assert made[-1].number == PARITY
            missing = lost % len(made)
            arrived = made[:missing] + made[missing + 1 :]
        else:
            missing, arrived = -1, made
        found = opened(arrived, {aead: key})
        assert (found.aead, found.fragments, found.healed) == (aead, count, parity and missing < count)
        assert [item.content for item in found.items if isinstance(item, Packet)] == [
            packet(one)[10:] for one in packets
        ]
        if parity:
            assert opened(made, {aead: key}).parity


def opened(fragments: list[Fragment], ciphers: dict[str, Any]) -> Record:
    records = Records()
    found = [records.feed("peer", one, ciphers) for one in fragments]
    (record,) = [one for one in found if one is not None]
    return record


def test_what_is_no_capture_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.pcap"
    for content, words in (
        (b"", "no pcap file"),
        (b"\x0a\x0d\x0d\x0a" + bytes(40), "no pcap file"),
        (CAPTURE.read_bytes()[:20] + b"\x71\x00\x00\x00", "link type 113"),
    ):
        file.write_bytes(content)
        with pytest.raises(CaptureError, match=words):
            read_capture(file)
