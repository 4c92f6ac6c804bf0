"""Pairs of gateways, ``qtunnel run``, each with keys of other drivers: a hub, which is one end of all of them, and one
gateway for each pair at the other site.

The sites have a KME each; the other key servers of both are at 10.99.0.1 (tests/support/key_servers.py), pads and a
vendor's device are files. Every pair has a tunnel with echoes through it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtunnel.control.client import ControlClient
from qtunnel.control.messages import Status
from qtunnel.drivers.file_format import PadInfo
from qtunnel.drivers.file_make import make_pad
from tests.daemon.kmes import URL, Kmes
from tests.daemon.lab import Gateway
from tests.support import key_servers
from tests.support.echoes import Echoes
from tests.support.netns import Namespace, stop, two_hosts, wait_until
from tests.support.sandbox import processes
from tests.support.vendor import make_device

ROOT = Path(__file__).parents[2]
PLACE = {"alice": "10.99.0.1", "bob": "10.99.0.2"}
OTHER = {"alice": "bob", "bob": "alice"}
PAD = 64 * 1024
"""Bytes: a thousand keys from each side, of which some 100 are used."""
ECHO = 0.05
"""Seconds between echoes: some 20 for every epoch of each pair."""
BEGIN = 240.0
"""Seconds for all daemons to start, and for first epochs, on a machine that does other things too."""
PATIENT = {"etsi014": "20s", "etsi004": "20s", "skip": "20s", "mqtt": "20s", "exec": "14s"}
"""Timeouts: nothing here waits for them, and a busy machine takes seconds for a TLS handshake."""


def source(directory: Path, driver: str, site: str, sae: str) -> dict[str, Any]:
    """What stands under ``key_sources`` of a gateway at that site, whom the key servers know as ``sae``."""
    here = PLACE["alice"]
    tls = {"ca": "pki/ca.pem", "certificate": f"pki/{sae}.pem", "private_key": f"pki/{sae}.key"}
    call = [str(directory / "getkey"), str(directory / "device"), "{call}", "{peer}", "{size_bits}", "{key_id}"]
    options: dict[str, dict[str, Any]] = {
        "etsi014": {"url": URL, "sae_id": sae, **tls},
        "etsi004": {"url": f"tls://{here}:{key_servers.ETSI004[site]}", **tls},
        "skip": {"url": f"https://{here}:{key_servers.SKIP[site]}", **tls},
        "mqtt": {
            "url": f"mqtts://{here}:{key_servers.MQTT[site]}", "device": key_servers.KMES[site], "client_id": sae, **tls
        },
        "file": {"ledger": f"ledger-{sae}"},
        "exec": {"command": call},
    }  # fmt: skip
    patience = {"timeout": PATIENT[driver]} if driver in PATIENT else {}
    return {"driver": driver, **options[driver], **patience}


def towards(driver: str, site: str, own: str, peer: str, pad: str) -> dict[str, Any]:
    """What stands under a peer's ``qkd.sources``. own, peer: whom the key servers know the two ends as."""
    options: dict[str, dict[str, Any]] = {
        "etsi014": {"peer_sae_id": peer},
        "etsi004": {"source": f"qkd://{own}", "destination": f"qkd://{peer}"},
        "skip": {"remote_system_id": key_servers.SYSTEM_IDS[OTHER[site]]},
        "mqtt": {"peer": peer},
        "file": {"pad": f"{pad}-{site}.pad", "side": "a" if site == "alice" else "b"},
        "exec": {"peer": peer},
    }
    return options[driver]


class DriverPair:
    """The hub and a gateway of this pair's own, with a source of each of ``drivers``, by the driver's name. number: of
    all pairs, from 1 on."""

    def __init__(self, hub: Gateway, host: Namespace, number: int, drivers: Sequence[str]) -> None:
        self.name, self.drivers, self.sae = "-".join(drivers), tuple(drivers), f"sae-{'-'.join(drivers)}"
        self.hub, offset, directory = hub, 10 * number, hub.directory
        self._inner = {"alice": f"10.77.{number}.1", "bob": f"10.77.{number}.2"}
        self.own = Gateway(directory, host, self.name, self._inner["bob"], offset)
        self.ends = {"alice": (hub, self.name), "bob": (self.own, "alice")}
        """By site: the gateway, and what it calls its peer."""
        self.echoes: Echoes | None = None
        self.began: dict[str, int] = {}
        """By site: how long the log was then."""
        self.pad: PadInfo | None = None
        if "file" in drivers:
            pads = [directory / f"{self.name}-{site}.pad" for site in PLACE]
            self.pad = make_pad(pads[0], PAD, PAD // 2, os.urandom)
            shutil.copy(pads[0], pads[1])
        hub.config["tunnel"]["addresses"].append(f"{self._inner['alice']}/24")
        for site, (gateway, peer) in self.ends.items():
            own, theirs = ("sae-alice", self.sae) if site == "alice" else (self.sae, "sae-alice")
            sources = {driver: towards(driver, site, own, theirs, self.name) for driver in drivers}
            for driver in drivers:
                gateway.config.setdefault("key_sources", {})[driver] = source(directory, driver, site, own)
            there = OTHER[site]
            gateway.peer(peer, self._inner[there], PLACE[there], {"sources": sources, "min_sources": len(drivers)})
            ports = {"handshake_port": 51821 + offset, "wireguard_port": 51820 + offset} if site == "alice" else {}
            gateway.config["peers"][-1] |= {"rekey": {"interval": "1s", "jitter": "0%"}, **ports}

    def status(self, site: str) -> Status:
        """Of the gateway at that site, with this pair's peer alone."""
        gateway, peer = self.ends[site]
        return ControlClient(gateway.socket, BEGIN).status(peer)

    def concerns(self, line: Line) -> bool:
        """Whether what a daemon told may be of this pair; the hub has others, too."""
        peer, name = line.fields.get("peer"), line.fields.get("source")
        return peer in (None, "alice", self.name) and (name is None or name in self.drivers)

    def begin(self) -> None:
        """Echoes, as soon as both ends are protected."""
        wait_until(lambda: all(self.status(site).peers[0].protected for site in PLACE), f"{self.name}: safe", BEGIN)
        self.echoes = Echoes(self.own.namespace, self._inner["alice"], ECHO)
        self.began = {site: len(gateway.log) for site, (gateway, _) in self.ends.items()}


@dataclass(frozen=True, slots=True)
class Line:
    """One of a daemon's log. at: where it begins. fields: without level and event."""

    at: int
    level: str
    event: str
    fields: dict[str, str]

    @classmethod
    def parse(cls, at: int, text: str) -> Line:
        fields = dict(word.partition("=")[::2] for word in shlex.split(text))
        return cls(at, fields.pop("level"), fields.pop("event"), fields)

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:
        """Source and key_ID of each QKD key of an epoch."""
        return tuple(zip(self.fields["sources"].split(","), self.fields["key_ids"].split(","), strict=True))


def lines(gateway: Gateway) -> list[Line]:
    """What the daemon has told so far."""
    found, at = [], 0
    for text in gateway.log.splitlines(keepends=True):
        found.append(Line.parse(at, text))
        at += len(text)
    return found


@contextmanager
def driver_pairs(directory: Path, mixes: Sequence[Sequence[str]]) -> Iterator[list[DriverPair]]:
    """A pair for each of ``mixes``, all of them running and with echoes."""
    make_device(directory)
    with two_hosts() as hosts:
        hub = Gateway(directory, hosts[0], "alice", "10.77.0.1")
        hub.config["tunnel"]["addresses"].clear()  # one for each pair comes
        pairs = [DriverPair(hub, hosts[1], number, drivers) for number, drivers in enumerate(mixes, 1)]
        saes = [pair.sae for pair in pairs]
        Kmes(directory, hosts, saes=((), saes), addresses=(PLACE["alice"],)).start()
        servers = hosts[0].start(
            sys.executable, "-m", "tests.support.key_servers", str(directory), PLACE["alice"], "sae-alice", *saes,
            stdin=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert servers.stdout is not None
        said = servers.stdout.readline()
        assert said == "ready\n", said + stop(servers)
        gateways = [hub, *(pair.own for pair in pairs)]
        try:
            for gateway in gateways:
                gateway.start()
            for gateway in gateways:
                gateway.ready(BEGIN)
            for pair in pairs:
                pair.begin()
            yield pairs
        finally:
            for gateway in gateways:
                if gateway.process is not None:
                    gateway.process.terminate()
            for gateway in gateways:
                if gateway.process is not None:
                    stop(gateway.process)
            servers.communicate(timeout=30)  # they end with their input
    left = [pid for pid in processes() if names(pid, directory)]
    assert not left, f"left behind: {left}"


def names(pid: int, directory: Path) -> bool:
    """Whether a process has that directory in its command line."""
    with contextlib.suppress(OSError):
        return bytes(directory) in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
