"""X25519 (RFC 7748) on raw 32-byte keys."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from qtunnel.errors import SecretWipedError
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
    return _exchange(X25519PrivateKey.from_private_bytes(private.reveal()), public)


def _exchange(private: X25519PrivateKey, public: bytes) -> Secret:
    try:
        return Secret(private.exchange(X25519PublicKey.from_public_bytes(public)))
    except ValueError:
        raise LowOrderPointError("public key of low order") from None


class KeyPair:
    """A private key that is used several times. It stays inside the library: loading it there computes the public key,
    which costs as much as an exchange."""

    __slots__ = ("_private", "public")

    def __init__(self, private: Secret) -> None:
        self._private: X25519PrivateKey | None = X25519PrivateKey.from_private_bytes(private.reveal())
        self.public = self._private.public_key().public_bytes_raw()

    def exchange(self, public: bytes) -> Secret:
        """As the function ``exchange``; raises ``SecretWipedError`` after ``wipe``."""
        if self._private is None:
            raise SecretWipedError("this key pair was wiped; it must not be used again")
        return _exchange(self._private, public)

    def wipe(self) -> None:
        """Forget the private key: the library overwrites it. Idempotent."""
        self._private = None

    def __repr__(self) -> str:
        return "<X25519 key pair>"
