"""Engine and interface by the configuration: of this process, of a steward, or somebody else's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qtunnel.config import Config
from qtunnel.daemon.inheritance import ENGINE_RECORD
from qtunnel.daemon.members import interface_of
from qtunnel.daemon.transport import Marked, mark_socket
from qtunnel.engines.base import Engine
from qtunnel.engines.child import ChildEngine
from qtunnel.engines.choice import open_engine, open_existing
from qtunnel.engines.interface import Interface
from qtunnel.engines.owners import OwnersInterface
from qtunnel.engines.steward_client import StewardClient, StewardInterface
from qtunnel.errors import EngineError
from qtunnel.telemetry import log

logger = log.get("daemon.tunnel")


def open_plane(
    config: Config, public_key: bytes, steward: StewardClient | None, keys: Callable[[], Mapping[str, bytes]]
) -> tuple[Engine, Interface | OwnersInterface]:
    """Starts nothing. public_key: of this gateway's WireGuard. steward: who has them, where it is not this process.
    keys: the peers' public keys by name."""
    tunnel, plan = config.tunnel, interface_of(config)
    if tunnel.manage == "psk":
        existing = open_existing(tunnel.interface)
        return existing, OwnersInterface(plan, existing, keys)
    engine = open_engine(
        tunnel.engine, tunnel.interface, processes=tunnel.processes, public_key=public_key,
        record=config.node.state_dir / ENGINE_RECORD, steward=steward,
    )  # fmt: skip
    return engine, Interface(plan) if steward is None else StewardInterface(plan, steward)


def marked_by(steward: StewardClient | None) -> Marked:
    """Who may mark this process's sockets."""
    return mark_socket if steward is None else steward.mark


async def part(engine: Engine, steward: StewardClient) -> None:
    """The engine goes on with the steward, for a daemon that is started next; where none is, the service ends the
    steward too, which then takes away engine, interface and routes, and what stands behind these."""
    if isinstance(engine, ChildEngine):
        engine.leave()
    try:
        await steward.ask("part")
    except EngineError as error:
        logger.warning("interface.down", detail=str(error))
    await steward.close()
