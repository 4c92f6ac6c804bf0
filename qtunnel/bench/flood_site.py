"""Where a flood is measured: two gateways with a KME between them, and a third network from which the flood comes."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from qtunnel.bench.link import ADDRESS, ENDS, Link, join
from qtunnel.bench.options import LinkOptions
from qtunnel.identity import Identity
from qtunnel.kme.pki import KmeName, create_pki
from qtunnel.sandbox.namespaces import Network
from qtunnel.sandbox.programs import call

TARGET = "alice"
PORT = 51821
INNER = {"alice": "10.77.0.1", "bob": "10.77.0.2"}
INTERFACE = {"alice": "qf-alice", "bob": "qf-bob"}
KME, KME_PORT = "kme-flood", 8443
_FLOOD_SIDE = "10.97.0.1"
_OTHER = dict(zip(ENDS, reversed(ENDS), strict=True))


class Site:
    """Networks and files; the flood's network is the way to everywhere from alice, as the Internet is."""

    def __init__(self, directory: Path) -> None:
        link = Link(LinkOptions())
        self.directory, self.networks = directory, link.networks
        self.outside = Network()
        join(self.networks[TARGET], "internet", self.outside, "alice")
        with self.networks[TARGET].entered():
            call("ip", "addr", "add", "10.97.0.2/24", "dev", "internet")
            call("ip", "link", "set", "internet", "up")
            call("ip", "route", "add", "default", "via", _FLOOD_SIDE)
            for name in ("all", "internet"):
                Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")
        with self.outside.entered():
            call("ip", "addr", "add", f"{_FLOOD_SIDE}/24", "dev", "alice")
            call("ip", "link", "set", "alice", "up")
            call("ip", "route", "add", ADDRESS[TARGET], "via", "10.97.0.2")
        self.identities = {name: Identity.create(os.urandom) for name in ENDS}
        for name, identity in self.identities.items():
            identity.save(directory / f"{name}.identity")
            (directory / f"{name}.public").write_text(identity.public.to_text())
            (directory / f"{name}.yaml").write_text(_gateway(name))
        names = tuple(f"sae-{name}" for name in ENDS)
        create_pki(directory / "pki", now=datetime.now(UTC), kmes=[KmeName(KME, (ADDRESS[TARGET],))], saes=names)
        (directory / "kme.yaml").write_text(_KME)


def _gateway(name: str) -> str:
    """alice is not told where bob is: bob has to get through on its own first."""
    peer = _OTHER[name]
    endpoint = "" if name == TARGET else f'\n    endpoint: "{ADDRESS[peer]}"'
    return f"""node:
  name: {name}
  identity: {name}.identity
  listen: ["{ADDRESS[name]}:{PORT}"]
  state_dir: state-{name}
  control_socket: {name}.sock
tunnel:
  interface: {INTERFACE[name]}
  addresses: [{INNER[name]}/24]
key_sources:
  metro:
    driver: etsi014
    url: https://{ADDRESS[TARGET]}:{KME_PORT}
    sae_id: sae-{name}
    ca: pki/ca.pem
    certificate: pki/sae-{name}.pem
    private_key: pki/sae-{name}.key
peers:
  - name: {peer}
    public: {peer}.public{endpoint}
    allowed_ips: [{INNER[peer]}/32]
    rekey: {{interval: 1h}}
    qkd: {{policy: required, max_age: 3h, sources: {{metro: {{peer_sae_id: sae-{peer}}}}}}}
"""


_KME = f"""kme_id: {KME}
listen: {ADDRESS[TARGET]}:{KME_PORT}
certificate: pki/{KME}.pem
private_key: pki/{KME}.key
ca: pki/ca.pem
saes:
  - {{sae_id: sae-alice, kme: local}}
  - {{sae_id: sae-bob, kme: local}}
"""
