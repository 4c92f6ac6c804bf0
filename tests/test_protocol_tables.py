"""Layouts, tables and numbers in docs/protocol.md are those of the code."""

from __future__ import annotations

import itertools
import sys
import unicodedata
from enum import Enum
from pathlib import Path
from types import ModuleType

import pytest

import qtunnel.constants
import qtunnel.crypto.cookie
import qtunnel.handshake.fragments
import qtunnel.handshake.messages
import qtunnel.keys.chain
import qtunnel.keys.reservoir
import qtunnel.keys.schedule
import qtunnel.keys.used
import qtunnel.rekey.limits
import qtunnel.rekey.node
import qtunnel.rekey.timing
from qtunnel.crypto.kdf import Label
from qtunnel.crypto.kem import KEMS
from qtunnel.errors import HandshakeError
from qtunnel.handshake import fragments, messages
from qtunnel.handshake.fragments import MessageType
from qtunnel.handshake.messages import Answer, ChainRef, Offer, Verdict
from qtunnel.handshake.suites import SUITES
from qtunnel.identity import IDENTITY_SEED_SIZE, MAX_PUBLIC_FILE, Identity, PublicIdentity
from qtunnel.keys.chain import EpochChain
from qtunnel.keys.reservoir import mark_of
from qtunnel.rekey.outbound import KEYS_KEPT_ON
from qtunnel.rekey.states import IN_TABLE, OUT_TABLE, InState, OutState
from qtunnel.secret import Secret
from qtunnel.terms import ChainPolicy, Inventory, KeyRef, Policy, QkdPolicy
from qtunnel.wireguard import limits, record_join, record_link, record_size
from tests import docs_handshake, docs_identity, docs_layouts, docs_notation
from tests.docs_notation import DOCUMENT
from tests.docs_tables import number


def test_suites() -> None:
    documented = docs_notation.SUITES.values()
    assert {
        suite.id: (
            suite.kem.name, suite.aead.name, suite.protocol_name, suite.kem.public_key_size, suite.kem.ciphertext_size
        )
        for suite in SUITES.values()
    } == {its.id: (its.kem, its.aead, its.protocol_name, its.pk, its.ct) for its in documented}  # fmt: skip


def test_labels() -> None:
    paths = DOCUMENT.table("1.4", "path").column("path")
    assert {docs_notation.label(path) for path in paths} == {one.value for one in Label}


def test_printable_text() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        assert character.isprintable() == (character == " " or unicodedata.category(character)[0] not in "CZ")


def test_identity_files(tmp_path: Path) -> None:
    seed = bytes(range(IDENTITY_SEED_SIZE))
    ours, its = Identity(Secret(seed)), docs_identity.Identity(seed)
    assert ours.public.to_text() == its.public_file
    assert ours.public.fingerprint == its.fingerprint
    assert bytes(ours.wireguard.reveal()) == its.wireguard.private
    secret_file = tmp_path / "secret"
    secret_file.touch(0o600)
    secret_file.write_text(its.secret_file)
    assert Identity.load(secret_file).public == ours.public
    assert f"at most {MAX_PUBLIC_FILE:,} bytes" in DOCUMENT.prose
    first, _, *lines = its.public_file.splitlines()
    for order in itertools.permutations(lines):
        assert PublicIdentity.parse("\n".join([first, "", *order])) == ours.public


def test_header_and_receiving() -> None:
    suite, exchange, identity = docs_notation.SUITES[3], bytes(range(16)), bytes(range(64))
    key = fragments.mac1_key(identity)
    for kind in MessageType:
        for length in (1, 1176, 1177, 9408, 9409, 65535):
            body = bytes(index % 251 for index in range(length))
            made = docs_layouts.datagrams(kind, suite, exchange, body, identity)
            assert made == fragments.cut(fragments.Message(kind, suite.id, exchange, body), key)
            for datagram in made:
                fragments.parse(datagram[:-16] + bytes(range(16)), key)  # mac2 is ignored
    values = DOCUMENT.table("3.1", "offset").mapping("field", "value")
    assert values["type"] == ", ".join(f"{kind.value} {kind.name.lower()}" for kind in MessageType)
    assert values["version"] == str(fragments.VERSION)
    with pytest.raises(HandshakeError, match="size"):
        fragments.parse(bytes(56), key)
    with pytest.raises(HandshakeError, match="size"):
        fragments.parse(bytes(1233), key)
    with pytest.raises(HandshakeError, match="identity"):
        fragments.parse(made[0][:-32] + bytes(32), key)
    with pytest.raises(HandshakeError, match="numbers"):
        fragments.parse(bytes(57), key)


MOST = Inventory(
    b"\xff" * 8,
    tuple(KeyRef("s" * 10, f"{index:02}" * 30 + "x", 32) for index in range(16)),
    tuple(bytes([index]) * 8 for index in range(30)),
    tuple(bytes([index]) * 8 for index in range(29, 31)),
)
"""1,200 bytes of announced keys."""

OFFERS = [
    Offer(bytes(range(12)), 1, Policy(QkdPolicy.OFF), 0, (), ()),
    Offer(bytes(12), 2**63 - 1, Policy(QkdPolicy.REQUIRED, 2, ChainPolicy.REQUIRED), 5,
          (ChainRef(9, bytes(range(16))), ChainRef(8, bytes(16)), ChainRef(7, b"\xff" * 16)),
          tuple(KeyRef("s" * 255, f"{index}" * 255, 32 + index) for index in range(8)), MOST),
    Offer(b"\xff" * 12, 77, Policy(QkdPolicy.PREFERRED, 255), 2**32 - 1, (), (KeyRef("Nürnberg", "ключ 1", 65535),)),
]  # fmt: skip
ANSWERS = [
    Answer(Verdict.ACCEPTED, 1, Policy(QkdPolicy.OFF), 0),
    Answer(Verdict.ACCEPTED, 2**63 - 1, Policy(QkdPolicy.REQUIRED, 2, ChainPolicy.REQUIRED), 2**32 - 1,
           bytes(range(16)), tuple(range(8)), "ü" * 100, MOST),
    Answer(Verdict.BUSY, 0, Policy(QkdPolicy.PREFERRED), 0, None, (), "later"),
]  # fmt: skip


def _inventory(its: Inventory) -> docs_layouts.Inventory:
    return its.store, [(ref.source, ref.key_id, ref.size) for ref in its.announced], its.held, its.withdrawn


def test_marks() -> None:
    for ref in (KeyRef("metro", "key-held", 32), KeyRef("Nürnberg", "ключ 1", 65535)):
        assert mark_of(ref) == docs_layouts.mark((ref.source, ref.key_id, ref.size))


def _policy(policy: Policy) -> dict[str, int | bytes]:
    return {"qkd": policy.qkd, "min_sources": policy.min_sources, "chain policy": policy.chain}


@pytest.mark.parametrize("offer", OFFERS, ids=lambda offer: f"epoch {offer.epoch}")
def test_offer(offer: Offer) -> None:
    values = {
        **_policy(offer.policy), "timestamp": offer.timestamp, "epoch": offer.epoch, "capabilities": offer.capabilities
    }  # fmt: skip
    chains = [(chain.epoch, chain.id) for chain in offer.chains]
    keys = [(key.source, key.key_id, key.size) for key in offer.keys]
    data = docs_layouts.encode_offer(values, chains, keys, _inventory(offer.inventory))
    assert messages.encode_offer(offer) == data
    assert messages.decode_offer(data) == offer


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: f"epoch {answer.epoch}")
def test_answer(answer: Answer) -> None:
    values = {
        **_policy(answer.policy), "verdict": answer.verdict, "epoch": answer.epoch,
        "capabilities": answer.capabilities, "has chain": int(answer.chain is not None),
        "chain": answer.chain or bytes(16),
    }  # fmt: skip
    data = docs_layouts.encode_answer(values, answer.keys, answer.detail, _inventory(answer.inventory))
    assert messages.encode_answer(answer) == data
    assert messages.decode_answer(data, 8) == answer


def test_policy_codes() -> None:
    qkd = ", ".join(f"{one.value} {one.name.lower()}" for one in QkdPolicy)
    chain = ", ".join(f"{one.value} {one.name.lower().replace('_', ' ')}" for one in ChainPolicy)
    assert f"qkd is {qkd}. min_sources counts QKD sources, 0 as 1. chain policy is {chain}." in DOCUMENT.prose


def test_body_sizes() -> None:
    least, most = min(OFFERS, key=lambda one: len(one.keys)), max(OFFERS, key=lambda one: len(one.keys))
    offers = [len(messages.encode_offer(one)) for one in (least, most)]
    answers = [len(messages.encode_answer(one)) for one in (ANSWERS[0], ANSWERS[1])]
    assert (offers[0] + 16, answers[0] + 16) == (messages.MIN_OFFER, messages.MIN_ANSWER)
    confirmations = [
        (row["message"], row["field"], int(row["bytes"])) for row in docs_handshake.BODIES if row["message"] in "34"
    ]
    assert confirmations == [("3", "commit", messages.COMMIT_SIZE), ("4", "committed", messages.COMMIT_SIZE)]
    for suite in SUITES.values():
        sizes = [
            [sum(messages.init_sizes(suite)) + offer + 16 for offer in offers],
            [sum(messages.response_sizes(suite)) + answer + 32 for answer in answers],
        ]
        counts = [[-(-size // fragments.MAX_PAYLOAD) for size in its] for its in sizes]
        longest = [messages.largest(suite, kind) for kind in (MessageType.INIT, MessageType.RESPONSE)]
        assert longest == [its[1] for its in sizes]
        (row,) = [row for row in DOCUMENT.table("4.3", "KEM").rows if row["KEM"] == suite.kem.name]
        assert list(row.values())[1:] == [f"{low} to {high}" for low, high in sizes + counts]
        assert sizes[0][1] <= fragments.FEW_FRAGMENTS * fragments.MAX_PAYLOAD
    assert set(DOCUMENT.table("4.3", "KEM").column("KEM")) == set(KEMS)


def test_verdicts() -> None:
    rows = DOCUMENT.table("5.5", "code").rows
    assert [(int(row["code"]), row["verdict"]) for row in rows] == [(one.value, one.name) for one in Verdict]
    assert {row["keys offered"] for row in rows} == {"kept", "spent"}
    assert {Verdict[row["verdict"]] for row in rows if row["keys offered"] == "kept"} == KEYS_KEPT_ON


def _transitions(header: str, section: str, states: type[Enum]) -> set[tuple[Enum, Enum]]:
    return {
        (states(state.strip()), states(row["next"]))
        for row in DOCUMENT.table(section, header).rows
        for state in row["state"].split(",")
    }


def test_states() -> None:
    assert _transitions("state", "5.2", OutState) == {(state, to) for (state, _), to in OUT_TABLE.items()}
    assert _transitions("state", "5.3", InState) == {(state, to) for (state, _), to in IN_TABLE.items()}


NOT_OF_THE_PROTOCOL = {"TELL_BURST", "TELL_RATE", "UNANSWERED_AFTER", "REPLACED_KEPT", "RESTART_AFTER_DEFECT"}
"""What an end keeps for its status, and how it heals from its own defects."""
NUMBERS: list[tuple[str, tuple[ModuleType, ...]]] = [
    ("3.3", (qtunnel.handshake.fragments,)),
    ("3.4", (qtunnel.crypto.cookie, qtunnel.rekey.limits)),
    ("5.8", (
        qtunnel.rekey.timing, qtunnel.rekey.limits, qtunnel.rekey.node, qtunnel.keys.schedule, qtunnel.keys.chain,
        qtunnel.handshake.messages, qtunnel.keys.reservoir, qtunnel.constants,
    )),
    ("7", (limits,)),
]  # fmt: skip


@pytest.mark.parametrize("section,modules", NUMBERS, ids=[section for section, _ in NUMBERS])
def test_numbers(section: str, modules: tuple[ModuleType, ...]) -> None:
    for name, value in DOCUMENT.table(section, "name", "value").mapping("name", "value").items():
        found = {float(getattr(module, name)) for module in modules if hasattr(module, name)}
        assert found == {number(value)}, name


def test_numbers_of_records_and_loss() -> None:
    """Section 10.4 has no table; its sentences hold these."""
    prose = " ".join(DOCUMENT.prose.split())
    for sentence in (
        f"reports every {record_link.REPORT_INTERVAL:g} s",
        f"at least {record_size.MIN_SAMPLE:,} fragments, or {record_size.MIN_LOST} lost ones",
        f"{record_size.CHANCE:g} standard deviations and {record_size.CHANCE:g} fragments",
        f"from {record_size.PARITY_LOSS * 100:g} % on, records have parity",
        f"s is 1/{1 / record_size.BUSY_LOSS:g} for busy traffic, 1/{1 / record_size.THIN_LOSS:g} for thin",
        f"busy above {record_size.BUSY:,} fragments a second between two reports, thin below {record_size.THIN:,}",
        f"From {record_size.DOUBLING_LOSS * 100:g} % on records of one fragment have parity, too, up to "
        f"{record_size.DOUBLED:,} of them a second and {record_size.DOUBLED_AT_ONCE} at once",
        f"From {record_link.TOO_LOSSY * 100:g} % on, where {record_link.LASTING} measurements one after the other show",
        f"again after {record_link.REST:g} s, doubled up to {record_link.LAST_REST:g} s where it is so again within "
        f"{record_link.SOON:g} s, with {record_link.TOO_LOSSY / 2 * 100:g} % believed",
        f"up to {record_size.SMALL} bytes counts as {record_size.SMALL_COUNTS}",
        f"such rest for {record_link.REST:g} s",
        f"at most {record_link.WHOLE_PER_HEALED} such records count for each that was healed",
        f"no more than {record_link.RISING:g} times as fast as the second before them",
        f"not above {record_size.FIRST_GUESS * 100:g} % as long as records have no parity",
        f"keep {record_join.MAX_PARTIAL} records",
        f"after {record_link.ASK:g} s, a question is sent, and again every {record_link.ASK_AGAIN:g} s",
        f"went out for {record_link.SILENCE:g} s",
        f"gives way if {record_join.MAX_NEWER} began to wait after it",
    ):
        assert sentence in prose, sentence
    assert (record_size.ALARM, record_size.CALM) == (1 / 2, 1 / 16)
    assert (record_link.LOOK, record_link.WORSE, record_link.WORSE_LOOKS) == (1, 1 / 2, 2)


def test_every_number_of_the_rekeying_core_is_there() -> None:
    described = {name for section in ("3.4", "5.8") for name in DOCUMENT.table(section, "name").column("name")}
    for module in (qtunnel.rekey.timing, qtunnel.rekey.limits, qtunnel.keys.schedule):
        defined = {name for name in vars(module) if name.isupper() and not name.startswith("_")}
        assert defined - NOT_OF_THE_PROTOCOL <= described
    assert f"of the last {qtunnel.keys.used.REMEMBERED:,} keys" in DOCUMENT.prose
    assert f"the last {qtunnel.keys.used.OF_EACH_PEER} of each peer" in DOCUMENT.prose
    assert f"to port {qtunnel.constants.DEFAULT_HANDSHAKE_PORT}" in DOCUMENT.prose


def test_an_offer_has_room_for_the_chain() -> None:
    chain = EpochChain()
    for epoch in range(1, 6):
        chain.commit(qtunnel.keys.chain.link(epoch, Secret(bytes([epoch]) * 64), qkd=True))
    chain.doubt(qtunnel.keys.chain.link(6, Secret(bytes(64)), qkd=True))
    assert [link.epoch for link in chain.links] == [6, 5, 4]
    assert len(chain.links) == messages.MAX_CHAINS
