"""docs/protocol.md is enough to implement the handshake, and says what the code does."""

from __future__ import annotations

import ast
import itertools
import json
import re
import sys
import unicodedata
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

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
from qtunnel.handshake import cookies, fragments, messages
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
from qtunnel.wireguard import limits, record_join, record_link, record_size, uapi
from tests import docs_handshake, docs_identity, docs_layouts, docs_notation
from tests.docs_handshake import End, Epoch
from tests.docs_notation import DOCUMENT
from tests.docs_tables import number
from tests.wireguard.test_psk import install, psk, start
from tests.wireguard.world import pair

VECTOR_FILE = Path(__file__).parent / "vectors" / "handshake" / "handshake.json"
VECTORS: list[dict[str, Any]] = json.loads(VECTOR_FILE.read_text("utf-8"))["vectors"]
each_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])


# -- the vectors, by the document alone


class Reading:
    """One vector, and both ends of its exchange as the document has them."""

    def __init__(self, vector: dict[str, Any], steps: list[dict[str, str]] | None = None) -> None:
        def raw(name: str) -> bytes:
            return bytes.fromhex(vector[name])

        self.vector, self.raw = vector, raw
        self.suite = docs_notation.suite_of(vector["kem"], vector["cipher"], vector["combiner"])
        assert self.suite.id == vector["suite"]
        self.exchange = raw("exchange_id")
        self.alice = docs_identity.Identity(raw("initiator_seed"))
        self.bob = docs_identity.Identity(raw("responder_seed"))
        self._steps = docs_handshake.STEPS if steps is None else steps
        self.keys = [(key["source"], key["key_id"], bytes.fromhex(key["key"])) for key in vector["qkd_keys"]]
        self.chain = vector["chain"]
        self.chain_secret = b"" if self.chain is None else bytes.fromhex(self.chain["secret"])

    def end(self, role: str) -> End:
        kems, raw, own = self.suite.kems, self.raw, role == "initiator"

        def mine(pair: docs_identity.Pair, whose: bool) -> docs_identity.Pair:
            return pair if whose == own else docs_identity.Pair(pair.public)

        pairs = {
            "x_i": mine(self.alice.x25519, True),
            "k_i": mine(docs_identity.joined([self.alice.kem[kem] for kem in kems]), True),
            "x_r": mine(self.bob.x25519, False),
            "k_r": mine(docs_identity.joined([self.bob.kem[kem] for kem in kems]), False),
        }
        if own:
            seeds = docs_identity.pieces(raw("initiator_ephemeral_kem_seed"), [64] * len(kems))
            pairs |= {
                "e_i": docs_identity.x25519(raw("initiator_ephemeral")),
                "ekem": docs_identity.joined([docs_identity.kem_pair(*pair) for pair in zip(kems, seeds, strict=True)]),
            }
        else:
            pairs["e_r"] = docs_identity.x25519(raw("responder_ephemeral"))
        values = {
            "prologue": docs_handshake.prologue(self.suite, self.exchange),
            "psk": docs_handshake.psk_token(self.chain_secret, self.keys),
        }
        values |= {"id_i": self.alice.id, "offer": self.offer} if own else {"answer": self.answer}
        if self.vector["pairing_secret"] is not None:
            values["pairing"] = raw("pairing_secret")
        all_m = [bytes.fromhex(one) for one in self.vector["encapsulation_m"]]
        m = {f"ct{at + 1}": all_m[at * len(kems) : (at + 1) * len(kems)] for at in range(3)}
        return End(role, self.suite, pairs, values, m, self._steps)

    @property
    def _policy(self) -> dict[str, int | bytes]:
        return {"qkd": 2 if self.keys else 0, "min_sources": 1, "chain policy": 0, "capabilities": 0}

    @property
    def offer(self) -> bytes:
        chains = [] if self.chain is None else [(self.chain["epoch"], bytes.fromhex(self.chain["id"]))]
        keys = [(source, key_id, len(key)) for source, key_id, key in self.keys]
        values = {**self._policy, "timestamp": self.raw("timestamp"), "epoch": self.vector["epoch"]}
        return docs_layouts.encode_offer(values, chains, keys, self._inventory("offer_inventory"))

    def _inventory(self, name: str) -> docs_layouts.Inventory:
        its = self.vector[name]
        announced = [(ref["source"], ref["key_id"], ref["size"]) for ref in its["announced"]]
        return bytes.fromhex(its["store"]), announced, [bytes.fromhex(mark) for mark in its["held"]], []

    @property
    def answer(self) -> bytes:
        chosen = bytes(16) if self.chain is None else bytes.fromhex(self.chain["id"])
        values = {
            **self._policy, "verdict": 0, "epoch": self.vector["epoch"], "has chain": int(self.chain is not None),
            "chain": chosen,
        }  # fmt: skip
        return docs_layouts.encode_answer(values, range(len(self.keys)), "fine", self._inventory("answer_inventory"))

    def finish(self, end: End) -> Epoch:
        return docs_handshake.finish(end, self.alice.id, self.bob.id, self.vector["epoch"], self.keys)

    @property
    def result(self) -> Epoch:
        return Epoch(self.raw("psk"), self.raw("chain_out"), self.raw("commit"), self.raw("committed"))


def test_the_second_implementation_has_nothing_of_the_first() -> None:
    helpers = sorted(Path(__file__).parent.glob("docs_*.py"))
    assert [one.stem.removeprefix("docs_") for one in helpers] == [
        "handshake", "identity", "layouts", "notation", "tables"
    ]  # fmt: skip
    for helper in helpers:
        tree = ast.parse(helper.read_text("utf-8"))
        names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        assert not [name for name in names if name.split(".")[0] == "qtunnel"]


@each_vector
def test_identities(vector: dict[str, Any]) -> None:
    reading = Reading(vector)
    for role, identity in (("initiator", reading.alice), ("responder", reading.bob)):
        assert identity.id.hex() == vector[f"{role}_id"]
        assert identity.x25519.public.hex() == vector[f"{role}_x25519"]


@each_vector
def test_initiator(vector: dict[str, Any]) -> None:
    reading = Reading(vector)
    end = reading.end("initiator")
    end.run("")
    assert end.run("1").hex() == vector["init"]
    end.run("2", reading.raw("response"))
    assert end.values["answer"] == reading.answer
    assert reading.finish(end) == reading.result


@each_vector
def test_responder(vector: dict[str, Any]) -> None:
    reading = Reading(vector)
    end = reading.end("responder")
    end.run("")
    end.run("1", reading.raw("init"))
    assert (end.values["id_i"], end.values["offer"]) == (reading.alice.id, reading.offer)
    assert end.run("2").hex() == vector["response"]
    assert reading.finish(end) == reading.result


@each_vector
def test_datagrams_and_chain_ids(vector: dict[str, Any]) -> None:
    reading = Reading(vector)
    for kind, name in ((1, "init"), (3, "commit")):
        made = docs_layouts.datagrams(kind, reading.suite, reading.exchange, reading.raw(name), reading.bob.id)
        assert [one.hex() for one in made] == vector[f"{name}_datagrams"]
    if reading.chain is not None:
        assert docs_handshake.chain_id(reading.chain_secret, reading.chain["epoch"]).hex() == reading.chain["id"]


@each_vector
def test_cookies(vector: dict[str, Any]) -> None:
    reading = Reading(vector)
    raw, bob = reading.raw, reading.bob.id
    cookie = docs_layouts.cookie_of(raw("cookie_secret"), raw("cookie_source"))
    plain = docs_layouts.datagrams(1, reading.suite, reading.exchange, raw("init"), bob)
    assert docs_layouts.cookie_reply(plain[0], cookie, raw("cookie_nonce"), bob).hex() == vector["cookie_reply"]
    made = docs_layouts.datagrams(1, reading.suite, reading.exchange, raw("init"), bob, cookie)
    assert [one.hex() for one in made] == vector["init_datagrams_with_cookie"]
    assert {len(one) for one in plain[:-1]} == {1232}
    values = docs_layouts.COOKIE_REPLY.mapping("field", "value")
    assert (values["type"], values["version"]) == (str(cookies.COOKIE_TYPE), str(fragments.VERSION))
    assert f"all of its {cookies.REPLY_SIZE} bytes" in DOCUMENT.prose


@pytest.mark.parametrize("message,of_the_code", [("1", messages.Init), ("2", messages.Response)])
def test_tokens(message: str, of_the_code: type) -> None:
    """The overview, the steps and the code's own words name the same tokens in the same order."""
    tokens = list(dict.fromkeys(step["token"] for step in docs_handshake.STEPS if step["message"] == message))
    arrow = "->" if message == "1" else "<-"
    assert f" {message} {arrow} {', '.join(tokens)} " in DOCUMENT.prose
    shown = [token for token in tokens if token not in ("s_i", "pairing")]
    assert f"``{arrow} {', '.join(shown)}``" in (of_the_code.__doc__ or "")


@pytest.mark.parametrize("combiner", ["hkdf", "catkdf"])
def test_every_step_counts(combiner: str) -> None:
    """The vectors need each row of the table: none of them stands there in vain."""
    full = [vector for vector in VECTORS if vector["chain"] and vector["pairing_secret"]]
    (vector,) = [vector for vector in full if vector["combiner"] == combiner]
    for gone in docs_handshake.STEPS:
        reading = Reading(vector, [step for step in docs_handshake.STEPS if step is not gone])
        end = reading.end("initiator")
        try:
            end.run("")
            init = end.run("1")
            end.run("2", reading.raw("response"))
            same = init == reading.raw("init") and reading.finish(end) == reading.result
        except (InvalidTag, KeyError, ValueError):  # ValueError: sealing before there is a key
            same = False
        assert not same, f"step {gone['step']}"


def test_vector_fields() -> None:
    described = [name.strip() for row in DOCUMENT.table("8", "field").rows for name in row["field"].split(",")]
    assert len(set(described)) == len(described)
    for vector in VECTORS:
        assert set(vector) == set(described)


# -- the tables, against the code


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


def test_replay_time() -> None:
    timestamp = qtunnel.rekey.timing.tai64n(1_767_225_600_000_000_007)
    assert timestamp == (2**62 + 10 + 1_767_225_600).to_bytes(8, "big") + (7).to_bytes(4, "big")
    assert {vector["timestamp"] for vector in VECTORS} == {(timestamp[:8] + bytes(4)).hex()}


# -- section 7


def test_uapi_keys() -> None:
    standard = {
        "private_key", "listen_port", "fwmark", "replace_peers", "public_key", "update_only", "remove",
        "preshared_key", "endpoint", "persistent_keepalive_interval", "replace_allowed_ips", "allowed_ip",
        "protocol_version",
    }  # fmt: skip
    rows = DOCUMENT.table("7", "operation").rows
    assert {row["key"] for row in rows if row["operation"] == "set"} == set(uapi.KEYS) - standard
    world, alice, bob = start()
    install(bob, alice, 2)
    ends = f"expires_boottime_msec={round(world.now * 1000) + 1000}"
    install(alice, bob, 2, "record_mode=aes-256-gcm", "epoch_note=second", ends, "handshake=now")
    world.settle()
    shown = alice.get().splitlines()
    world.advance(1)
    shown += alice.get().splitlines()
    ours = {
        name for line in shown if re.search("epoch|record|installed|expires|^packets$", name := line.partition("=")[0])
    }
    assert {row["key"] for row in rows if row["operation"] == "get"} == ours


def _values(words: str) -> tuple[list[str], list[str]]:
    """Values that the words of section 7 allow, and some that they do not."""
    decimal, digits = re.match(r"decimal u(\d+):", words), re.fullmatch(r"(\d+) hexadecimal digits", words)
    if words.startswith("printable ASCII, at most 900 bytes"):
        return ["", "~" * 900], ["~" * 901, "\t", "ä"]
    if decimal:
        return ["0", str(2 ** int(decimal[1]) - 1)], [str(2 ** int(decimal[1])), "-1", "0x1", ""]
    if digits:
        return ["aF" * (int(digits[1]) // 2)], ["0" * (int(digits[1]) - 2), "0" * (int(digits[1]) + 2)]
    if " or " in words:
        allowed = re.findall(r"[\w-]+", words.partition("(")[0].replace(" or ", ", "))
        return allowed, [words, allowed[0].upper(), "true", ""]
    return [words], [f"{words} ", words.upper(), "false", ""]


def test_uapi_values() -> None:
    rows = DOCUMENT.table("7", "operation").rows
    for row in rows:
        if row["operation"] == "set":
            good, bad = _values(row["value"])
            for value in good:
                uapi.parse_assignment(f"{row['key']}={value}".encode(), lambda _: 0)
            for value in bad:
                with pytest.raises(uapi.UapiError):
                    uapi.parse_assignment(f"{row['key']}={value}".encode(), lambda _: 0)
    (form,) = [row["value"].partition(":")[0] for row in rows if row["key"] == "epoch_time_sec"]
    _, alice, _ = start()
    pattern = form.replace(".", r"\.").replace("S", r"\d+").replace("N", r"\d")
    assert re.search(rf"^epoch_time_sec={pattern}$", alice.get(), re.MULTILINE)


def test_uapi_shows_a_session_as_long_as_it_sends() -> None:
    world, alice, _ = start()
    world.lose = lambda source, destination, data: True
    world.advance(limits.REJECT_AFTER_TIME - 3)  # a second has passed since the start
    assert "epoch=1\n" in alice.get()
    world.advance(3)
    assert "\nepoch" not in alice.get()


def test_uapi_previous_psk_ends() -> None:
    world, alice, bob = start()
    alice.set_peer(bob.public, f"preshared_key={psk(2)}", f"previous_preshared_key={psk(1)}")
    world.advance(limits.REJECT_AFTER_TIME - 1)
    assert alice.peer(bob).previous_psk is not None
    world.advance(2)
    assert alice.peer(bob).previous_psk is None


def test_uapi_sections_and_errors() -> None:
    _, alice, bob = pair()
    section = f"public_key={bob.public.hex()}\n"

    def holds() -> tuple[int, int | None]:
        its = alice.peer(bob).psk
        return int.from_bytes(its.psk.reveal(), "big"), its.epoch

    assert alice.uapi(f"set=1\n{section}preshared_key={psk(1)}\nepoch=1\n\n") == "errno=0\n\n"
    assert alice.uapi(f"set=1\n{section}preshared_key={psk(1)}\n\n") == "errno=0\n\n"
    assert holds() == (1, 1)  # the one in place keeps its label
    assert alice.uapi(f"set=1\n{section}preshared_key={psk(2)}\n{section}epoch=2\n\n") == "errno=-22\n\n"
    assert holds() == (2, None)  # another section is not the same
    assert alice.uapi(f"set=1\n{section}preshared_key={psk(3)}\nepoch=x\nprevious_epoch=1\n\n") == "errno=-22\n\n"
    assert holds() == (2, None)  # what was read before the error does not count either
    for lacking in ("previous_epoch=1", f"previous_preshared_key={psk(1)}\nepoch=2"):
        with_psk = f"preshared_key={psk(4)}\n" if lacking.startswith("previous_epoch") else ""
        assert alice.uapi(f"set=1\n{section}{with_psk}{lacking}\n\n") == "errno=-22\n\n"
        assert holds() == (2, None)
    new = f"set=1\npublic_key={'aa' * 31}09\npreshared_key={psk(1)}\nallowed_ip=::/0\n"
    assert alice.uapi(f"{new}epoch=x\n\n") == "errno=-22\n\n"
    assert list(alice.device.state.peers) == [bob.public]
    assert not alice.device.state.allowed_ips.lookup(bytes(16))
