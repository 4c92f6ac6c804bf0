"""WireGuard's numbers (white paper section 6.1) and this implementation's own; times in seconds."""

from __future__ import annotations

REKEY_AFTER_MESSAGES = 1 << 60
REJECT_AFTER_MESSAGES = (1 << 64) - (1 << 13) - 1
REKEY_AFTER_TIME = 120.0
REJECT_AFTER_TIME = 180.0
REKEY_ATTEMPT_TIME = 90.0
REKEY_TIMEOUT = 5.0
KEEPALIVE_TIMEOUT = 10.0

REKEY_JITTER = 0.333
"""Spread added to a retry, so that two ends that start together do not go on colliding (the kernel's 333 ms)."""

MAX_HANDSHAKE_ATTEMPTS = int(REKEY_ATTEMPT_TIME / REKEY_TIMEOUT)
"""Retries before giving up: one every REKEY_TIMEOUT for REKEY_ATTEMPT_TIME."""

RECEIVING_REKEY_AGE = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT
"""Age at which the initiator, having received, renews a session that it would soon have to reject."""

NEW_HANDSHAKE_TIME = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT
"""Sent data but heard nothing back for so long: the peer is taken to have lost the session."""

ZERO_KEYS_TIME = 3 * REJECT_AFTER_TIME
"""All keys of a peer are wiped when so long no new session was made."""

INITIATION_INTERVAL = 0.02
"""Initiations of one peer closer together than this are a flood: 50 per second, as the kernel has it."""

REPLAY_WINDOW = 8192
"""Counters behind the newest that are still accepted: the kernel's COUNTER_BITS_TOTAL."""

MAX_STAGED_PACKETS = 128
"""Packets kept per peer while a handshake is under way: the kernel's MAX_STAGED_PACKETS."""

PREVIOUS_KEYPAIRS = 2
"""Old sessions kept for receiving. Two, where WireGuard keeps one: with ends that start handshakes at the same moment
a packet may still be on its way under the session before the previous."""

MAX_PEERS = 65536

PADDING = 16
"""Packets are padded to a multiple of this, at most to the MTU (white paper section 5.4.6)."""
