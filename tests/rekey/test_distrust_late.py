"""An alarm while the commit of an exchange is on its way, or was never confirmed: its keys are in no hand any more."""

from __future__ import annotations

from qtunnel.handshake.fragments import MessageType
from qtunnel.rekey.states import OutState
from qtunnel.rekey.timing import COMMIT_LIMIT
from tests.rekey.simulation import Simulation
from tests.rekey.test_distrust import alarm
from tests.rekey.test_heal import initiator, lose
from tests.rekey.test_rekey import CLEAN, done


def committing() -> tuple[Simulation, str]:
    """The initiator has sent its second commit, and hears of no confirmation."""
    its = Simulation(1, CLEAN, interval=120.0, max_age=600.0)
    first = initiator(its)
    done(its)
    lose(its, MessageType.COMMITTED)
    peer = its.hosts[first].node.peers[its.hosts[first].peer]
    its.run_until(lambda: peer.outbound.state is OutState.COMMITTING, limit=150)
    return its, first


def test_an_alarm_while_a_commit_is_under_way_keeps_its_epoch_out() -> None:
    its, first = committing()
    host = its.hosts[first]
    alarm(its, first)
    lose(its)
    its.run_until(lambda: its.agreed and (host.engine.epoch or 0) > 1, limit=20)
    assert host.engine.epoch == 3
    done(its)


def test_an_alarm_after_a_commit_was_given_up_keeps_its_epoch_out() -> None:
    its, first = committing()
    host = its.hosts[first]
    peer = host.node.peers[host.peer]
    its.run_until(lambda: peer.outbound.state is not OutState.COMMITTING, limit=COMMIT_LIMIT + 2.0)
    alarm(its, first)
    lose(its)
    its.run_until(lambda: its.agreed and (host.engine.epoch or 0) > 1, limit=60)
    assert host.engine.epoch == 3
    assert 2 not in peer.context.epochs
    done(its)
