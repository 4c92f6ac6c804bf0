"""The files of a scenario's run: identities, certificates, a configuration for each gateway, the topology."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

from qtunnel.config.types import format_duration
from qtunnel.demo.files import edit
from qtunnel.identity import Identity
from qtunnel.scenario.gallery import Scenario
from qtunnel.scenario.model import ChangeSection, TunnelSection
from qtunnel.simulator.pki import make_pki
from qtunnel.simulator.topology_file import load_topology

SOURCES = {"etsi014": "qkd", "etsi004": "streams"}
"""The key source's name by its driver, the same at all gateways."""

DURATIONS = {"interval", "min_interval", "max_interval", "max_age"}
PERCENTAGES = {"jitter"}


class Addresses:
    """Of a scenario's sites, by their numbers from 1 on."""

    def __init__(self, sites: Mapping[str, object]) -> None:
        self._number = {name: number for number, name in enumerate(sites, 1)}

    def number(self, site: str) -> int:
        return self._number[site]

    def underlay(self, site: str, *, moved: bool = False) -> str:
        """In the site's access network; after a move in another one."""
        return f"10.99.{self.number(site) + (100 if moved else 0)}.2"

    def gateway(self, site: str, *, moved: bool = False) -> str:
        """The provider's router there."""
        return f"10.99.{self.number(site) + (100 if moved else 0)}.1"

    def tunnel(self, site: str) -> str:
        return f"10.77.0.{self.number(site)}"

    def kme(self, site: str) -> str:
        """The KME of its node, in a network that only the two are in."""
        return f"10.98.{self.number(site)}.1"

    def sae(self, site: str) -> str:
        return f"10.98.{self.number(site)}.2"


def written(section: BaseModel) -> dict[str, Any]:
    """What was set in a section, in the notation of a configuration file."""
    plain: dict[str, Any] = {}
    for name in section.model_fields_set:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            value = written(value)
        elif name in DURATIONS and isinstance(value, int | float):
            value = format_duration(value)
        elif name in PERCENTAGES:
            value = f"{value * 100:g}%"
        elif name == "bytes":
            value = f"{value}B"
        plain[name] = value
    return plain


class GatewayFiles:
    """Writes the gateways' files, at the start and when tunnels change."""

    def __init__(self, scenario: Scenario, directory: Path) -> None:
        self.scenario = scenario
        self.directory = directory
        self.addresses = Addresses(scenario.file.sites)
        self.tunnels = dict(scenario.file.tunnels)
        self.open = {name for name, tunnel in self.tunnels.items() if not tunnel.later}

    def write_all(self) -> None:
        """In an existing private directory."""
        for site in self.scenario.file.sites:
            identity = Identity.create(os.urandom)
            identity.save(self.directory / f"{site}.identity")
            (self.directory / f"{site}.public").write_text(identity.public.to_text())
        edit(self.scenario.network_file, self.directory / "network.yaml", self._listen)
        make_pki(load_topology(self.directory / "network.yaml"), datetime.now(UTC))
        for site in self.scenario.file.sites:
            self.write(site)

    def _listen(self, tree: Any) -> None:
        """Where the KMEs are reached from their sites; a node without a site here needs nobody to listen."""
        tree["pki"] = "pki"
        at = {self.scenario.node_of(site): site for site in self.scenario.file.sites}
        for node, section in tree["nodes"].items():
            if section is None:
                continue
            if node in at:
                section["listen"] = f"{self.addresses.kme(at[node])}:8443"
                if "etsi004" in section:
                    section["etsi004"] = f"{self.addresses.kme(at[node])}:25575"
            else:
                for name in ("listen", "etsi004", "saes"):
                    section.pop(name, None)

    def change(self, change: ChangeSection) -> tuple[str, str]:
        """Set a tunnel's settings; its two ends, whose files are written."""
        given = {name: getattr(change, name) for name in ("rekey", "qkd", "kem") if getattr(change, name) is not None}
        self.tunnels[change.tunnel] = self.tunnels[change.tunnel].model_copy(update=given)
        return self._rewrite(change.tunnel)

    def set_open(self, tunnel: str, *, on: bool) -> tuple[str, str]:
        """Whether there is that tunnel; its two ends, whose files are written."""
        (self.open.add if on else self.open.discard)(tunnel)
        return self._rewrite(tunnel)

    def _rewrite(self, tunnel: str) -> tuple[str, str]:
        one, other = self.tunnels[tunnel].between
        self.write(one)
        self.write(other)
        return one, other

    def has_peers(self, site: str) -> bool:
        return bool(self._tunnels_of(site))

    def _tunnels_of(self, site: str) -> list[TunnelSection]:
        return [self.tunnels[name] for name in self.tunnels if name in self.open and site in self.tunnels[name].between]

    def write(self, site: str) -> None:
        """The gateway's configuration with the tunnels that are open; none without one, as a gateway needs a peer."""
        if not self.has_peers(site):
            return
        drivers = {tunnel.driver for tunnel in self._tunnels_of(site)}
        tree = {
            "node": {
                "name": site,
                "identity": f"{site}.identity",
                "listen": ["0.0.0.0:51821"],
                "state_dir": f"state-{site}",
                "control_socket": f"{site}.sock",
            },
            "tunnel": {"interface": "qt0", "addresses": [f"{self.addresses.tunnel(site)}/24"]},
            "key_sources": {SOURCES[driver]: self._source(site, driver) for driver in sorted(drivers)},
            "peers": [self._peer(site, tunnel) for tunnel in self._tunnels_of(site)],
        }
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = False
        target = self.directory / f"{site}.yaml"
        fresh = target.with_suffix(".new")
        with fresh.open("w") as file:
            yaml.dump(tree, file)
        fresh.replace(target)

    def _source(self, site: str, driver: str) -> dict[str, Any]:
        section, address = self.scenario.file.sites[site], self.addresses.kme(site)
        own = {"url": f"tls://{address}:25575"}
        if driver == "etsi014":
            own = {"url": f"https://{address}:8443", "sae_id": section.sae, **section.source}
        files = {"certificate": f"pki/{section.sae}.pem", "private_key": f"pki/{section.sae}.key"}
        return {"driver": driver, "ca": "pki/ca.pem", **files, **own}

    def _peer(self, site: str, tunnel: TunnelSection) -> dict[str, Any]:
        other = next(end for end in tunnel.between if end != site)
        qkd = written(tunnel.qkd)
        if qkd.get("policy") != "off":
            ours, theirs = (self.scenario.file.sites[one].sae for one in (site, other))
            terms = {"peer_sae_id": theirs}
            if tunnel.driver == "etsi004":
                terms = {"source": f"qkd://{ours}", "destination": f"qkd://{theirs}"}
            qkd["sources"] = {SOURCES[tunnel.driver]: terms}
        return {
            "name": other,
            "public": f"{other}.public",
            "endpoint": self.addresses.underlay(other),
            "allowed_ips": [f"{self.addresses.tunnel(other)}/32"],
            "rekey": written(tunnel.rekey),
            "kem": tunnel.kem[0] if len(tunnel.kem) == 1 else list(tunnel.kem),
            "qkd": qkd,
        }
