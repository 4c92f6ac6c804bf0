"""Effects are carried out in order for each peer, whatever others wait for."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from qtunnel.daemon.lanes import EVERYBODY, Lanes
from qtunnel.keys.stored import Image, StoredKey
from qtunnel.rekey.model import Block, Effect, Install, Keep, Memory, Notice, Remember
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef

PEERS = st.sampled_from(["", "a", "b", "c", EVERYBODY])


@given(steps=st.lists(st.tuples(PEERS, st.integers(0, 3), st.booleans()), max_size=60))
def test_each_peers_effects_come_in_order_one_at_a_time(steps: list[tuple[str, int, bool]]) -> None:
    """waits: turns of the event loop that an effect takes; pause: whether others have a turn before the next comes."""
    begun: dict[str, list[int]] = defaultdict(list)
    ended: dict[str, list[int]] = defaultdict(list)

    async def carry_out(effect: Effect) -> None:
        assert isinstance(effect, Notice)
        number, waits = effect.fields["number"], effect.fields["waits"]
        assert isinstance(number, int)
        assert isinstance(waits, int)
        assert begun[effect.peer] == ended[effect.peer], "the one before is not done"
        begun[effect.peer].append(number)
        for _ in range(waits):
            await asyncio.sleep(0)
        ended[effect.peer].append(number)

    async def use() -> None:
        put: dict[str, int] = defaultdict(int)
        async with asyncio.TaskGroup() as tasks:
            lanes = Lanes(carry_out, tasks.create_task)
            for number, (peer, waits, pause) in enumerate(steps):
                lanes.put(Notice(peer, "test", {"number": number, "waits": waits}))
                put[peer] += 1
                if pause:
                    await asyncio.sleep(0)
                assert all(lanes.busy(its) or len(ended[its]) == count for its, count in put.items())
        assert not any(lanes.busy(its) for its in put)

    asyncio.run(use())
    for peer in {peer for peer, _, _ in steps}:
        assert ended[peer] == [number for number, step in enumerate(steps) if step[0] == peer]


def test_one_that_waits_holds_no_other_peer_up() -> None:
    done: list[str] = []

    async def use() -> None:
        free = asyncio.Event()

        async def carry_out(effect: Effect) -> None:
            if effect.peer == "slow":
                await free.wait()
            done.append(effect.peer)

        async with asyncio.TaskGroup() as tasks:
            lanes = Lanes(carry_out, tasks.create_task)
            for peer in ("slow", "slow", EVERYBODY, "quick", "quick"):
                lanes.put(Effect(peer))
            for _ in range(5):
                await asyncio.sleep(0)
            assert sorted(done) == [EVERYBODY, "quick", "quick"], "a new configuration does not wait for it either"
            assert [lanes.busy(peer) for peer in ("slow", "quick", EVERYBODY)] == [True, False, False]
            free.set()

    asyncio.run(use())
    assert done[3:] == ["slow", "slow"]


def test_what_waits_for_a_peer_that_is_gone_is_dropped() -> None:
    done: list[tuple[str, object]] = []
    psk = Secret(bytes(32))

    async def use() -> None:
        async with asyncio.TaskGroup() as tasks:

            async def carry_out(effect: Effect) -> None:
                assert isinstance(effect, Notice)
                await asyncio.sleep(0)
                done.append((effect.peer, effect.fields["number"]))

            lanes = Lanes(carry_out, tasks.create_task)
            for peer in ("a", "b"):
                lanes.put(Notice(peer, "test", {"number": 1}))
                lanes.put(Notice(peer, "test", {"number": 2}))
            lanes.put(Install("a", 1, psk, None, None, False))
            await asyncio.sleep(0)
            lanes.forget({"a", "never there"})
            lanes.put(Notice("a", "test", {"number": 3}))

    asyncio.run(use())
    assert sorted(done) == [("a", 1), ("a", 3), ("b", 1), ("b", 2)], done
    assert psk.wiped


def test_of_a_lane_that_has_not_begun_only_what_is_to_be_remembered_is_left() -> None:
    """A reload and a peer's effects in one turn of the loop: nothing of the configuration of before is there then."""
    done: list[Effect] = []
    psk, agreed = Secret(bytes(32)), Secret(bytes(32))
    image = Image(bytes(16), None, (StoredKey(KeyRef("metro", "1", 32), agreed, 0, 0),), ())
    memory = Remember("a", bytes(32), Memory(epoch=7))

    async def use() -> None:
        async with asyncio.TaskGroup() as tasks:

            async def carry_out(effect: Effect) -> None:
                done.append(effect)

            lanes = Lanes(carry_out, tasks.create_task)
            lanes.put(Notice("a", "test", {}))
            lanes.put(memory)
            lanes.put(Keep("a", 1, image, True, None, (bytes(32), bytes(32))))
            lanes.put(Install("a", 7, psk, None, None, False))
            lanes.put(Notice("b", "test", {}))
            lanes.forget(["a"])
            lanes.put(Block("a"))
            await asyncio.sleep(0)
            assert not lanes.busy("a")

    asyncio.run(use())
    assert sorted(map(repr, done)) == sorted(map(repr, [memory, Block("a"), Notice("b", "test", {})]))
    assert psk.wiped
    assert agreed.wiped
