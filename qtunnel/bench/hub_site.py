"""Where a hub and its peers live: two networks joined by a link, and the files of the hub and of its KME."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from qtunnel.bench.hub_peers import FAR_SAE, HUB, HUB_SAE, INTERVAL, MAX_AGE, SOURCE, inner_of, name_of
from qtunnel.bench.link import join
from qtunnel.bench.options import HubOptions
from qtunnel.identity import Identity
from qtunnel.kme.pki import KmeName, create_pki
from qtunnel.sandbox.namespaces import Network
from qtunnel.sandbox.programs import call

INTERFACE = "qh0"
HUB_ADDRESS, FAR_ADDRESS = "10.99.0.1", "10.99.0.2"
PEERS_NETWORK = "10.98.0.0/16"
PORT = 51821
KME = "kme-hub"
KME_PORT = 8443


def make_networks() -> dict[str, Network]:
    """``hub`` and ``far``; every address of ``PEERS_NETWORK`` is far's own."""
    networks = {name: Network() for name in ("hub", "far")}
    join(networks["hub"], "wan", networks["far"], "wan")
    for name, address in (("hub", HUB_ADDRESS), ("far", FAR_ADDRESS)):
        with networks[name].entered():
            call("ip", "addr", "add", f"{address}/24", "dev", "wan")
            call("ip", "link", "set", "wan", "up")
    with networks["hub"].entered():
        call("ip", "route", "add", PEERS_NETWORK, "via", FAR_ADDRESS)
    with networks["far"].entered():
        call("ip", "route", "add", "local", PEERS_NETWORK, "dev", "lo")
    return networks


def write_files(directory: Path, options: HubOptions) -> None:
    """Identities of all, the hub's configuration, and that of one KME that serves both ends."""
    for name in (HUB, *map(name_of, range(options.peers))):
        identity = Identity.create(os.urandom)
        identity.save(directory / f"{name}.identity")
        (directory / f"{name}.public").write_text(identity.public.to_text())
    (directory / "hub.yaml").write_text(_hub(options))
    if options.qkd:
        create_pki(
            directory / "pki", now=datetime.now(UTC), kmes=[KmeName(KME, (HUB_ADDRESS,))], saes=(HUB_SAE, FAR_SAE)
        )
        (directory / "kme.yaml").write_text(_kme(options))


def _hub(options: HubOptions) -> str:
    sources = f"{{{SOURCE}: {{peer_sae_id: {FAR_SAE}}}}}"
    policy = f"policy: required, sources: {sources}" if options.qkd else "policy: off"
    peers = "".join(
        f"  - name: {name_of(number)}\n    public: {name_of(number)}.public\n    allowed_ips: [{inner_of(number)}/32]\n"
        f"    rekey: {{interval: {INTERVAL:.0f}s}}\n    qkd: {{{policy}, max_age: {MAX_AGE:.0f}s}}\n"
        for number in range(options.peers)
    )
    source = f"""key_sources:
  {SOURCE}:
    driver: etsi014
    url: https://{HUB_ADDRESS}:{KME_PORT}
    sae_id: {HUB_SAE}
    ca: pki/ca.pem
    certificate: pki/{HUB_SAE}.pem
    private_key: pki/{HUB_SAE}.key
"""
    return f"""node:
  name: {HUB}
  identity: {HUB}.identity
  listen: ["{HUB_ADDRESS}:{PORT}"]
  state_dir: {options.state_dir or "state"}
  control_socket: hub.sock
tunnel:
  interface: {INTERFACE}
  addresses: [10.77.0.1/16]
{source if options.qkd else ""}peers:
{peers}"""


def _kme(options: HubOptions) -> str:
    return f"""kme_id: {KME}
listen: {HUB_ADDRESS}:{KME_PORT}
certificate: pki/{KME}.pem
private_key: pki/{KME}.key
ca: pki/ca.pem
saes:
  - {{sae_id: {HUB_SAE}, kme: local}}
  - {{sae_id: {FAR_SAE}, kme: local}}
key: {{max_count: {max(10_000, 2 * options.peers)}}}
"""
