"""A status in words: protection, durations, amounts, whose turn it is."""

from __future__ import annotations

from qtunnel.control.messages import PeerStatus

PROTECTION_WORDS = {
    "qkd+pqc": "QKD and post-quantum",
    "pqc-only": "post-quantum only, no QKD key",
    "blocked": "blocked, no traffic passes",
    "starting": "starting, no traffic passes yet",
    "expired": "expired, the key in force is older than max_age",
}

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def duration(seconds: float | None) -> str:
    """Two units at most, e.g. ``2 min 5 s``; a dash for ``None``."""
    if seconds is None:
        return "-"
    rest = abs(round(seconds))
    parts: list[str] = []
    for size, unit in _UNITS:
        if rest >= size and len(parts) < 2:
            parts.append(f"{rest // size} {unit}")
            rest %= size
        elif parts:
            break
    text = " ".join(parts) or "0 s"
    return f"-{text}" if seconds < 0 and parts else text


def due(seconds: float | None) -> str:
    """When something that lies ahead happens."""
    if seconds is None:
        return "-"
    return f"in {duration(seconds)}" if seconds >= 0 else f"overdue by {duration(-seconds)}"


def next_rekey(peer: PeerStatus) -> str:
    """Whose turn it is, and when. The time of the end that only answers is that of its taking over."""
    if peer.role != "responder":
        return "under way" if peer.next_rekey_s is None and peer.role else due(peer.next_rekey_s)
    if peer.next_rekey_s is None:
        return "the peer's turn"
    when = f"in {duration(peer.next_rekey_s)}" if peer.next_rekey_s > 0 else "now"
    return f"the peer's turn; this end takes over {when}"


def amount(count: int) -> str:
    """Bytes in decimal units, e.g. ``1.4 MB``."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def interval(peer: PeerStatus) -> str:
    """The interval between rekeys where it is not the usual one; empty where it is."""
    if peer.interval_s is None or peer.interval_usual_s is None or not peer.interval_reason:
        return ""
    kind = "longer" if peer.interval_s > peer.interval_usual_s else "shorter"
    return (
        f"{duration(peer.interval_s)}, {kind} than the usual {duration(peer.interval_usual_s)}: {peer.interval_reason}"
    )


def volume(peer: PeerStatus) -> str:
    """What went through since the last rekey, where there is a limit; empty where there is none."""
    parts = []
    if peer.max_bytes is not None:
        parts.append(f"{amount(peer.epoch_bytes)} of {amount(peer.max_bytes)}")
    if peer.max_packets is not None:
        carried = "an unknown number" if peer.epoch_packets is None else f"{peer.epoch_packets:,}"
        parts.append(f"{carried} of {peer.max_packets:,} packets")
    return f"{' and '.join(parts)} since the last rekey" if parts else ""
