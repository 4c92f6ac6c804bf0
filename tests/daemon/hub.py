"""A hub with two branches, all of them ``qtunnel run``, whose hub's configuration a test writes anew."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qtunnel.control.client import ControlClient
from tests.daemon.lab import OFF, Gateway
from tests.support.netns import Namespace, join, namespaces, stop

TUNNEL = {"hub": "10.77.0.1", "b": "10.77.0.2", "c": "10.77.0.3"}
OUTER = {"b": ("eth0", "10.99.0"), "c": ("eth1", "10.98.0")}


class Hub:
    """``hub`` with both peers in its configuration; ``b`` and ``c`` are gateways that have the hub in theirs."""

    def __init__(self, directory: Path, hub: Namespace, b: Namespace, c: Namespace) -> None:
        self.directory = directory
        self.hub = Gateway(directory, hub, "hub", TUNNEL["hub"])
        self.b, self.c = (Gateway(directory, place, name, TUNNEL[name]) for name, place in (("b", b), ("c", c)))
        for other, place in ((self.b, b), (self.c, c)):
            interface, network = OUTER[other.name]
            join(hub, place, interface)
            hub.address(interface, f"{network}.1/24")
            place.address(interface, f"{network}.2/24")
            self.hub.peer(other.name, TUNNEL[other.name], f"{network}.2", dict(OFF))
            other.peer("hub", TUNNEL["hub"], f"{network}.1", dict(OFF))

    @property
    def config(self) -> dict[str, Any]:
        """The hub's, to be changed and then reloaded."""
        return self.hub.config

    def peer(self, name: str) -> dict[str, Any]:
        """The hub's entry of that peer."""
        found: dict[str, Any] = next(peer for peer in self.config["peers"] if peer["name"] == name)
        return found

    def reload(self, text: str | None = None) -> tuple[int, str, str]:
        """``qtunnel reload`` on the hub's configuration, or on another text in its place."""
        file = self.hub.file
        if text is not None:
            file.write_text(text)
        return self.hub.ask("reload")

    def reloaded(self) -> list[str]:
        """A reload that goes through: the lines that it says."""
        code, said, errors = self.reload()
        assert (code, errors) == (0, ""), said + errors
        return said.splitlines()

    def node(self) -> dict[str, Any]:
        """The hub's own part of its status."""
        found: dict[str, Any] = json.loads(ControlClient(self.hub.socket).status().model_dump_json())["node"]
        return found

    def hang_up(self) -> None:
        """SIGHUP."""
        assert self.hub.process is not None
        os.kill(self.hub.process.pid, signal.SIGHUP)

    def engine_peers(self) -> set[str]:
        """The public keys that WireGuard's own tool shows."""
        return set(self.hub.namespace.run("wg", "show", self.hub.interface, "peers").stdout.split())


@contextmanager
def running_hub(directory: Path, *, start: tuple[str, ...] = ("hub", "b", "c")) -> Iterator[Hub]:
    """All of it; the gateways in ``start`` run, and where the hub does, it is protected towards each that runs."""
    with namespaces(3) as places:
        made = Hub(directory, *places)
        everybody = {"hub": made.hub, "b": made.b, "c": made.c}
        try:
            for name in start:
                everybody[name].start()
            for name in start:
                everybody[name].ready()
            for name in start:
                if name != "hub" and "hub" in start:
                    made.hub.protected(name)
                    everybody[name].protected("hub")
            yield made
        finally:
            for gateway in everybody.values():
                if gateway.process is not None:
                    stop(gateway.process)
