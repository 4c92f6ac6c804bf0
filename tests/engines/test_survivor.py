"""An engine whose daemon was killed is taken over as it is, where it is certainly ours, and by nobody else."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from qtunnel.crypto import dh
from qtunnel.engines import survivor
from qtunnel.engines.base import Lease, PeerSpec
from qtunnel.engines.choice import open_engine
from qtunnel.engines.host import interface_exists
from qtunnel.engines.programs import find
from qtunnel.engines.uapi import UapiEngine
from qtunnel.errors import InterfaceError
from qtunnel.secret import Secret
from tests.engines.namespaces import Namespace
from tests.support.netns import gone, wait_until

pytestmark = pytest.mark.root

PEER = PeerSpec(
    dh.public_key(Secret(bytes(range(1, 33)))),
    ("127.0.0.9", 51820),
    (ip_network("10.8.0.0/16"), ip_network("fd08::/32")),
    25,
)
PRIVATE = bytes(range(32))
PUBLIC = dh.public_key(Secret(PRIVATE))
PORT, MARK = 51828, 7


def later(seconds: float) -> float:
    """By the clock of leases."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) + seconds


DAEMON = """
import asyncio, sys
from ipaddress import ip_network
from pathlib import Path
from tests.engines.test_survivor import MARK, PEER, PORT, PRIVATE
from qtunnel.engines.base import Lease
from qtunnel.engines.programs import find
from qtunnel.engines.uapi import UapiEngine
from qtunnel.secret import Secret
from tests.engines.test_survivor import later
async def main():
    engine = UapiEngine(find("qtunnel"), sys.argv[1], record=Path(sys.argv[2]), log_line=lambda line: None)
    await engine.start()
    await engine.configure_device(Secret(PRIVATE), PORT, MARK)
    await engine.set_peer(PEER)
    await engine.set_psk(PEER.public_key, Secret(bytes(32)), 7, lease=Lease(later(600), "note"))
    print(engine.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
"""Starts an engine, and is then killed."""


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "engine.json"


@pytest.fixture
def left(namespace: Namespace, interface: str, record: Path) -> Iterator[int]:
    """The process of an engine whose daemon was killed."""
    command = [sys.executable, "-c", DAEMON, interface, str(record)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as daemon:
        assert daemon.stdout is not None
        pid = int(daemon.stdout.readline())
        daemon.kill()
    yield pid
    if not gone(pid):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: gone(pid), "the engine's end")


def engine_of(interface: str, record: Path | None) -> UapiEngine:
    return UapiEngine(find("qtunnel"), interface, record=record, log_line=lambda line: None)


def change(record: Path, **values: object) -> None:
    record.write_text(json.dumps({**json.loads(record.read_text()), **values}))


def test_what_is_there_is_found_and_used_as_it_is(left: int, interface: str, record: Path) -> None:
    async def main() -> None:
        engine = engine_of(interface, record)
        found = await engine.adopt(PUBLIC, PORT, MARK)
        assert found is not None
        its = found[PEER.public_key]
        assert (its.spec, its.installed, its.in_force, its.ended) == (PEER, (7, "note"), None, None)
        assert engine.replaced is None
        assert engine.pid == left
        await engine.renew(PEER.public_key, Lease(0.0))
        ended = (await engine_of(interface, record).adopt(PUBLIC, PORT, MARK) or {})[PEER.public_key]
        assert (ended.installed, ended.ended) == (None, 7)
        await engine.set_psk(PEER.public_key, Secret(bytes(32)), 8, lease=Lease(later(5), ""))
        await engine.stop()
        assert engine.pid is None
        await engine.stop()  # idempotent

    asyncio.run(main())
    assert gone(left)
    assert not interface_exists(interface)


def test_its_end_is_noticed(left: int, interface: str, record: Path) -> None:
    async def main() -> str:
        engine = engine_of(interface, record)
        assert await engine.adopt(PUBLIC, PORT, MARK) is not None
        os.kill(left, signal.SIGKILL)
        async with asyncio.timeout(20):
            return await engine.wait_dead()

    told = asyncio.run(main())
    assert "ended" in told or "is gone" in told


REPLACED = {
    "key": "it has the key of another identity than this gateway has now",
    "port": "its port or its mark is another one",
    "mark": "its port or its mark is another one",
    "generation": "it is of another version, or was started with other options",
    "command": "it is of another version, or was started with other options",
    "hangs": "it does not answer",
}
"""What is said of an engine that is ended at the start of a daemon."""


@pytest.mark.parametrize("what", REPLACED)
def test_one_of_ours_that_is_not_as_wanted_is_ended_and_gives_way(
    left: int, interface: str, record: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what in ("generation", "command"):
        change(record, **{what: "another"})
    if what == "hangs":
        os.kill(left, signal.SIGSTOP)
        monkeypatch.setattr(survivor, "TERM_BOUND", 0.2)
    public = dh.public_key(Secret(bytes(32))) if what == "key" else PUBLIC

    async def main() -> None:
        engine = engine_of(interface, record)
        engine._uapi.timeout = 1.0
        assert await engine.adopt(public, PORT + (what == "port"), MARK + (what == "mark")) is None
        assert gone(left)
        assert engine.replaced == REPLACED[what]
        await engine.start()
        assert engine.pid not in (None, left)
        await engine.stop()

    asyncio.run(main())


@pytest.mark.parametrize("name", ["wireguard-go", "kernel"])
def test_one_of_ours_ends_where_another_engine_takes_its_place(
    left: int, interface: str, record: Path, name: str
) -> None:
    engine = open_engine(name, interface, public_key=PUBLIC, record=record, log_line=lambda line: None)
    assert asyncio.run(engine.adopt(PUBLIC, PORT, MARK)) is None
    assert gone(left)
    assert not interface_exists(interface)


@pytest.mark.parametrize("what", ["pid", "began", "boot", "network", "missing", "damaged"])
def test_what_is_not_certainly_ours_is_left_alone(left: int, interface: str, record: Path, what: str) -> None:
    content = record.read_text()
    if what == "missing":
        record.unlink()
    elif what == "damaged":
        record.write_text(content[:-1])
    elif what == "pid":
        change(record, pid=os.getpid())  # a number that has become another's
    else:
        change(record, **{what: 1 if what == "began" else "another"})

    async def main() -> None:
        engine = engine_of(interface, record)
        assert await engine.adopt(PUBLIC, PORT, MARK) is None
        with pytest.raises(InterfaceError, match="is taken"):
            await engine.start()

    asyncio.run(main())
    assert not gone(left)


PIDS = (10**9, 2**31, 2**63, 10**30, -1, 0, '"x"', "Infinity", "NaN", "[]")


@pytest.mark.parametrize(
    "content",
    [
        *(f'{{"pid": {pid}, "began": 1, %s}}' for pid in PIDS),
        *(f'{{"pid": 2, "began": {began}, %s}}' for began in (10**30, "-Infinity", "null")),
        "[]",
        "[" * 100_000,
    ],
)
def test_a_record_that_nobody_of_ours_wrote_is_no_survivor(record: Path, content: str) -> None:
    making = survivor.making_of("qt0", ["x"])
    rest = ", ".join(f'"{key}": {json.dumps(value)}' for key, value in making.items())
    record.write_text(content.replace("%s", rest))
    assert survivor.find(record, making) is None


def test_an_engine_that_cannot_be_recorded_ends_with_its_daemon(
    namespace: Namespace, interface: str, tmp_path: Path
) -> None:
    record = tmp_path / "no-such-directory" / "engine.json"
    command = [sys.executable, "-c", DAEMON, interface, str(record)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as daemon:
        assert daemon.stdout is not None
        pid = int(daemon.stdout.readline())
        daemon.kill()
    wait_until(lambda: gone(pid), "its end")


def test_an_engine_of_others_is_never_taken_over(interface: str, record: Path, namespace: Namespace) -> None:
    engine = UapiEngine(find("wireguard-go"), interface, record=record, log_line=lambda line: None)

    async def main() -> None:
        await engine.start()
        assert await engine_of(interface, record).adopt(PUBLIC, PORT, MARK) is None
        await engine.stop()

    asyncio.run(main())
    assert not record.exists()
