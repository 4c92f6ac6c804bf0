"""Names looked up by the system's resolver, which knows no end of its own: nobody waits for it longer than told."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from qtunnel.aside import Aside
from qtunnel.daemon.transport import Address, host_of

AT_ONCE = 32
"""Look-ups under way: as many as a default thread pool has. Those of a resolver that is silent go on for a minute."""


class Resolver:
    """Looks names up in threads of its own."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def resolve(self, host: str, port: int, timeout: float) -> list[Address]:
        """The addresses of a name, at least one, in the order in which the host would try them (RFC 6724); or the
        numeric address that it is. Raises ``OSError``, ``UnicodeError`` or ``TimeoutError``."""
        async with asyncio.timeout(timeout):
            await self._slots.acquire()
            found = await self._begin(host, port)
        return [Address(each, port) for each in dict.fromkeys(map(host_of, found))]

    def _begin(self, host: str, port: int) -> asyncio.Future[list[tuple[object, ...]]]:
        """The socket addresses; the thread gives its slot back once it is done, whether somebody still waits or not."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[tuple[object, ...]]] = loop.create_future()

        def tell(found: list[tuple[object, ...]] | OSError | UnicodeError) -> None:
            self._slots.release()
            if answer.done():
                return
            if isinstance(found, list):
                answer.set_result(found)
            else:
                answer.set_exception(found)

        def look_up() -> None:
            found: list[tuple[object, ...]] | OSError | UnicodeError
            try:
                found = [each[4] for each in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)]
            except (OSError, UnicodeError) as error:
                found = error
            with contextlib.suppress(RuntimeError):  # the daemon ended meanwhile
                loop.call_soon_threadsafe(tell, found)

        # Not of a pool: at the end of the process nobody may wait for a resolver that is silent.
        try:
            Aside(look_up)
        except OSError:
            self._slots.release()
            raise
        return answer
