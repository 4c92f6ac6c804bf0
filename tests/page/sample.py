"""A gateway to look at: its status, an hour of its past, and a server of the page around both.

``python -m tests.page.sample`` serves it, for who works on the page; with a directory, it makes the pictures in docs.
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qtunnel.control.messages import (
    KeySourceStatus,
    NodeStatus,
    PeerStatus,
    PlainPeerStatus,
    ReservoirStatus,
    Status,
    UsedKey,
)
from qtunnel.daemon.journal import LEVELS
from qtunnel.events import Event as Told
from qtunnel.events import EventStream
from qtunnel.page.server import Facts, PageServer
from qtunnel.secret import Secret

EAST = "KME https://10.2.0.1:8443"
KEY_ID = "2f6c1a52-6a0f-4b2e-9d53-6c1f4f0e8f11"


def peer(name: str, **more: Any) -> PeerStatus:
    """Protected, unless it is said otherwise."""
    usual: dict[str, Any] = {
        "protected": True, "protection": "qkd+pqc", "policy": "required", "peer_policy": "required",
        "epoch_installed": 57, "epoch_in_force": 57, "sources": ["x25519", "ml-kem-1024", "etsi014:metro"],
        "key_ids": [UsedKey(source="metro", key_id=KEY_ID)], "chained": True, "age_s": 42.0, "max_age_s": 600.0,
        "next_rekey_s": 78.0, "expires_in_s": 558.0, "role": "initiator", "endpoint": "198.51.100.2:51820",
        "last_handshake_age_s": 40.0, "rx_bytes": 18_400_000_000, "tx_bytes": 3_100_000_000, "rekeys_ok": 57,
        "rekeys_failed": 0, "interval_s": 120.0, "interval_usual_s": 120.0,
    }  # fmt: skip
    return PeerStatus(name=name, **{**usual, **more})


def status(**more: Any) -> Status:
    """A gateway with something of everything."""
    node = NodeStatus(
        name="alice", fingerprint="3fd1 9c20", version="0.1.0", uptime=93_000.0, engine="qtunnel", engine_pid=7,
        interface="qt0", state="up",
    )  # fmt: skip
    usual: dict[str, Any] = {
        "node": node,
        "peers": [
            peer("bob", reservoir=[ReservoirStatus(source="metro", keys=58, depth=64, held=60)]),
            peer("carol", policy="preferred", protection="pqc-only", sources=["x25519", "ml-kem-1024"], key_ids=[],
                 epoch_in_force=412, epoch_installed=412, age_s=95.0, last_error="metro: no key for sae-carol",
                 last_error_age_s=95.0, endpoint="203.0.113.9:51820", rekeys_failed=3),
            peer("dresden", protected=False, protection="blocked", epoch_in_force=None, sources=[], key_ids=[],
                 age_s=None, rx_bytes=0, tx_bytes=0, last_error="source east: KME https://10.2.0.1:8443 is unreachable",
                 last_error_age_s=21.0, endpoint=None, expires_in_s=None, rekeys_failed=9),
        ],
        "plain_peers": [PlainPeerStatus(name="phone", rx_bytes=120_000, tx_bytes=900_000, last_handshake_age_s=30.0)],
        "key_sources": [
            KeySourceStatus(name="metro", description="ETSI GS QKD 014, https://10.1.0.1:8443", healthy=True,
                            state="well", stored_keys=7312, max_keys=10_000, qber=0.0214, qber_limit=0.11,
                            key_rate=4210.0, keys_used_per_day=720.0, days_left=10.2, keys_taken=412, keys_lost=1),
            KeySourceStatus(name="east", description="ETSI GS QKD 014, https://10.2.0.1:8443", healthy=False,
                            state="resting", last_error=f"{EAST} is unreachable: connection refused",
                            stored_keys=12, max_keys=10_000, qber=0.09, qber_limit=0.11, keys_taken=88, keys_lost=0),
        ],
    }  # fmt: skip
    return Status(**{**usual, **more})


def well() -> Status:
    """The same gateway on a good day."""
    east = KeySourceStatus(
        name="east", description="ETSI GS QKD 014, https://10.2.0.1:8443", healthy=True, state="well",
        stored_keys=4010, max_keys=10_000, qber=0.034, qber_limit=0.11, key_rate=1830.0,
        days_left=5.5, keys_taken=88, keys_lost=0,
    )  # fmt: skip
    its = status()
    others = [peer("carol", epoch_in_force=412, age_s=95.0), peer("dresden", epoch_in_force=88, age_s=12.0)]
    return status(
        peers=[its.peers[0], *others],
        key_sources=[its.key_sources[0], east], plain_peers=[],
    )  # fmt: skip


def _rekeys(begin: float, good: bool) -> Iterator[Told]:
    """One in two minutes with each peer; carol's without QKD in the end, dresden's in vain."""
    for number in range(29):
        for offset, (name, late) in enumerate({"bob": 99, "carol": 21, "dresden": 23}.items()):
            when = begin + 40 + 120 * number + 7 * offset
            if not good and name == "dresden" and number >= late:
                fields: dict[str, Any] = {
                    "role": "initiator",
                    "reason": "sources",
                    "detail": f"source east: {EAST} is unreachable",
                }
                yield Told(when, "rekey.failed", name, fields)
                continue
            with_qkd = ("metro",) if good or number < late else ()
            took = 0.031 + offset / 100
            yield Told(when, "rekey.done", name, {"epoch": 29 + number, "sources": with_qkd, "seconds": took})


class Site:
    """A server of the page in a thread with a loop of its own."""

    def __init__(
        self, found: Callable[[], Status], port: int = 0, hosts: tuple[str, ...] = (), token: str | None = None
    ) -> None:
        self.status, self.hang = found, False
        self.events = EventStream()
        self._port, self._hosts, self._token = port, hosts, token
        self.server: PageServer

    async def _status(self) -> Status:
        while self.hang:  # noqa: ASYNC110  # set from another thread
            await asyncio.sleep(0.05)
        return self.status()

    def hour(self) -> None:
        """A good hour, or one in which carol lost QKD and dresden everything."""
        begin, good = time.time() - 3500, self.status().protected
        told = list(_rekeys(begin, good))
        told += [
            Told(begin, "protection.in-force", name, {"before": "starting", "after": "qkd+pqc"})
            for name in ("bob", "carol", "dresden")
        ]
        bad: list[tuple[float, str, str | None, dict[str, Any]]] = [
            (21.1, "protection.in-force", "carol", {"before": "qkd+pqc", "after": "pqc-only"}),
            (23.0, "source.down", None, {"source": "east", "detail": f"{EAST} is unreachable"}),
            (27.3, "peer.blocked", "dresden", {"detail": "epoch 51 is older than max_age"}),
            (27.31, "protection.in-force", "dresden", {"before": "qkd+pqc", "after": "blocked"}),
        ]
        for number, kind, name, fields in [] if good else bad:
            told.append(Told(begin + 40 + number * 120, kind, name, fields))
        past = self.server._past
        for its in sorted(told, key=lambda its: its.time):
            past.happened(its)
        metro, east = well().key_sources
        for step in range(350):
            wave = math.sin(step / 23) + math.sin(step / 7) / 3
            one = metro.model_copy(update={"qber": 0.021 + wave * 0.004, "key_rate": 4200 + wave * 300})
            other = east.model_copy(
                update={"healthy": good or step < 280, "qber": 0.034 - wave * 0.003, "key_rate": 1800.0 + wave * 90}
            )
            past.sample(begin + step * 10, [one, other])

    async def start(self) -> None:
        facts = Facts(
            self._status, lambda: self.status().key_sources, self.events, lambda kind: LEVELS.get(kind, "info")
        )
        token = None if self._token is None else Secret(self._token.encode())
        self.server = PageServer("127.0.0.1", self._port, facts, self._hosts, token)
        await self.server.start()
        self.following = asyncio.create_task(self.server.follow())

    async def stop(self) -> None:
        await self.server.stop()
        self.following.cancel()
        await asyncio.gather(self.following, return_exceptions=True)


@contextmanager
def site(found: Callable[[], Status] = status, **more: Any) -> Iterator[Site]:
    """Served from a thread of its own while a test looks."""
    its = Site(found, **more)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="site", daemon=True)
    thread.start()

    def do(work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(30)

    async def hour() -> None:
        its.hour()

    do(its.start())
    do(hour())
    try:
        yield its
    finally:
        do(its.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def pictures(directory: Path) -> None:
    """Those in docs."""
    from tests.support.chromium import chromium

    directory.mkdir(parents=True, exist_ok=True)
    for name, found, width, most, dark in (
        ("light", status, 1200, 1500, False), ("dark", well, 1200, 1500, True), ("phone", status, 390, 1800, False),
    ):  # fmt: skip
        with site(found) as its, chromium() as browser:
            page = browser.page()
            page.look(width, 844, dark=dark)
            page.goto(f"http://127.0.0.1:{its.server.port}/")
            page.wait("document.querySelector('.hour .strip') && document.querySelector('.line .graph')", "all of it")
            page.screenshot(directory / f"page-{name}.png", most)
            if name == "light":
                its.hang = True
                page.wait("document.querySelector('.alarm')", "it says that there is no answer")
                page.screenshot(directory / "page-silent.png", 700)


def main() -> None:
    if len(sys.argv) > 1:
        pictures(Path(sys.argv[1]))
        return
    with site(port=9587):
        print("http://127.0.0.1:9587/", file=sys.stderr)
        threading.Event().wait()


if __name__ == "__main__":
    main()
