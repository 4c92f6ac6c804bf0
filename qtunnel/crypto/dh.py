"""X25519 (RFC 7748) on raw 32-byte keys."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from qtunnel.secret import Secret

KEY_SIZE = 32


class LowOrderPointError(Exception):
    """The public key is of low order, so the shared secret would be known to everybody."""


_ANY_PRIVATE = Secret(bytes(range(KEY_SIZE)))
"""Clamping makes every private key a multiple of 8, so any one shows whether a point has low order."""


def check_public_key(public: bytes) -> None:
    """Raises ``LowOrderPointError`` where every shared secret with this key would be all zero."""
    exchange(_ANY_PRIVATE, public).wipe()


def public_key(private: Secret) -> bytes:
    """The 32-byte public key of a 32-byte private key."""
    return X25519PrivateKey.from_private_bytes(private.reveal()).public_key().public_bytes_raw()


def exchange(private: Secret, public: bytes) -> Secret:
    """The 32-byte shared secret; raises ``LowOrderPointError`` where it would be all zero (RFC 7748 section 6.1)."""
    try:
        shared = X25519PrivateKey.from_private_bytes(private.reveal()).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError:
        raise LowOrderPointError("public key of low order") from None
    return Secret(shared)
