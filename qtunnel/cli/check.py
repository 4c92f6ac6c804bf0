"""``qtunnel check``: says what is wrong with a configuration, or what it means."""

from __future__ import annotations

from pathlib import Path

import click

from qtunnel.cli.machine import check_machine, doubts
from qtunnel.config import Config, PeerConfig, PlainPeerConfig, RekeyConfig, load_config, warnings
from qtunnel.config.amounts import format_amount
from qtunnel.config.types import format_duration
from qtunnel.errors import ConfigError
from qtunnel.identity import Identity, PublicIdentity


@click.command()
@click.argument("file", type=click.Path(readable=False, path_type=Path))
def check(file: Path) -> None:
    """Check the configuration FILE and everything it names.

    Prints every error with its place (exit code 2), or a summary and warnings (exit code 0).
    """
    try:
        config = load_config(file, checks=[check_machine])
    except ConfigError as error:
        lines = str(error).splitlines()
        click.echo(str(error), err=True)
        if len(lines) > 1:
            click.echo(f"qtunnel: {len(lines)} errors in {file}", err=True)
        raise click.exceptions.Exit(error.exit_code) from None
    click.echo("\n".join(summary(config)))
    for line in [*warnings(config), *doubts(config)]:
        click.echo(f"warning: {line}")


def summary(config: Config) -> list[str]:
    """A configuration in a few lines for people."""
    node, tunnel = config.node, config.tunnel
    addresses = ", ".join(str(address) for address in tunnel.addresses)
    listens = ", ".join(str(address) for address in node.listen)
    interface = (
        f"tunnel {tunnel.interface}: {addresses}, MTU {tunnel.mtu}, engine {tunnel.engine}, routes {tunnel.routes}"
    )
    if tunnel.manage == "psk":
        interface = f"tunnel {tunnel.interface}: made by somebody else, preshared keys alone"
    lines = [
        f"node {node.name}: fingerprint {Identity.load(node.identity).public.fingerprint}",
        f"  handshake on {listens}" + (f", WireGuard on port {node.wireguard_port}" if tunnel.manage == "all" else ""),
        f"  state in {node.state_dir}, control socket {node.control_socket}",
        interface,
    ]
    for name, source in config.key_sources.items():
        lines.append(f"key source {name}: {source.driver}")
    for peer in config.peers:
        lines += _peer(peer)
    for plain in config.plain_peers:
        lines += _plain_peer(plain)
    return [*lines, *_accounts(config)]


def _accounts(config: Config) -> list[str]:
    """What it gives account of itself by."""
    lines = []
    if config.audit is not None:
        rule = {"stop": "the daemon ends where it cannot be written", "go-on": "an alarm where it cannot be written"}
        lines.append(f"audit log {config.audit.path}: {rule[config.audit.on_failure]}")
    if config.metrics is not None:
        lines.append(f"metrics on {config.metrics.listen}")
    if config.page is not None:
        lines.append(f"page at http://{config.page.listen}/, {'with' if config.page.token_file else 'without'} a token")
    if config.mqtt is not None:
        lines.append(f"reports to {config.mqtt.broker}, under {config.mqtt.prefix}/{config.node.name}")
    return lines


def _plain_peer(peer: PlainPeerConfig) -> list[str]:
    where = f"{peer.endpoint}, port {peer.wireguard_port}" if peer.endpoint else "no endpoint, the peer has to start"
    allowed = ", ".join(str(network) for network in peer.allowed_ips)
    key = "with a preshared key" if peer.preshared_key else "without a preshared key"
    return [
        f"plain peer {peer.name}: WireGuard only, without qtunnel's protection",
        f"  {where}; allowed IPs {allowed}; {key}",
    ]


def _peer(peer: PeerConfig) -> list[str]:
    qkd, rekey = peer.qkd, peer.rekey
    endpoint = f"{peer.endpoint} (handshake {peer.handshake_port}, WireGuard {peer.wireguard_port})"
    where = endpoint if peer.endpoint else "no endpoint, the peer has to start"
    if qkd.policy == "off":
        protection = "off"
    else:
        sources = ", ".join(qkd.sources)
        protection = f"{qkd.policy}, at least {qkd.min_sources} of {sources}"
    allowed = ", ".join(str(network) for network in peer.allowed_ips) or "as its interface has them"
    return [
        f"peer {peer.name}: fingerprint {PublicIdentity.load(peer.public).fingerprint}",
        f"  {where}; allowed IPs {allowed}",
        f"  x25519 + {' + '.join(peer.kem)} + QKD ({protection}), {peer.cipher}"
        + (f", {peer.combiner}" if peer.combiner != "hkdf" else "")
        + (", pairing secret" if peer.pairing_secret else ""),
        f"  rekey every {format_duration(rekey.interval)} ± {rekey.jitter:.0%}{_further(rekey)}; "
        f"a key older than {format_duration(qkd.max_age)}: {qkd.on_expiry}",
    ]


def _further(rekey: RekeyConfig) -> str:
    """What else moves the next rekey, besides the interval."""
    shortest = rekey.interval if rekey.min_interval is None else rekey.min_interval
    longest = rekey.interval if rekey.max_interval is None else rekey.max_interval
    words = ""
    if rekey.moves:
        words += f" ({format_duration(shortest)} to {format_duration(longest)}, as keys abound or run low)"
    limits = [f"{format_amount(rekey.bytes)}B"] if rekey.bytes is not None else []
    limits += [f"{format_amount(rekey.packets)} packets"] if rekey.packets is not None else []
    return words + (f" or {' or '.join(limits)}" if limits else "")
