"""A daemon that hangs is one that the service manager has to hear nothing of."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from qtunnel.daemon.liveness import EFFECT_LIMIT, Liveness
from qtunnel.sd_notify import Notifier


def test_life_is_timers_that_are_served_and_effects_that_end() -> None:
    now = 0.0
    life = Liveness(lambda: now)
    assert life.check()
    assert not life.check(), "nobody served the timers since"
    life.ticked()
    assert life.check()
    first = life.begins()
    now = EFFECT_LIMIT - 1
    life.ticked()
    assert life.check()
    now = EFFECT_LIMIT
    life.ticked()
    second = life.begins()
    assert not life.check(), "an effect hangs, and what comes after it never happens"
    life.ends(first)
    life.ticked()
    assert life.check(), "another one has begun just now"
    now = 2 * EFFECT_LIMIT
    life.ticked()
    assert not life.check()
    life.ends(second)
    life.ticked()
    assert life.check()


def test_the_manager_hears_of_it_only_while_there_is_life(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.setblocking(False)
        life = Liveness()
        alive = True

        async def use() -> tuple[int, int]:
            nonlocal alive
            loop = asyncio.get_running_loop()
            dog = asyncio.create_task(life.watchdog(Notifier(path), 0.01, lambda: life.ticked() if alive else None))
            heard = [await loop.sock_recv(manager, 100) for _ in range(5)]
            assert set(heard) == {b"WATCHDOG=1"}
            alive = False
            late = 0
            try:
                async with asyncio.timeout(0.5):
                    while True:
                        await loop.sock_recv(manager, 100)
                        late += 1
            except TimeoutError:
                pass
            dog.cancel()
            return len(heard), late

        heard, late = asyncio.run(use())
    assert heard == 5
    assert late <= 2, "what was on its way"
