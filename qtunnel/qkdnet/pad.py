"""The one-time pad with which keys are forwarded, in one place.

Information-theoretically secure as long as every pad is as long as the message, random, and used once (Shannon, 1949).
"""

from __future__ import annotations

from collections.abc import Sequence

from qtunnel.secret import Secret


def combined(one: Secret, other: Secret) -> Secret:
    """The exclusive or of two secrets of the same length: a message under a pad, or the message again."""
    if len(one) != len(other):
        raise ValueError(f"a pad of {len(other)} bytes for a message of {len(one)}")
    mixed = bytearray(a ^ b for a, b in zip(one.reveal(), other.reveal(), strict=True))
    try:
        return Secret(mixed)
    finally:
        mixed[:] = bytes(len(mixed))


def joined(several: Sequence[Secret]) -> Secret:
    """One after the other."""
    mixed = bytearray().join(one.reveal() for one in several)
    try:
        return Secret(mixed)
    finally:
        mixed[:] = bytes(len(mixed))


def parted(whole: Secret, size: int) -> list[Secret]:
    """Pieces of ``size`` bytes; the whole is wiped."""
    with whole:
        view = whole.reveal()
        return [Secret(view[begin : begin + size]) for begin in range(0, len(view), size)]
