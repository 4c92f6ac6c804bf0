"""A topology for tests, and SAEs of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtunnel.drivers import etsi014
from qtunnel.simulator.topology_file import Topology
from tests.support.kme import driver_options, free_ports

METRO = """
network: metro
pki: {pki}
hardware:
  decoy: {{protocol: bb84-decoy, clock: 1 GHz, efficiency: 20%, dark: 1e-6, misalignment: 1%}}
nodes:
  alice: {{listen: "127.0.0.1:{one}", saes: [sae-alice], at: [0, 0]}}
  hub: {{at: [1, 0]}}
  spare: {{at: [1, 1]}}
  bob: {{listen: "127.0.0.1:{two}", saes: [sae-bob], quirks: [{quirks}], at: [2, 0]}}
links:
  alice-hub: {{between: [alice, hub], hardware: decoy, fibre: {{length: 25 km}}, initial: 1 Mbit}}
  hub-bob: {{between: [hub, bob], hardware: decoy, fibre: {{length: 40 km}}, initial: 1 Mbit}}
  alice-spare: {{between: [alice, spare], hardware: decoy, fibre: {{length: 60 km}}, initial: 1 Mbit}}
  spare-bob: {{between: [spare, bob], hardware: decoy, fibre: {{length: 60 km}}, initial: 1 Mbit}}
"""


def write_metro(directory: Path, pki: Path, *quirks: str) -> Path:
    with free_ports(2) as (one, two):
        pass
    path = directory / "metro.yaml"
    path.write_text(METRO.format(pki=pki, one=one, two=two, quirks=", ".join(quirks)))
    return path


def options(topology: Topology, sae: str, **more: Any) -> etsi014.Options:
    """Of the driver of an SAE, at the KME of its node."""
    node = topology.nodes[topology.homes[sae]]
    return driver_options(topology.pki, sae, f"https://{node.listen}", **more)


def hub(topology: Topology, sae: str, **more: Any) -> etsi014.Hub:
    return etsi014.Hub("metro", options(topology, sae, **more))


def source(one: etsi014.Hub, peer: str) -> etsi014.Source:
    return one.for_peer(etsi014.PeerOptions(peer_sae_id=peer))
