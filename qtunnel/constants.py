"""Numbers and paths that more than one room needs, each with its reason."""

from __future__ import annotations

DEFAULT_WIREGUARD_PORT = 51820
"""WireGuard's customary UDP port."""

DEFAULT_HANDSHAKE_PORT = 51821
"""UDP port of the hybrid handshake, next to WireGuard's, so that it serves every engine."""

DEFAULT_MTU = 1420
"""1500 less the largest WireGuard overhead: IPv6 40, UDP 8, header 16, tag 16."""

DEFAULT_RUNTIME_DIRECTORY = "/run/qtunnel"
DEFAULT_STATE_DIRECTORY = "/var/lib/qtunnel"

MAX_PROCESSES = 64
"""Of an engine, for packets: one process hands bursts out to no more than a handful before it is the bound itself."""

MAX_SOCKET_PATH = 107
"""Bytes of a UNIX socket's path (sun_path less its final zero, unix(7))."""

UAPI_DIRECTORY = "/var/run/wireguard"
"""Where wg(8) looks for the socket of a userspace WireGuard."""

ENGINE_GENERATION = 1
"""Of what the daemon says to ``qtunnel wg``. An engine that runs is taken over by a daemon of another release with the
same number, so that an upgrade drops no packet; one of another number is started anew."""

QKD_KEY_SIZE = 32
"""Bytes of QKD key asked for per rekey: 256 bits, the size every KME can deliver and what a PSK holds."""
