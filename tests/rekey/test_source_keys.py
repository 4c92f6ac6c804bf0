"""Keys of the sources in the core: what is no good is refused by name, what is good is kept, and wiped in time."""

from __future__ import annotations

import pytest

from qtunnel.rekey.limits import TokenBucket
from qtunnel.rekey.model import FetchById, Notice
from qtunnel.rekey.timing import KEY_LIFETIME
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef
from tests.rekey.attacks import effects, offer_from, send
from tests.rekey.simulation import Simulation
from tests.rekey.test_rekey import CLEAN, done, reasons, rekeys


def test_keys_survive_a_busy_peer() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation)
    bucket = TokenBucket(0.0, 0.0)
    for host in simulation.hosts.values():
        host.node.peers[host.peer].inbound._fetches = bucket
    before = simulation.kme.delivered
    simulation.run_until(lambda: bool({"busy"} & (reasons(simulation, "a") | reasons(simulation, "b"))), limit=60)
    simulation.run_for(20.0)
    assert simulation.kme.delivered <= before + 2  # one for each end
    bucket.burst = bucket.rate = 4.0
    done(simulation)
    assert simulation.agreed


@pytest.mark.parametrize(
    ("ref", "key", "words"),
    [
        (KeyRef("metro", "id", 16), bytes(16), "a key of 16 bytes instead of 32"),
        (KeyRef("metro", "id", 32), bytes(31), "a key of 31 bytes instead of 32"),
        (KeyRef("metro", "", 32), bytes(32), "1 to 255 bytes"),
        (KeyRef("metro", "x" * 256, 32), bytes(32), "1 to 255 bytes"),
        (KeyRef("metro", "a\nb", 32), bytes(32), "printable"),
        (KeyRef("other", "id", 32), bytes(32), "not asked"),
    ],
)
def test_a_key_that_is_not_what_it_should_be_is_refused_by_name(ref: KeyRef, key: bytes, words: str) -> None:
    simulation = Simulation(1, CLEAN)
    secret = Secret(key)
    simulation.kme.get = lambda who, source, size: (ref, secret)  # type: ignore[method-assign]  # a broken driver
    simulation.run_for(30.0)
    details = [n.fields["detail"] for h in simulation.hosts.values() for n in h.notices if n.kind == "source.failed"]
    assert details
    assert all(words in str(detail) for detail in details)
    assert all(host.engine.blocked for host in simulation.hosts.values())


@pytest.mark.parametrize("same", ["reference", "bits"])
def test_a_kme_that_delivers_a_key_again_is_found_out(same: str) -> None:
    simulation = Simulation(1, CLEAN)
    get = simulation.kme.get
    first: list[tuple[KeyRef, bytes]] = []

    def again(who: str, source: str, size: int) -> tuple[KeyRef, Secret] | str:
        got = get(who, source, size)
        assert not isinstance(got, str)
        ref, key = got
        if not first:
            first.append((ref, bytes(key.reveal())))
            return got
        return (first[0][0], key) if same == "reference" else (ref, Secret(first[0][1]))

    simulation.kme.get = again  # type: ignore[method-assign]  # a broken KME
    done(simulation)
    simulation.run_for(60.0)
    assert rekeys(simulation) == 1
    details = [n.fields["detail"] for h in simulation.hosts.values() for n in h.notices if n.kind == "source.failed"]
    assert any("second time" in str(detail) for detail in details)


def test_an_offered_key_of_another_size_is_not_fetched() -> None:
    simulation = Simulation(1, CLEAN)
    done(simulation)
    send(simulation, "a", offer_from(simulation, "a", keys=(KeyRef("metro", "id", 16),)))
    now = effects(simulation.hosts["b"])
    assert not any(isinstance(effect, FetchById) for effect in now)
    assert any(isinstance(e, Notice) and "16 bytes was offered" in str(e.fields.get("detail")) for e in now)


def test_a_held_key_is_wiped_on_time_though_nothing_else_happens() -> None:
    simulation = Simulation(1, CLEAN)
    peer = simulation.hosts["a"].node.peers["b"]
    peer._next = None
    peer.context.ours.put(KeyRef("metro", "1", 32), Secret(bytes(32)), simulation.now)
    assert peer.deadline == simulation.now + KEY_LIFETIME
    simulation.now += KEY_LIFETIME
    peer.tick(simulation.clock())
    assert len(peer.context.ours) == 0
    peer.context.theirs.put(KeyRef("metro", "1", 32), Secret(bytes(32)), simulation.now)
    assert peer.deadline == simulation.now + KEY_LIFETIME
