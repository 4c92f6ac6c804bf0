"""A userspace WireGuard in a process of its own, driven over its UAPI socket."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from qtunnel.constants import UAPI_DIRECTORY
from qtunnel.engines.base import Left
from qtunnel.engines.child import ChildEngine
from qtunnel.engines.clocks import SYSTEM, Clocks
from qtunnel.engines.device import left_of
from qtunnel.engines.host import check_tun_device, interface_exists
from qtunnel.engines.process import LogLine
from qtunnel.engines.programs import Program
from qtunnel.engines.steward_client import StewardClient, StewardProcess
from qtunnel.engines.survivor import SurvivingProcess
from qtunnel.engines.uapi_client import UapiClient, taken_by
from qtunnel.errors import EngineError, InterfaceError
from qtunnel.secret import RandomBytes


class UapiEngine(ChildEngine):
    """Drives ``qtunnel wg``, wireguard-go or boringtun."""

    def __init__(
        self, program: Program, interface: str, *, record: Path | None = None, log_line: LogLine | None = None,
        steward: StewardClient | None = None,
        clocks: Clocks = SYSTEM, random_bytes: RandomBytes = os.urandom,
        socket_directory: str = UAPI_DIRECTORY,
    ) -> None:  # fmt: skip
        self._socket = Path(socket_directory) / f"{interface}.sock"
        self._uapi = UapiClient(interface, str(self._socket), brief=program.epochs, server=lambda: self.pid)
        super().__init__(
            program, interface, self._uapi, record=record, log_line=log_line, steward=steward, clocks=clocks,
            random_bytes=random_bytes,
        )  # fmt: skip

    async def _prepare(self) -> None:
        if self._steward is None:
            check_tun_device()
        if interface_exists(self._interface):
            raise InterfaceError(
                f"interface name {self._interface} is taken; choose another name under tunnel.interface, or remove "
                f"the old one (ip link del {self._interface})"
            )
        await self._clear_socket()

    async def _clear_socket(self) -> None:
        """Remove a stale socket file; refuse where somebody answers on it."""
        try:
            mode = self._socket.lstat().st_mode
        except FileNotFoundError:
            return
        self._uapi.stranger = None
        if (server := await self._uapi.served_by()) is not None:
            raise self._taken(server)
        if not stat.S_ISSOCK(mode):
            raise InterfaceError(f"{self._socket} is in the way and is no socket; remove it")
        try:
            self._socket.unlink(missing_ok=True)
        except OSError as error:
            raise InterfaceError(f"stale {self._socket} cannot be removed: {(error.strerror or '').lower()}") from None

    async def _answers(self) -> bool:
        server = await self._uapi.served_by()
        if server is None or self.pid is None:
            return False
        if server != self.pid:  # who came between the look and the start
            raise self._taken(server)
        return True

    def _taken(self, server: int) -> InterfaceError:
        return InterfaceError(f"{self._socket} is served by another WireGuard: {taken_by(server)}")

    def _lost(self) -> str:
        if not self._socket.exists():
            return f"UAPI socket {self._socket} is gone"
        stranger = self._uapi.stranger
        return "" if stranger is None else f"UAPI socket {self._socket} is another's: {taken_by(stranger)}"

    def _failed_start(self, ending: str, said: str) -> EngineError:
        lowered = said.lower()
        if "not permitted" in lowered or "permission denied" in lowered:
            return InterfaceError(
                f"engine {self.name}: no permission to create TUN device {self._interface}; needs CAP_NET_ADMIN: run "
                f"as root, or as a service with AmbientCapabilities=CAP_NET_ADMIN (it said: {said})"
            )
        if "resource busy" in lowered:
            return InterfaceError(f"interface name {self._interface} is taken (it said: {said})")
        return super()._failed_start(ending, said)

    async def _inherited(
        self, process: SurvivingProcess | StewardProcess, public_key: bytes, listen_port: int, mark: int
    ) -> dict[bytes, Left] | str:
        client = UapiClient(self._interface, str(self._socket), self._uapi.timeout, server=lambda: process.pid)
        with contextlib.suppress(EngineError, ValueError):
            device = await client.get()
            if await client.public_key() != public_key:
                return "it has the key of another identity than this gateway has now"
            if (device.listen_port, device.fwmark) != (listen_port, mark):
                return "its port or its mark is another one"
            return {key: left_of(peer) for key, peer in device.peers.items()}
        return "it does not answer"

    async def _clear_away(self) -> None:
        # A killed engine leaves its socket file behind; after it ended nobody else's can be there but a live one's.
        if self._socket.is_socket() and not await self._uapi.answers():
            with contextlib.suppress(OSError):
                self._socket.unlink(missing_ok=True)
