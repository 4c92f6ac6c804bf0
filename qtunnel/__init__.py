"""qtunnel: WireGuard tunnels keyed by ML-KEM, X25519 and QKD together."""

__version__ = "0.1.0.dev0"
