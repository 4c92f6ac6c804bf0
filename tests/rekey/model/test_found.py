"""Plans that broke a rule once, each as small as it could be made."""

from __future__ import annotations

import pytest

from qtunnel.handshake.fragments import MessageType
from qtunnel.terms import ChainPolicy, QkdPolicy
from tests.rekey.model.plan import (
    Change,
    Clock,
    Crash,
    Kme,
    Lose,
    Move,
    Partition,
    Plan,
    Refuse,
    Rekey,
    Replay,
    Side,
    Weather,
)
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
    "PQC alone was allowed by a change before anything was in place, and then judged by when it came": Plan(
        b=Side(endpoint=False), a_is_higher=False,
        actions=(Move(0.6), Change(0.0, "a", Side(min_sources=2, pqc_on_expiry=True), True)),
    ),
    "two exchanges beside each other gave one epoch number to two keys": Plan(
        a=Side(min_sources=2, pqc_on_expiry=True), b=Side(endpoint=False), a_is_higher=False, spread=0.4,
        actions=(Lose(19.0, MessageType.COMMITTED, 200.0), Kme(0.0, "a", "slow", 200.0)),
    ),
    "a policy that was turned off in the middle of an exchange got its keys all the same": Plan(
        b=Side(endpoint=False), a_is_higher=False, spread=0.4,
        actions=(Rekey(0.0, "a"), Change(0.6, "b", Side(qkd=QkdPolicy.OFF), True)),
    ),
    "a longer max_age was held against PQC alone that had been allowed before it (by the model, not by the core)": Plan(
        interval=60.0, a=Side(pqc_on_expiry=True, max_age=2.0), b=Side(qkd=QkdPolicy.OFF, endpoint=False),
        a_is_higher=False, actions=(Change(250.0, "a", Side(pqc_on_expiry=True), True),),
    ),
    "where a copy of a commit had led the peer's address astray, it was never looked up again (by the model)": Plan(
        a=Side(qkd=QkdPolicy.PREFERRED), b=Side(qkd=QkdPolicy.OFF), a_is_higher=False, spread=0.4,
        actions=(Replay(0.6, 1, "mallory"), Move(0.0)),
    ),
    "an engine fell back to the key before, although that was too old by then (in the model alone)": Plan(
        seed=830, a=Side(max_age=2.0), b=Side(min_sources=2), a_is_higher=False, loss=0.1, spread=0.4,
        actions=(Change(33.0, "b", Side(), True), Weather(5.0, 0.6, 0.0, 0.0, 95.0)),
    ),
    "an epoch that was in doubt is as old as its key, and not as its installation (as the model had it)": Plan(
        interval=60.0, a=Side(pqc_on_expiry=True, max_age=1.2), b=UNKNOWN, a_is_higher=False,
        actions=(Lose(0.0, MessageType.COMMITTED, 95.0),),
    ),
    "a session that may have been of a key of before a lost chain was dropped, which the model took for a fault": Plan(
        seed=217, interval=120.0, b=Side(chain=ChainPolicy.REQUIRED, endpoint=False), plain=True,
        actions=(Crash(100.0, "a", 0, 0.0, False),),
    ),
    "a policy became stricter than the epoch before, which a session still was of, and the model did not drop it": Plan(
        a=Side(qkd=QkdPolicy.PREFERRED), b=Side(qkd=QkdPolicy.PREFERRED, endpoint=False), a_is_higher=False,
        plain=True, actions=(Rekey(0.0, "a"), Kme(0.0, "a", "down", 1.0), Rekey(33.0, "a"),
                             Change(0.0, "a", Side(), True)),
    ),
    "a session that may have been of a key as old as a fault was long was dropped, which the model took for one": Plan(
        seed=3, interval=120.0, a=Side(qkd=QkdPolicy.PREFERRED), b=Side(qkd=QkdPolicy.PREFERRED, endpoint=False),
        a_is_higher=False, plain=True, actions=(Kme(33.0, "a", "down", 1.0), Rekey(0.0, "a"), Move(100.0),
                                                Partition(0.0, "a", True, 200.0)),
    ),
    "an epoch was in doubt by when its commit was sent, and not by when it came (as the model had it)": Plan(
        b=UNKNOWN, a_is_higher=False,
        actions=(Rekey(0.0, "a"), Refuse(5.0, "a", 95.0), Lose(0.0, MessageType.COMMIT, 40.0)),
    ),
    "an epoch that was in doubt until after max_age was put in place once it was settled": Plan(
        interval=60.0, a=Side(pqc_on_expiry=True, max_age=1.2), b=UNKNOWN, a_is_higher=False,
        actions=(Refuse(0.0, "b", 95.0), Kme(0.0, "a", "down", 40.0)),
    ),
    "an offer that had given way to one which the peer could not take was not looked at any more": Plan(
        a_is_higher=False, actions=(Clock(0.06, "b", -1e9), Crash(0.0, "b", 0, 0.0, False)),
    ),
    "an end that knew its peer by an offer alone never began, though the peer's were too old by then": Plan(
        b=UNKNOWN, a_is_higher=False,
        actions=(Change(5.0, "b", Side()), Clock(0.0, "a", -1e9), Crash(0.0, "a", 0, 0.0, False),
                 Crash(0.0, "a", 4, 0.0, False)),
    ),
    "an exchange that a lying KME had spoilt was still under way when both ends were to begin (by the model)": Plan(
        b=UNKNOWN, a_is_higher=False, actions=(Rekey(5.0, "a"), Move(0.0), Kme(0.0, "a", "lies", 1.0)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FOUND)
def test_it_is_mended(what: str) -> None:
    run(FOUND[what])
