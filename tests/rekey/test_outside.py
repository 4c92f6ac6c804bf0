"""Before it knows who speaks, a gateway shows nothing: no answer, no call, nothing kept, whatever was wrong."""

from __future__ import annotations

import pytest

from qtunnel.rekey.model import Block, FetchById, FetchNew, Install, Notice, Remember, Send
from qtunnel.rekey.states import InState
from tests.rekey.gateways import hand, now
from tests.rekey.outside import CASES, PAIRING, B, first, hub

ACTS = (Send, FetchById, FetchNew, Install, Block, Remember)


@pytest.mark.parametrize("expected", [False, True], ids=["from-anywhere", "from-a-peers-address"])
@pytest.mark.parametrize("case", CASES)
def test_nobody_outside_gets_an_answer_or_makes_the_gateway_do_anything(case: str, expected: bool) -> None:
    gateway = hub()
    gateway.take_effects()
    peer = gateway.peers["b"]
    before = peer.context.epoch, peer.context.memory, peer.deadline
    for number in range(3):
        for datagram in CASES[case](1.0 + number):
            assert gateway.receive(datagram, "outside", now(1.0 + number), expected=expected) is None
    effects = gateway.take_effects()
    assert not [effect for effect in effects if isinstance(effect, ACTS)]
    assert gateway.take_replies() == []
    assert {type(effect) for effect in effects} <= {Notice}
    assert peer.inbound.state is InState.IDLE
    assert (peer.context.epoch, peer.context.memory, peer.deadline) == before
    assert gateway.anybody.partials == gateway.expected.partials == 0


def test_what_the_peer_itself_says_is_answered() -> None:
    """Or the test above would hold for a gateway that is deaf."""
    gateway = hub()
    heard = hand(gateway, first(B, 1.0, pairing=PAIRING), "b", 1.0)
    assert heard is not None
    assert [effect for effect in gateway.take_effects() if isinstance(effect, Send)]
