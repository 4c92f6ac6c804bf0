"""Signals that end a run once, in order."""

from __future__ import annotations

import asyncio
import signal


class Interrupts:
    """SIGINT, SIGTERM and SIGHUP cancel the present task, one time; not any more once ``on`` is ``False``."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self.on = True
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._interrupt)

    def _interrupt(self) -> None:
        if self.on:
            self.on = False
            self._task.cancel()
