"""What a run writes down as it goes: a JSON object per line, ``at`` in seconds since its start.

``kind``: ``run`` (the first: seed and so on), ``sample`` (of a process: resident memory, descriptors, threads),
``status`` (what a daemon says of itself), ``event`` (of its log), ``asked`` (an end, for a rekey), ``fault`` (done,
with when it began, was undone, and both ends had a new epoch in common), ``key`` (given by a KME), ``gap`` (echoes
without an answer), ``end``.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from tests.faults.lab import FaultLab, Site

FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)')
EVERY = 0.02
"""Seconds between looks at the logs, by which the moment of an event may be late."""
KEPT = {
    "rekey.done": ("epoch", "role", "seconds", "key_ids"),
    "rekey.failed": ("role", "reason", "detail"),
    "epoch.in-force": ("epoch",),
    "peer.blocked": ("detail",),
    "protection.in-force": ("before", "after"),
    "source.down": ("detail",),
    "source.keys-lost": ("number", "detail"),
    "config.reloaded": (),
    "config.refused": ("detail",),
    "daemon.ready": (),
    "engine.died": ("detail",),
    "engine.restarted": (),
    "mqtt.disconnected": ("detail",),
}
"""Events of interest, and what of them."""


class Record:
    """A file of lines, and what there was to say lately."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("w")
        self._lock = threading.Lock()
        self.begin = time.monotonic()

    @property
    def now(self) -> float:
        return round(time.monotonic() - self.begin, 3)

    def write(self, kind: str, /, **fields: Any) -> None:
        line = json.dumps({"kind": kind, "at": self.now, **fields})
        with self._lock:
            self._file.write(line + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


class Tail:
    """Follows a daemon's log. in_force: the newest epoch that carries traffic; done: epochs agreed; began: the newest
    that this end began."""

    def __init__(self, site: Site, record: Record) -> None:
        self.in_force = self.began = 0
        self.done: set[int] = set()
        self._site, self._record = site, record
        self._file = (site.directory / f"{site.name}.log").open()
        self._part = ""

    def look(self) -> None:
        """At what was added."""
        for line in self._lines():
            fields = {name: value.strip('"') for name, value in FIELD.findall(line)}
            event = fields.get("event", "")
            if event == "epoch.in-force":
                self.in_force = int(fields["epoch"])
            elif event == "rekey.done":
                self.done.add(int(fields["epoch"]))
                if fields["role"] == "initiator":
                    self.began = int(fields["epoch"])
            kept = KEPT.get(event)
            if kept is None and fields.get("level") in ("warning", "error") and event != "engine.says":
                kept = ("detail", "reason")
            if kept is not None:
                told = {name: fields[name] for name in kept if name in fields}
                self._record.write("event", end=self._site.name, event=event, **told)
            elif "Traceback" in line:
                self._record.write("event", end=self._site.name, event="traceback")

    def _lines(self) -> Iterator[str]:
        while True:
            text = self._file.readline()
            if not text.endswith("\n"):
                self._part += text
                return
            yield self._part + text
            self._part = ""


class Watch:
    """Threads that follow both logs and take samples while the ``with`` block lasts."""

    def __init__(self, lab: FaultLab, record: Record, every: float) -> None:
        self.tails = {name: Tail(site, record) for name, site in lab.sites.items()}
        self._lab, self._record, self._every = lab, record, every
        self._over = threading.Event()
        self._given = dict.fromkeys(lab.sites, 0)
        self._engines: dict[str, int | None] = dict.fromkeys(lab.sites)
        self._threads = [threading.Thread(target=self._until_over, args=one) for one in
                         ((self._look, EVERY), (self._sample, every))]  # fmt: skip

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._look()

    def _until_over(self, act: Callable[[], None], pause: float) -> None:
        while not self._over.is_set():
            act()
            self._over.wait(pause)

    def _look(self) -> None:
        for name, tail in self.tails.items():
            tail.look()
            said = self._lab.sites[name].said
            for line in said[self._given[name] :]:
                if line.startswith("gave "):
                    _, call, key_id = line.split()
                    self._record.write("key", end=name, call=call, key_id=key_id)
                self._given[name] += 1

    @property
    def common(self) -> int:
        """The newest epoch that is in force at both ends; 0 while they differ."""
        here, there = (tail.in_force for tail in self.tails.values())
        return here if here == there else 0

    @property
    def began(self) -> str:
        """Who began the newest rekey."""
        return max(self.tails, key=lambda name: self.tails[name].began)

    @property
    def rekeys(self) -> int:
        """Epochs that both ends agreed on."""
        return len(self.tails["alice"].done & self.tails["bob"].done)

    def _sample(self) -> None:
        for name, site in self._lab.sites.items():
            shown = site.look()
            if shown is not None and shown.peers:  # a daemon that starts has none yet
                self._engines[name] = shown.node.engine_pid
                peer = shown.peers[0]
                self._record.write(
                    "status", end=name, protection=peer.protection, rx=peer.rx_bytes, tx=peer.tx_bytes,
                    taken=sum(source.keys_taken for source in shown.key_sources),
                    lost=sum(source.keys_lost for source in shown.key_sources),
                )  # fmt: skip
            daemon, kme = site.process, site.kme.process
            for what, pid in (
                ("daemon", daemon.pid if daemon is not None else None),
                ("engine", self._engines[name]),
                ("KME", kme.pid if kme is not None else None),
            ):
                sample = measured(pid) if pid is not None else None
                if sample is not None:
                    self._record.write("sample", end=name, process=what, pid=pid, **sample)


def measured(pid: int) -> dict[str, int] | None:
    """Resident memory in kB, descriptors and threads of a process; None where it is no more."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        found = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        return {
            "rss": int(found["VmRSS"].split()[0]),
            "fds": len(os.listdir(f"/proc/{pid}/fd")),
            "threads": int(found["Threads"]),
        }
    except (OSError, KeyError):
        return None
