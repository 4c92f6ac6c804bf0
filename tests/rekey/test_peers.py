"""Several peers at one gateway: what one of them does, or is, reaches no other."""

from __future__ import annotations

import pytest

from qtunnel.errors import HandshakeError
from qtunnel.identity import PublicIdentity
from qtunnel.rekey.model import Block, Defect, Fetched, FetchNew
from qtunnel.rekey.outbound import OutState
from qtunnel.terms import Policy, QkdPolicy
from tests.rekey.gateways import (
    IDENTITIES,
    SUITE,
    node,
    now,
    reasons,
    sent,
    settings,
)


def unusable(which: str) -> PublicIdentity:
    """A public identity as no public file can hold it."""
    good = IDENTITIES["b"].public
    if which == "x25519":
        return PublicIdentity(good.wireguard, bytes(32), good.kem)
    return PublicIdentity(good.wireguard, good.x25519, {**good.kem, SUITE.kem.name: b"\xff" * 1568})


@pytest.mark.parametrize("which", ["kem", "x25519"])
@pytest.mark.parametrize("way", ["tick", "rekey", "fetched"])
def test_a_peer_with_an_unusable_key_fails_alone_and_is_tried_again(which: str, way: str) -> None:
    changes = {"policy": Policy(QkdPolicy.PREFERRED), "sources": ("metro",)} if way == "fetched" else {}
    hub = node("hub", settings("bad", unusable(which), **changes), settings("c"))
    if way == "rekey":
        assert hub.rekey_now("bad", now(0.0))
    hub.tick(now(5.0))
    found = hub.take_effects()
    if way == "fetched":
        (fetch,) = [effect for effect in found if isinstance(effect, FetchNew)]
        hub.fetched("bad", fetch.ticket, Fetched((), (("metro", "down"),)), now(6.0))
        found += hub.take_effects()
    assert set(reasons(found, "rekey.failed")) == {"peer-key"}
    assert not [effect for effect in found if isinstance(effect, Defect | Block)]
    assert len(sent(found, "c")) == 1
    bad = hub.peers["bad"]
    assert bad.outbound.state is OutState.IDLE
    assert bad.context.memory.proposed == bad.context.epoch == 0
    assert bad.deadline is not None
    assert bad.deadline <= 7.0


@pytest.mark.parametrize("way", ["tick", "fetched", "rekey"])
def test_a_handshake_error_out_of_place_is_that_peers_defect(way: str) -> None:
    hub = node("hub", settings("b"), settings("c"))

    def fail(*_: object) -> bool:
        raise HandshakeError("malformed", "where nothing was received")

    for method in ("tick", "fetched", "rekey_now"):
        setattr(hub.peers["b"], method, fail)
    if way == "tick":
        hub.tick(now(5.0))
    elif way == "fetched":
        hub.fetched("b", 1, Fetched(), now(5.0))
    else:
        assert not hub.rekey_now("b", now(5.0))
    found = hub.take_effects()
    assert [effect.peer for effect in found if isinstance(effect, Defect)] == ["b"]
    hub.tick(now(6.0))
    assert way == "tick" or sent(hub.take_effects(), "c")
