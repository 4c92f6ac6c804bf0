"""In place of ``Interface`` where somebody else set it up: nothing of it is made, and its keys are watched."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qtunnel.engines.base import IPNetwork
from qtunnel.engines.existing import ExistingEngine
from qtunnel.engines.interface import InterfaceConfig


class OwnersInterface:
    """keys: the peers' public keys, by name."""

    looks = 1

    def __init__(
        self, config: InterfaceConfig, engine: ExistingEngine, keys: Callable[[], Mapping[str, bytes]]
    ) -> None:
        self.config, self._engine, self._keys = config, engine, keys
        self.is_up = False
        self.guards: list[IPNetwork] = []
        self.warnings: list[str] = []
        self.undone = False
        self.rekeyed: list[str] = []
        """Peers whose preshared key was changed by somebody else, at the last look."""
        self.away: list[str] = []
        """Peers that are not there, at the last look."""

    async def up(self, index: int | None = None) -> None:
        self.is_up = True

    async def missing(self) -> list[str]:
        """The peers, in words, whose preshared key is no longer ours, and those that are gone."""
        keys = self._keys()
        changed, gone = map(set, await self._engine.undone(keys.values()))
        self.rekeyed = [name for name, key in keys.items() if key in changed]
        self.undone = bool(changed)
        self.away = [name for name, key in keys.items() if key in gone]
        return [f"our preshared key of peer {name}" for name in self.rekeyed] + [f"peer {name}" for name in self.away]

    async def change(self, config: InterfaceConfig) -> None:
        self.config = config

    async def put_back(self) -> None:
        """Keys are put back by who has them."""

    async def follow_routes(self) -> None: ...

    async def down(self) -> None:
        self.is_up = False

    async def undo(self) -> None:
        self.is_up = False
