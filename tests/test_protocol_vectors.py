"""docs/protocol.md is enough to implement the handshake: the vectors, recomputed from the document alone."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

import qtunnel.tai64n
from qtunnel.handshake import cookies, fragments, messages
from tests import docs_handshake, docs_identity, docs_layouts, docs_notation
from tests.docs_handshake import End, Epoch
from tests.docs_notation import DOCUMENT

VECTOR_FILE = Path(__file__).parent / "vectors" / "handshake" / "handshake.json"
VECTORS: list[dict[str, Any]] = json.loads(VECTOR_FILE.read_text("utf-8"))["vectors"]
each_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])


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


def test_replay_time() -> None:
    timestamp = qtunnel.tai64n.tai64n(1_767_225_600_000_000_007)
    assert timestamp == (2**62 + 10 + 1_767_225_600).to_bytes(8, "big") + (7).to_bytes(4, "big")
    assert {vector["timestamp"] for vector in VECTORS} == {(timestamp[:8] + bytes(4)).hex()}
