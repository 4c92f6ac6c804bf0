"""What the peer hears where a key is not to be had: which source, and nothing of this end's site."""

from __future__ import annotations

import pytest

from qtunnel.rekey.shortage import Shortage
from qtunnel.terms import Policy, QkdPolicy
from tests.rekey.simulation import Simulation
from tests.rekey.test_rekey import CLEAN

SECRET = "https://kme.inside.example:8443"


class Talking(Simulation):
    """Whose KMEs say where they are when they fail."""

    def start(self, name: str, memory: object = None) -> None:
        super().start(name)
        real = self.kme.get_by_id

        def fails(who: str, ref: object) -> str:
            return f"metro: metro ({SECRET}): dec_keys: HTTP 503"

        self.kme.get_by_id = fails  # type: ignore[method-assign]  # for the test
        assert real is not None


@pytest.mark.parametrize("qkd", [QkdPolicy.REQUIRED, QkdPolicy.PREFERRED])
def test_what_a_kme_said_stays_at_its_site(qkd: QkdPolicy) -> None:
    world = Talking(1, CLEAN, policy_a=Policy(qkd), policy_b=Policy(qkd))
    world.run_for(15.0)
    notices = [notice for host in world.hosts.values() for notice in host.notices]
    own = [str(its.fields) for its in notices if its.fields.get("role") != "initiator"]
    told = [str(its.fields) for its in notices if its.fields.get("role") == "initiator" or its.kind == "peer.says"]
    assert any(SECRET in words for words in own)
    assert not any(SECRET in words for words in told)
    assert any("metro: it gave no key" in words for words in told)


def test_a_mistake_that_both_ends_have_to_mend_is_told_in_full() -> None:
    shortage = Shortage()
    shortage.mistake("spare", "no key source 'spare' is configured for this peer here")
    shortage.failed({"metro": f"metro ({SECRET}): HTTP 503"})
    assert SECRET in shortage.words
    assert SECRET not in shortage.told
    assert "no key source 'spare'" in shortage.told
    shortage.silent("no key source answered within 30 s")
    assert shortage.told.count(";") == 2 + 1
