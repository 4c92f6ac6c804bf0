"""Why an MQTT broker refuses us or ends a connection, in words for people."""

from __future__ import annotations

_REASONS = {
    0x84: "it does not speak MQTT 5",
    0x85: "the client ID is not allowed",
    0x86: "bad user name or password",
    0x87: "not authorized",
    0x88: "it is not available",
    0x89: "it is busy",
    0x8A: "banned",
    0x8B: "it shuts down",
    0x8C: "bad authentication method",
    0x8D: "it heard nothing of us",
    0x8E: "another client has come with our client ID; each client needs its own",
    0x95: "a packet was too large",
    0x97: "quota exceeded",
}
"""By the reason codes of MQTT 5 (clause 2.4), those that a broker has for a client that does nothing wrong."""


def reason_of(code: int) -> str:
    """What a reason code from 0x80 on says; its number where it is none of these. "It" is the broker."""
    return _REASONS.get(code, f"reason {code:#x}")
