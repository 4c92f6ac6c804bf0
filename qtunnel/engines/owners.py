"""In place of ``Interface`` where somebody else set it up: nothing of it is made, and its keys are watched."""

from __future__ import annotations

from collections.abc import Mapping

from qtunnel.engines.base import IPNetwork
from qtunnel.engines.existing import ExistingEngine, names_of
from qtunnel.engines.interface import InterfaceConfig


class OwnersInterface:
    """names: of the peers, by their public keys."""

    def __init__(self, config: InterfaceConfig, engine: ExistingEngine, names: Mapping[bytes, str]) -> None:
        self.config, self._engine, self._names = config, engine, dict(names)
        self.is_up = False
        self.guards: list[IPNetwork] = []
        self.warnings: list[str] = []
        self.undone = False
        self.rekeyed: list[str] = []
        """Peers whose preshared key was changed by somebody else, at the last look."""

    async def up(self) -> None:
        self.is_up = True

    async def missing(self) -> list[str]:
        """The peers, in words, whose preshared key is no longer ours, and those that are gone."""
        changed, gone = await self._engine.undone()
        self.rekeyed = [self._names[key] for key in changed if key in self._names]
        self.undone = bool(changed)
        found = [f"our preshared key of peer {names_of([key], self._names)}" for key in changed]
        return found + [f"peer {names_of([key], self._names)}" for key in gone]

    async def put_back(self) -> None:
        """Keys are put back by who has them."""

    async def follow_routes(self) -> None: ...

    async def down(self) -> None:
        self.is_up = False

    async def undo(self) -> None:
        self.is_up = False
