"""The certificates of all KMEs and SAEs of a topology."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from qtunnel.errors import ConfigError
from qtunnel.kme.pki import KmeName, create_pki
from qtunnel.simulator.topology_file import Topology


def make_pki(topology: Topology, now: datetime, directory: Path | None = None) -> list[Path]:
    """Write them to the topology's ``pki``, or to another directory; the files made. Overwrites nothing.

    KMEs are certified for the address that they listen at as well. Raises ``ConfigError``.
    """
    return create_pki(directory or topology.pki, now=now, kmes=_kmes(topology), saes=list(topology.homes))


def check_pki(topology: Topology, file: Path) -> None:
    """Whether the KMEs of the topology, which ``file`` holds, have their certificates; raises ``ConfigError``."""
    ca = topology.pki / "ca.pem"
    if not ca.exists():
        how = f"start with --make-pki, or make them: qtunnel kme pki {topology.pki} --topology {file}"
        raise ConfigError(f"{ca}: no such file; the KMEs need certificates: {how}")
    for kme in _kmes(topology):
        pair = [topology.pki / f"{kme.kme_id}{ending}" for ending in (".pem", ".key")]
        missing = [path for path in pair if not path.exists()]
        if missing:
            addresses = f"={','.join(kme.addresses)}" if kme.addresses else ""
            how = f"sign with the same CA: qtunnel kme pki {topology.pki} --add --kme {kme.kme_id}{addresses}"
            if len(missing) == 1:  # nothing is ever overwritten
                (other,) = set(pair) - set(missing)
                how = f"remove {other}, and {how}"
            raise ConfigError(f"{missing[0]}: no such file; {how}")


def _kmes(topology: Topology) -> list[KmeName]:
    return [
        KmeName(topology.kme_id(name), tuple({str(place.address): 0 for place in (node.listen, node.etsi004) if place}))
        for name, node in topology.nodes.items()
        if node.listen is not None or node.etsi004 is not None
    ]
