"""A port of this machine at which an aiohttp application is served: its start, its errors, its end."""

from __future__ import annotations

from aiohttp import web

from qtunnel.errors import HttpPortError

CLOSE_LIMIT = 1.0
"""Seconds that an answer under way may take at the end."""


class HttpPort:
    """Serves ``app`` at ``host`` and ``port`` (0: any that is free). key: of the configuration, for errors."""

    def __init__(self, app: web.Application, host: str, port: int, key: str) -> None:
        self._app, self._host, self._port, self._key = app, host, port, key
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Raises ``HttpPortError`` where it cannot listen."""
        self._runner = web.AppRunner(self._app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_LIMIT)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self.stop()
            words = (error.strerror or str(error)).lower()
            raise HttpPortError(
                f"{self._key}: {self._host} port {self._port}: {words}; end what has it, or take another"
            ) from None

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._runner is not None
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
