"""Plans that broke a rule once, each as small as it could be made."""

from __future__ import annotations

import pytest

from qtunnel.terms import ChainPolicy, QkdPolicy
from tests.rekey.model.plan import Crash, Kme, Move, Plan, Refuse, Rekey, Side
from tests.rekey.model.run import run

STRICT = Side(chain=ChainPolicy.REQUIRED)
UNKNOWN = Side(endpoint=False)

FOUND = {
    "an engine that tells no epoch showed QKD over a session of PQC alone": Plan(
        a=Side(pqc_on_expiry=True, max_age=2.0), b=Side(qkd=QkdPolicy.PREFERRED, endpoint=False), a_is_higher=False,
        plain=True, actions=(Rekey(5.0, "a"), Kme(0.0, "a", "down", 40.0)),
    ),
    "a first epoch in doubt was offered for ever to a peer that had lost everything": Plan(
        a=UNKNOWN, b=STRICT, a_is_higher=False, roams="b", spread=0.4, actions=(Crash(0.6, "a", 0, 0.0, False),)
    ),
    "a second exchange that ran beside the first made an epoch without the chain": Plan(
        a=UNKNOWN, b=STRICT, a_is_higher=False, roams="b", spread=0.4, actions=(Rekey(0.6, "a"),)
    ),
    "a session outlived its key where the engine refused to drop it": Plan(
        a=Side(pqc_on_expiry=True, max_age=1.2), roams="b",
        actions=(Kme(0.6, "a", "down", 1.0), Move(0.0), Refuse(0.0, "a", 95.0), Crash(5.0, "b", 0, 0.0, False),
                 Kme(0.0, "a", "lies", 40.0)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FOUND)
def test_it_is_mended(what: str) -> None:
    run(FOUND[what])
