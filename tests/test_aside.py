"""Work in threads that nobody waits for, also where no thread can be made."""

from __future__ import annotations

import _thread
import asyncio
import errno
import gc
import threading
from collections.abc import Callable

import pytest

from qtunnel import aside as module
from qtunnel.aside import Aside, aside


def test_what_the_work_returns_or_raises_comes_back() -> None:
    assert asyncio.run(aside(lambda: 7)) == 7

    def fails() -> None:
        raise FileNotFoundError(2, "no such file")

    with pytest.raises(FileNotFoundError, match="no such file"):
        asyncio.run(aside(fails))


def test_where_no_thread_can_be_started_the_caller_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(function: Callable[[], None], arguments: tuple[()]) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuses)
    with pytest.raises(OSError, match="no thread can be started") as raised:
        asyncio.run(aside(lambda: 7))
    assert raised.value.errno == errno.EAGAIN


def test_a_thread_that_dies_at_its_birth_holds_nobody_up_and_never_does_its_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one for which there is no memory: the event loop goes on meanwhile."""
    born: list[Callable[[], None]] = []

    def start(function: Callable[[], None], arguments: tuple[object, ...]) -> int:
        born.append(function)
        return 1

    monkeypatch.setattr(_thread, "start_new_thread", start)
    monkeypatch.setattr(module, "BIRTH", 0.05)
    done: list[int] = []

    async def main() -> None:
        running = asyncio.create_task(aside(lambda: done.append(1)))
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="did not begin"):
            await running

    asyncio.run(main())
    born[0]()  # late after all
    assert done == []


def begun_at_once(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """To be set by the work: nobody goes on before, however busy the machine is."""
    begun = threading.Event()

    class Begun(Aside):
        def __init__(self, work: Callable[[], object]) -> None:
            super().__init__(work)
            assert begun.wait(60)

    monkeypatch.setattr(module, "Aside", Begun)
    return begun


@pytest.mark.parametrize("birth", [0.01, 60.0])
def test_who_does_not_wait_any_more_hears_nothing_of_work_that_fails_later(
    monkeypatch: pytest.MonkeyPatch, birth: float
) -> None:
    """Whether the work was known to have begun or not."""
    monkeypatch.setattr(module, "BIRTH", birth)
    begun, go = begun_at_once(monkeypatch), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(60)
        raise FileNotFoundError(2, "no such file")

    async def main() -> list[object]:
        wrong: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        running = asyncio.create_task(aside(work))
        await asyncio.sleep(0.1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        del running
        go.set()
        await asyncio.sleep(0.1)
        gc.collect()
        return wrong

    assert asyncio.run(main()) == []


def test_work_that_takes_long_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BIRTH", 0.01)
    begun, go = begun_at_once(monkeypatch), threading.Event()

    def work() -> bool:
        begun.set()
        return go.wait(60)

    async def main() -> bool:
        running = asyncio.create_task(aside(work))
        await asyncio.sleep(0.1)
        assert not running.done()
        go.set()
        return await running

    assert asyncio.run(main())


def test_work_that_has_begun_is_not_given_up() -> None:
    begun, go = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(60)

    its = Aside(work)
    assert begun.wait(60)
    assert not its.give_up()
    go.set()
