"""A look that fails unexpectedly is told and does not end its loop; one that goes on failing does."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from qtunnel.daemon import gateway as module
from qtunnel.daemon.gateway import Gateway
from qtunnel.daemon.steady import MOST, Steady
from qtunnel.errors import EngineError


class Ends(BaseException):
    """Ends a loop that nothing else would end."""


def test_it_is_told_and_counted_anew_after_a_good_one(caplog: pytest.LogCaptureFixture) -> None:
    steady = Steady("keys")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            for number in range(MOST - 1):
                with steady.look():
                    raise RuntimeError(f"for the test {number}")
            with steady.look():
                pass
    assert len(caplog.records) == 3 * (MOST - 1)
    for _ in range(MOST - 1):
        with steady.look():
            raise RuntimeError("for the test")
    with pytest.raises(RuntimeError, match="for the test"), steady.look():
        raise RuntimeError("for the test")


def test_an_end_that_is_wanted_is_none_of_these() -> None:
    steady = Steady("keys")
    with pytest.raises(asyncio.CancelledError), steady.look():
        raise asyncio.CancelledError


def test_one_step_that_fails_leaves_the_others_their_turn(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "POLL_INTERVAL", 0.0)
    done: list[str] = []
    told: list[str] = []
    gateway: Any = Gateway.__new__(Gateway)
    gateway._sockets = SimpleNamespace(expect=lambda hosts: None)
    gateway._endpoints = SimpleNamespace(hosts=list)
    gateway._wake = asyncio.Event()
    gateway._publish = lambda kind, peer=None, **fields: told.append(kind)

    async def first() -> None:
        done.append("first")
        raise EngineError("refused") if len(done) > 4 else RuntimeError("for the test")

    async def second() -> None:
        done.append("second")
        if len(done) == 12:
            raise Ends

    async def main() -> None:
        await gateway._poll(first, second)

    with caplog.at_level(logging.ERROR), pytest.raises(Ends):
        asyncio.run(main())
    assert done == ["first", "second"] * 6
    assert len(caplog.records) == 2, "both of the unexpected ones"
    assert told == ["engine.trouble"] * 4
