"""What becomes of a keeper's interface where the keeper alone is killed; with the kernel's WireGuard: tests/kernel.

The keeper here is the real one, but for the kind of interface that it makes, which every kernel has.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from qtunnel.engines import keeper
from qtunnel.engines.host import index_of
from qtunnel.engines.interface import Interface, InterfaceConfig
from qtunnel.engines.kernel import KernelEngine
from qtunnel.engines.programs import find
from qtunnel.errors import InterfaceError
from tests.engines.namespaces import Namespace, run

pytestmark = pytest.mark.root

KEEPER = "import sys; from qtunnel.engines import keeper; keeper.KIND = 'veth'; keeper.main(sys.argv[1], None)"


@pytest.fixture
def engine(namespace: Namespace, interface: str) -> KernelEngine:
    program = replace(find("kernel"), arguments=lambda name: ["-c", KEEPER, name])
    return KernelEngine(program, interface, log_line=print)


def test_a_link_in_the_place_of_its_lock_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's user may write to that directory, and root's keeper would make any file for it."""
    monkeypatch.setattr(keeper, "UAPI_DIRECTORY", str(tmp_path))
    target = tmp_path / "nologin"
    (tmp_path / "qt0.keeper").symlink_to(target)
    with pytest.raises(keeper._RefusedError, match="symbolic links"), keeper._alone("qt0"):
        pass
    assert not target.exists()


def kill_the_keeper(engine: KernelEngine) -> None:
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)


def stranger(engine: KernelEngine) -> int:
    """Another interface in the place of the engine's, of the same name; its number."""
    run("ip", "link", "del", engine.interface)
    run("ip", "link", "add", engine.interface, "type", "veth", "peer", "name", "stranger")
    found = index_of(engine.interface)
    assert found is not None
    assert found != engine.index
    return found


def test_what_a_killed_keeper_left_is_taken_away_and_made_anew(engine: KernelEngine) -> None:
    async def main() -> None:
        await engine.start()
        first = engine.index
        assert first == index_of(engine.interface)
        kill_the_keeper(engine)
        assert "was killed by SIGKILL" in await asyncio.wait_for(engine.wait_dead(), 30)
        assert index_of(engine.interface) == first, "nobody took it away yet"
        await engine.stop()
        assert index_of(engine.interface) is None
        await engine.start()
        assert index_of(engine.interface) == engine.index != first
        await engine.stop()
        assert index_of(engine.interface) is None

    asyncio.run(main())


@pytest.mark.parametrize("killed", [False, True])
def test_another_interface_of_the_name_is_seen_and_left_alone(engine: KernelEngine, killed: bool) -> None:
    async def main() -> None:
        await engine.start()
        dead = asyncio.create_task(engine.wait_dead())
        there = stranger(engine)
        if killed:
            kill_the_keeper(engine)
        reason = await asyncio.wait_for(dead, 30)
        assert killed or "another one has its name" in reason
        with pytest.raises(InterfaceError, match="does not exist"):
            await Interface(InterfaceConfig(engine.interface, ())).up(engine.index)
        await engine.stop()
        assert index_of(engine.interface) == there

    asyncio.run(main())
