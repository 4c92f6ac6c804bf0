"""What ``get=1`` tells of a device, in pieces."""

from __future__ import annotations

from collections.abc import Iterator

from qtunnel.wireguard.device import Device
from qtunnel.wireguard.endpoint import format_endpoint
from qtunnel.wireguard.epoch_label import NEVER
from qtunnel.wireguard.peer import Peer
from qtunnel.wireguard.uapi import format_errno, format_prefix

_LINES_PER_PIECE = 500
"""Allowed IPs per piece of an answer: about 15 kB, under a millisecond of work."""


def get_answer(device: Device, now: float, *, brief: bool = False) -> Iterator[bytes]:
    """The answer to ``get=1`` in pieces, so that traffic goes on between them. brief: without what was configured."""
    state = device.state
    head = []
    if state.static is not None and not brief:
        head.append(f"private_key={state.static.private.reveal().hex()}\n")
    if state.listen_port:
        head.append(f"listen_port={state.listen_port}\n")
    if state.fwmark:
        head.append(f"fwmark={state.fwmark}\n")
    yield "".join(head).encode()
    for peer in list(state.peers.values()):
        if peer.public_key not in state.peers:
            continue  # removed since the answer began
        yield _peer_lines(peer, now, brief=brief).encode()
        prefixes = [] if brief else list(peer.allowed_ips)
        for start in range(0, len(prefixes), _LINES_PER_PIECE):
            piece = prefixes[start : start + _LINES_PER_PIECE]
            yield "".join(f"allowed_ip={format_prefix(prefix)}\n" for prefix in piece).encode()
    yield format_errno(0)


def _peer_lines(peer: Peer, now: float, *, brief: bool) -> str:
    seconds, nanoseconds = divmod(peer.last_handshake_unix_ns, 1_000_000_000)
    lines = [f"public_key={peer.public_key.hex()}"]
    if not brief:
        lines += [f"preshared_key={peer.psk.psk.reveal().hex()}", "protocol_version=1"]
    if peer.endpoint is not None:
        lines.append(f"endpoint={format_endpoint(peer.endpoint)}")
    lines += [
        f"last_handshake_time_sec={seconds}",
        f"last_handshake_time_nsec={nanoseconds}",
        f"tx_bytes={peer.tx_bytes}",
        f"rx_bytes={peer.rx_bytes}",
    ]
    if not brief:
        lines.append(f"persistent_keepalive_interval={peer.timers.persistent}")
    if packets := peer.packets:
        lines.append(f"packets={packets}")
    current = peer.keypairs.current
    if current is not None and current.epoch is not None and current.may_send(now):
        seconds, nanoseconds = divmod(current.created_unix_ns, 1_000_000_000)
        lines += [f"epoch={current.epoch}", f"epoch_time_sec={seconds}.{nanoseconds:09d}"]
        if current.label.note and not brief:
            lines.append(f"epoch_note={current.label.note}")
    if not brief:
        lines += _lease_lines(peer)
    link = peer.records
    if link.suite:
        lines += [f"record_mode={link.suite}", f"record_mode_state={link.state.value}"]
        if link.reason:
            lines.append(f"record_mode_reason={link.reason}")
    return "\n".join(lines) + "\n"


def _lease_lines(peer: Peer) -> list[str]:
    """What is said of the preshared key in place, and of one that has ended."""
    label = peer.psk.label
    lines = []
    if label.epoch is not None:
        lines.append(f"installed_epoch={label.epoch}")
    if label.note:
        lines.append(f"installed_note={label.note}")
    if label.ends != NEVER:
        lines.append(f"expires_boottime_msec={round(label.ends * 1000)}")
    if peer.ended_epoch is not None:
        lines.append(f"ended_epoch={peer.ended_epoch}")
    return lines
