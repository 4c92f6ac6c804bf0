"""Effects are carried out in order for each peer, whatever others wait for."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from qtunnel.daemon.lanes import Lanes
from qtunnel.rekey.model import Effect, Notice

PEERS = st.sampled_from(["", "a", "b", "c", "alone"])


@given(steps=st.lists(st.tuples(PEERS, st.integers(0, 3), st.booleans()), max_size=60))
def test_each_peers_effects_come_in_order_one_at_a_time(steps: list[tuple[str, int, bool]]) -> None:
    """waits: turns of the event loop that an effect takes; pause: whether others have a turn before the next comes."""
    begun: dict[str, list[int]] = defaultdict(list)
    done: set[int] = set()
    ended: dict[str, list[int]] = defaultdict(list)

    async def carry_out(effect: Effect) -> None:
        assert isinstance(effect, Notice)
        number, waits = effect.fields["number"], effect.fields["waits"]
        assert isinstance(number, int)
        assert isinstance(waits, int)
        assert begun[effect.peer] == ended[effect.peer], "the one before is not done"
        if effect.peer == "alone":
            assert done == set(range(number)), "all before it, nothing after it"
        begun[effect.peer].append(number)
        for _ in range(waits):
            await asyncio.sleep(0)
        ended[effect.peer].append(number)
        done.add(number)

    async def use() -> None:
        async with asyncio.TaskGroup() as tasks:
            lanes = Lanes(carry_out, tasks.create_task)
            for number, (peer, waits, pause) in enumerate(steps):
                effect = Notice(peer, "test", {"number": number, "waits": waits})
                (lanes.put_alone if peer == "alone" else lanes.put)(effect)
                if pause:
                    await asyncio.sleep(0)
                assert not lanes.empty() or len(done) == number + 1
        assert lanes.empty()

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
            for peer in ("slow", "slow", "quick", "quick"):
                lanes.put(Effect(peer))
            for _ in range(5):
                await asyncio.sleep(0)
            assert done == ["quick", "quick"]
            assert not lanes.empty()
            free.set()

    asyncio.run(use())
    assert done == ["quick", "quick", "slow", "slow"]


def test_what_waits_for_a_peer_that_is_gone_is_dropped() -> None:
    done: list[tuple[str, object]] = []

    async def use() -> None:
        async with asyncio.TaskGroup() as tasks:

            async def carry_out(effect: Effect) -> None:
                assert isinstance(effect, Notice)
                await asyncio.sleep(0)
                if effect.peer == "reload":
                    lanes.forget({"a"})
                done.append((effect.peer, effect.fields["number"]))

            lanes = Lanes(carry_out, tasks.create_task)
            lanes.put(Notice("a", "test", {"number": 1}))
            lanes.put_alone(Notice("reload", "test", {"number": 2}))
            for peer in ("a", "b"):
                lanes.put(Notice(peer, "test", {"number": 3}))
            await asyncio.sleep(0)
            lanes.forget({"b"})
            lanes.put(Notice("b", "test", {"number": 4}))

    asyncio.run(use())
    assert done == [("a", 1), ("reload", 2), ("b", 4)]
