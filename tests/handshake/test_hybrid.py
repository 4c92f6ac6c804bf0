"""Hybrid: whoever knows all but one of the secrets that go into an epoch does not know its keys.

Each secret in turn is another one, at both ends, while everything that can be seen on the way stays as it was: then the
PSK and the chain secret have to be others. So none is left out, or overwritten by one after it. What is sealed is kept
out of h here, which is public: through it, the keys would be others though no secret was in them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qtunnel.crypto.noise import SymmetricState
from qtunnel.handshake.suites import SUITES, Suite
from qtunnel.secret import Secret
from tests.handshake.vectors import vector

TOKENS = ["es", "skem", "ss", "pairing", "ee", "se", "ekem", "skem_i", "psk"]
"""What is mixed in, in the order of docs/protocol.md section 4.2; each is a secret of its own."""
FIRST = TOKENS.index("ee")
"""How many of them are of message 1."""
ORDER = TOKENS[:FIRST] * 2 + TOKENS[FIRST:] * 2
"""Of one whole exchange: the initiator's message 1, its reader, message 2, its reader."""


def made_with(suite: Suite, other: str | None, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The exchange where the secret of that token is another one."""
    calls = 0

    def changed(material: Secret | bytes | memoryview) -> bytes:
        nonlocal calls
        token, calls = ORDER[calls], calls + 1
        bits = bytearray(material.reveal() if isinstance(material, Secret) else material)
        bits[-1] ^= token == other
        return bytes(bits)

    def without_hash(method: Callable[..., bytes]) -> Callable[..., bytes]:
        def call(state: SymmetricState, data: bytes) -> bytes:
            before = state.h
            done = method(state, data)
            state.h = before
            return done

        return call

    mix_key, mix_key_and_hash = SymmetricState.mix_key, without_hash(SymmetricState.mix_key_and_hash)  # type: ignore[arg-type]  # returns nothing
    with monkeypatch.context() as patch:
        patch.setattr(SymmetricState, "mix_key", lambda self, data: mix_key(self, changed(data)))
        patch.setattr(SymmetricState, "mix_key_and_hash", lambda self, data: mix_key_and_hash(self, changed(data)))
        for name in ("encrypt_and_hash", "decrypt_and_hash"):
            patch.setattr(SymmetricState, name, without_hash(getattr(SymmetricState, name)))
        found = vector(suite, chained=True, paired=True, keys=2)
    assert calls == len(ORDER), "something else is mixed in, or something is not any more"
    return found


@pytest.mark.parametrize("suite", [SUITES[1], SUITES[4]], ids=lambda suite: suite.name)
def test_every_secret_alone_makes_other_keys(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {token: made_with(suite, token, monkeypatch) for token in [None, *TOKENS]}
    for name in ("psk", "chain_out", "commit", "committed"):
        assert len({str(its[name]) for its in made.values()}) == len(made), name
    for name in ("initiator_id", "initiator_ephemeral", "timestamp", "qkd_keys", "encapsulation_m"):
        assert len({str(its[name]) for its in made.values()}) == 1, "what stays as it was"
