"""A pair of agents with the keys of one link, at real sockets, and with faults to inject."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from qtunnel_keybox.driver import Hub, Source
from qtunnel_keybox.options import Options, PeerOptions


@dataclass
class Link:
    """What both Keyboxes have in common. waiting: by key_ID, keys that one end had and the other may fetch."""

    waiting: dict[str, str] = field(default_factory=dict)
    stored: int = 1000
    number: int = 0


@dataclass
class Agent:
    """One end. fault: one of faults.py, or empty; asked: every request line, also those that were answered badly."""

    link: Link
    path: Path
    fault: str = ""
    qber: float = 2.1
    alarm: str = ""
    asked: list[str] = field(default_factory=list)
    repeated: str = field(default_factory=lambda: os.urandom(32).hex())
    arrived: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    server: asyncio.Server | None = None
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        self.server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        """As where the agent is killed: connections end, and nobody is there."""
        assert self.server is not None
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        with contextlib.suppress(OSError):
            line = (await reader.readline()).decode("ascii").rstrip("\n")
            self.asked.append(line)
            self.arrived.put_nowait(line)
            answer = self._answer(*line.split(" "))
            if self.fault in ("slow", "restart"):
                await self.release.wait()
            if self.fault == "slow-loris":
                for byte in answer:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.05)
            writer.write(answer[: len(answer) // 2] if self.fault == "cut" else answer)
            await writer.drain()
        self.writers.discard(writer)
        writer.close()

    def _answer(self, what: str, peer: str, bits: str = "", *rest: str) -> bytes:
        if what == "status":
            return f"ok {self.link.stored} {self.qber} {self.alarm}\n".encode()
        if peer == "box-denied":
            return b"no denied box-denied is of another customer\n"
        if self.fault == "huge":
            return b"key a " + b"0" * (1 << 20) + b"\n"
        if what == "fresh":
            if self.link.stored < int(rest[0]):
                return b"no empty the link has not made that many\n"
            parts = [part for _ in range(int(rest[0])) for part in self._fresh(int(bits))]
        elif any(key_id not in self.link.waiting for key_id in rest):
            return b"no unknown not here, or given already\n"
        else:
            parts = [part for key_id in rest for part in (key_id, self.link.waiting.pop(key_id))]
        return f"key {' '.join(parts)}\n".encode()

    def _fresh(self, bits: int) -> tuple[str, str]:
        self.link.number += 1
        self.link.stored -= 1
        bad = {
            "wrong-size": "0f" * (bits // 8 - 1),
            "wrong-encoding": "xy" * (bits // 8),
            "repeated-key": self.repeated,
            "all-zero": "00" * (bits // 8),
            "low-entropy": "a1b2c3d4" * (bits // 32),
        }
        key_id, key = f"k-{self.link.number}", bad.get(self.fault, os.urandom(bits // 8).hex())
        self.link.waiting[key_id] = key
        return key_id, key


@dataclass
class Site:
    """One gateway's end: agent, hub, and the source towards the other."""

    agent: Agent
    hub: Hub
    source: Source


def hub_at(path: Path, timeout: str = "5s") -> Hub:
    return Hub("vault", Options.model_validate({"socket": path, "timeout": timeout}))


@contextlib.asynccontextmanager
async def two_sites(directory: Path, timeout: str = "5s") -> AsyncIterator[tuple[Site, Site]]:
    link, sites = Link(), []
    for name, other in (("alice", "box-b"), ("bob", "box-a")):
        agent = Agent(link, directory / f"{name}.sock")
        await agent.start()
        hub = hub_at(agent.path, timeout)
        sites.append(Site(agent, hub, hub.for_peer(PeerOptions(peer=other))))
    try:
        yield sites[0], sites[1]
    finally:
        for site in sites:
            await site.hub.close()
            site.agent.release.set()
            await site.agent.stop()
