"""Two gateways, ``qtunnel run``, whose keys come from real KMEs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.daemon.kmes import URL, Kmes
from tests.daemon.lab import Gateway
from tests.support.netns import Namespace, stop, two_hosts


class KeyedPair:
    """alice and bob, whose keys come from their KMEs. qkd, rekey: of both, as in the configuration; kme: further lines
    of the KMEs'; program: what runs ``qtunnel``; sections: further ones of a gateway's configuration, by its name."""

    def __init__(
        self, directory: Path, hosts: Sequence[Namespace], *, qkd: dict[str, Any], rekey: dict[str, Any],
        kme: str = "", program: tuple[str, ...] = ("-m", "qtunnel"), sections: dict[str, dict[str, Any]] | None = None,
    ) -> None:  # fmt: skip
        self.kmes = Kmes(directory, hosts, kme)
        self.kmes.start()
        self.ends: dict[str, tuple[Gateway, str]] = {}
        """Each gateway by its name, and its peer."""
        for number, (name, other) in enumerate((("alice", "bob"), ("bob", "alice")), 1):
            gateway = Gateway(directory, hosts[number - 1], name, f"10.77.0.{number}")
            gateway.source("metro", URL)
            sources = {"metro": {"peer_sae_id": f"sae-{other}"}}
            gateway.peer(other, f"10.77.0.{3 - number}", f"10.99.0.{3 - number}", {"sources": sources, **qkd})
            gateway.config["peers"][0]["rekey"] = rekey
            gateway.program = program
            gateway.config |= (sections or {}).get(name, {})
            self.ends[name] = gateway, other

    def protected(self) -> None:
        """Wait until both ends are."""
        for gateway, other in self.ends.values():
            gateway.ready().protected(other)

    def peer(self, name: str) -> dict[str, Any]:
        """The status of that end's peer."""
        gateway, other = self.ends[name]
        return gateway.status(other)[1]

    def initiator(self) -> str:
        return next((name for name in self.ends if self.peer(name)["role"] == "initiator"), "alice")


@contextmanager
def keyed_pair(directory: Path, **options: Any) -> Iterator[KeyedPair]:
    """Both, started."""
    with two_hosts() as hosts:
        pair = KeyedPair(directory, hosts, **options)
        try:
            for gateway, _ in pair.ends.values():
                gateway.start()
            yield pair
        finally:
            for gateway, _ in pair.ends.values():
                if gateway.process is not None:
                    stop(gateway.process)
