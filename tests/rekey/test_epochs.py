"""What the core says of its epochs: which are described, and which one a confirmation is true for."""

from __future__ import annotations

from qtunnel.keys.policy import Protection
from qtunnel.rekey.model import Send
from tests.rekey.simulation import Host, Simulation
from tests.rekey.test_rekey import CLEAN, done, protection


def test_the_epoch_in_force_is_described_as_long_as_a_session_can_last() -> None:
    simulation = Simulation(1, CLEAN, interval=1.0)
    done(simulation, 150)
    assert len(simulation.hosts["a"].node.peers["b"].view().epochs) >= 150
    done(simulation, 200)
    assert len(simulation.hosts["a"].node.peers["b"].view().epochs) < 320
    assert protection(simulation, "a") is Protection.QKD_PQC


def test_a_confirmation_names_the_epoch_that_it_is_true_for() -> None:
    simulation = Simulation(1, CLEAN)
    confirmed: list[int] = []
    carry_out = simulation._carry_out

    def watching(host: Host) -> None:
        peers = host.node.peers[host.peer]
        sends = (effect for effect in peers.context.effects if isinstance(effect, Send))
        confirmed.extend(send.confirms for send in sends if send.confirms is not None)
        carry_out(host)

    simulation._carry_out = watching  # type: ignore[method-assign]  # to look at the effects
    done(simulation, 3)
    assert confirmed == [1, 2, 3]
