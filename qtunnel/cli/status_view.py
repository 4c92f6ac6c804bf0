"""The status as a table for people. Colour only repeats what the words say."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from qtunnel.control.messages import KeySourceStatus, PeerStatus, PlainPeerStatus, Status
from qtunnel.control.words import PROTECTION_WORDS, amount, due, duration, interval, next_rekey, volume


def render(report: Status) -> RenderableType:
    """Node, peers and key sources."""
    node = report.node
    engine = f"{node.engine} (pid {node.engine_pid})" if node.engine_pid else f"{node.engine} (not running)"
    parts: list[RenderableType] = [
        Text.from_markup(
            f"[bold]{escape(node.name)}[/] is {escape(node.state)}: interface {escape(node.interface)}, "
            f"engine {escape(engine)}, for {duration(node.uptime)}, qtunnel {escape(node.version)}"
        ),
        Text(f"fingerprint {node.fingerprint}"),
    ]
    if node.page is not None:
        parts.append(Text(f"page {node.page}"))
    if node.config_error is not None:
        ago = f" ({duration(node.config_error_age_s)} ago)" if node.config_error_age_s is not None else ""
        parts.append(Text(f"a newer configuration was refused, the one before is in use{ago}:", style="red"))
        parts += [Text(f"  {line}", style="red") for line in node.config_error.splitlines()]
    if node.audit_error is not None:
        parts.append(Text(f"nothing is recorded: {node.audit_error}", style="red"))
    parts += [_peer(peer) for peer in report.peers]
    if not report.peers and not report.plain_peers:
        parts.append(Text("\nno peers are configured, so nothing is protected"))
    parts += [_plain_peer(peer) for peer in report.plain_peers]
    if report.key_sources:
        parts.append(_key_sources(report.key_sources))
    return Group(*parts)


def _peer(peer: PeerStatus) -> RenderableType:
    verdict = "protected" if peer.protected else "NOT protected as policy asks"
    colour = "green" if peer.protected else "red"
    if peer.protected and peer.protection == "pqc-only" and peer.policy != "off":
        colour = "yellow"
    table = _table(f"\npeer [bold]{escape(peer.name)}[/]: [{colour}]{verdict}[/]")
    for name, value in peer_rows(peer):
        table.add_row(f"  {name}", Text(value, style="red" if name == "last error" else ""))
    return table


def _table(title: str) -> Table:
    """Two columns, a name and words."""
    table = Table(title=title, title_justify="left", title_style="", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def peer_rows(peer: PeerStatus) -> list[tuple[str, str]]:
    """What is said of a peer, as name and words."""
    rows = [
        ("protection", f"{PROTECTION_WORDS[peer.protection]} (qkd policy: {peer.policy})"),
        ("epoch", _epoch(peer)),
    ]
    if peer.peer_policy is not None:
        rows.append(("peer's policy", peer.peer_policy))
    if peer.sources:
        chained = ", chained to the epoch before" if peer.chained else ""
        rows.append(("sources", ", ".join(peer.sources) + chained))
    rows += [("key_ID", f"{key.source} {key.key_id}") for key in peer.key_ids]
    limit = f" of at most {duration(peer.max_age_s)}" if peer.max_age_s is not None else ""
    expires = f", expires {due(peer.expires_in_s)}" if peer.expires_in_s is not None else ""
    rows.append(("age", f"{duration(peer.age_s)}{limit}{expires}"))
    rows.append(("next rekey", next_rekey(peer)))
    rows += [(name, words) for name, words in (("interval", interval(peer)), ("volume", volume(peer))) if words]
    rows += [("key supply", line) for line in peer.supply]
    rows += [("reservoir", f"{its.keys} of {its.depth} keys of {its.source} agreed ahead") for its in peer.reservoir]
    rows.append(("rekeys", f"{peer.rekeys_ok} done, {peer.rekeys_failed} failed"))
    if peer.last_error is not None:
        ago = f" ({duration(peer.last_error_age_s)} ago)" if peer.last_error_age_s is not None else ""
        rows.append(("last error", peer.last_error + ago))
    handshake = f"{duration(peer.last_handshake_age_s)} ago" if peer.last_handshake_age_s is not None else "never"
    rows.append(("endpoint", f"{peer.endpoint or 'not known yet'}, WireGuard handshake {handshake}"))
    if peer.handshake_endpoint is not None:
        rows.append(("rekeys at", peer.handshake_endpoint))
    if peer.record_mode is not None:
        rows.append(("packets", f"in records, {peer.record_mode}"))
    elif peer.record_mode_reason is not None:
        rows.append(("packets", f"one by one, no record mode: {peer.record_mode_reason}"))
    rows.append(("transfer", f"{amount(peer.rx_bytes)} received, {amount(peer.tx_bytes)} sent"))
    return rows


def _plain_peer(peer: PlainPeerStatus) -> RenderableType:
    table = _table(
        f"\nplain peer [bold]{escape(peer.name)}[/]: [yellow]WireGuard only, without qtunnel's protection[/]"
    )
    key = "a preshared key that stays what it is" if peer.preshared_key else "no preshared key"
    handshake = f"{duration(peer.last_handshake_age_s)} ago" if peer.last_handshake_age_s is not None else "never"
    table.add_row("  protection", Text(f"X25519 of WireGuard alone, {key}; not post-quantum, no QKD"))
    table.add_row("  endpoint", Text(f"{peer.endpoint or 'not known yet'}, WireGuard handshake {handshake}"))
    table.add_row("  transfer", Text(f"{amount(peer.rx_bytes)} received, {amount(peer.tx_bytes)} sent"))
    return table


def _epoch(peer: PeerStatus) -> str:
    if peer.epoch_installed is None:
        return "none installed"
    if peer.epoch_in_force is None:
        return f"{peer.epoch_installed} installed, none in force"
    if peer.epoch_in_force == peer.epoch_installed:
        return f"{peer.epoch_in_force} installed and in force"
    return f"{peer.epoch_installed} installed, {peer.epoch_in_force} in force"


def _key_sources(sources: list[KeySourceStatus]) -> RenderableType:
    table = Table(title="\nkey sources", title_justify="left", title_style="", box=None, pad_edge=False)
    table.add_column("  name", style="dim", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("detail", overflow="fold")
    for source in sources:
        state, colour = {True: ("healthy", "green"), False: ("FAILING", "red"), None: ("not asked yet", "")}[
            source.healthy
        ]
        detail = source.last_error if source.healthy is False and source.last_error else source.detail
        table.add_row(
            Text(f"  {source.name}"),
            Text(state, style=colour),
            Text(": ".join(part for part in (source.description, detail) if part)),
        )
    return table
