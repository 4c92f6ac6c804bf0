"""Which KMEs are probed, as whom: from the gateways' configurations."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qtunnel.config import Config, load_config
from qtunnel.drivers.etsi014_options import Options, PeerOptions
from qtunnel.errors import ConfigError
from qtunnel.probe.wire import Wire
from qtunnel.tls import client_context


@dataclass(frozen=True, slots=True)
class End:
    """One gateway's KME, the first of its urls."""

    options: Options

    @property
    def url(self) -> str:
        return self.options.url[0]

    def context(self) -> ssl.SSLContext:
        """Without the check of the host name, which is a check of its own, but with ``kme_id``; raises ``ConfigError``
        or ``FilePermissionError``."""
        options = self.options
        peer_id = options.kme_id_at(0) if options.checks_certificate_id else None
        return client_context(options.tls_files, check_hostname=False, peer_id=peer_id)

    def wire(self) -> Wire:
        return Wire(self.url, self.context(), self.options.timeout)


@dataclass(frozen=True, slots=True)
class Target:
    """source: its name. slave: the other gateway's KME, where its configuration is there."""

    source: str
    master: End
    slave_sae: str
    slave: End | None = None

    @property
    def master_sae(self) -> str:
        return self.master.options.sae_id


def find_target(config: Path, source: str | None, peer: str | None, peer_config: Path | None) -> Target:
    """What the configuration says; raises ``ConfigError`` where it says nothing, or several things."""
    # The gateway's own identity and what else the file names are not needed here; the certificates open by themselves.
    loaded = load_config(config, check_files=False)
    name, options = _source(config, loaded, source)
    found = [(who, sae) for who, sae in _saes(loaded, name) if peer in (None, who)]
    if peer is not None:
        loaded.peer(peer)
    if not found:
        what = f"peer {peer} has no source {name}" if peer else f"no peer has the source {name}"
        raise ConfigError(f"{config}: {what} under qkd.sources")
    if len({sae for _, sae in found}) > 1:
        raise ConfigError(f"{config}: several peers have {name}; say one with --peer: {_listed(w for w, _ in found)}")
    slave_sae = found[0][1]
    if peer_config is None:
        return Target(name, End(options), slave_sae)
    other = load_config(peer_config, check_files=False)
    its_name, its = _source(peer_config, other, name if name in other.key_sources else source)
    if its.sae_id != slave_sae:
        raise ConfigError(f"{peer_config}: its sae_id is {its.sae_id}, and {config} has peer_sae_id: {slave_sae}")
    saes = {sae for _, sae in _saes(other, its_name)}
    if options.sae_id not in saes:
        raise ConfigError(f"{peer_config}: none of its peers has peer_sae_id: {options.sae_id} at {its_name}")
    return Target(name, End(options), slave_sae, End(its))


def _source(file: Path, config: Config, name: str | None) -> tuple[str, Options]:
    ours = {name: its.options for name, its in config.key_sources.items() if isinstance(its.options, Options)}
    if not ours:
        raise ConfigError(f"{file}: no key source with driver: etsi014 in it")
    if name is None and len(ours) > 1:
        raise ConfigError(f"{file}: several key sources; say one with --source: {_listed(ours)}")
    name = next(iter(ours)) if name is None else name
    if name not in ours:
        raise ConfigError(f"{file}: no key source {name!r} with driver: etsi014; there are: {_listed(ours)}")
    return name, ours[name]


def _saes(config: Config, source: str) -> Iterator[tuple[str, str]]:
    for peer in config.peers:
        its = peer.qkd.sources.get(source)
        if isinstance(its, PeerOptions):
            yield peer.name, its.peer_sae_id


def _listed(names: Iterator[str] | dict[str, Options]) -> str:
    return ", ".join(sorted(names))
