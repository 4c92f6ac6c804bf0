"""The certificates of all KMEs and SAEs of a topology."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from qtunnel.kme.pki import KmeName, create_pki
from qtunnel.simulator.topology_file import Topology


def make_pki(topology: Topology, now: datetime, directory: Path | None = None) -> list[Path]:
    """Write them to the topology's ``pki``, or to another directory; the files made. Overwrites nothing.

    KMEs are certified for the address that they listen at as well. Raises ``ConfigError``.
    """
    kmes = [
        KmeName(topology.kme_id(name), tuple({str(place.address): 0 for place in (node.listen, node.etsi004) if place}))
        for name, node in topology.nodes.items()
        if node.listen is not None or node.etsi004 is not None
    ]
    return create_pki(directory or topology.pki, now=now, kmes=kmes, saes=list(topology.homes))
