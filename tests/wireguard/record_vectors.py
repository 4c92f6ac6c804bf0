"""Makes record mode's own test vectors from fixed seeds: ``python -m tests.wireguard.record_vectors`` writes them.

docs/protocol.md section 8 says what is in them; test_record_vectors.py makes them again from section 10 alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qtunnel.crypto.noise import BLAKE2S_CHACHAPOLY, SymmetricState
from qtunnel.secret import Secret
from qtunnel.wireguard.record_cut import RecordCutter
from qtunnel.wireguard.record_format import MAX_COUNTER, capacity, fragments
from qtunnel.wireguard.record_plain import Report
from qtunnel.wireguard.session import RECORD_SUITES
from tests.handshake.vectors import stream
from tests.wireguard.world import ip_packet

FILE = Path(__file__).parent.parent / "vectors" / "record" / "record.json"
SIZE = 1040
"""Bytes of a datagram: the least that records of several have."""

_REPORT = Report(next=5, expected=200, received=198, delivered=5, spoiled=1, question=True).pack()


def packet(length: int) -> bytes:
    """An item with an IPv4 packet of ``length`` bytes of payload, without anything to be done to it."""
    return bytes(10) + ip_packet("10.0.0.1", "10.0.0.2", stream(f"record/{length}")(length) if length else b"")


def record_keys(chaining_key: bytes, suite: str) -> tuple[Secret, Secret]:
    """Those of initiator and responder, as a handshake that ended with this chaining key makes them."""
    state = SymmetricState(BLAKE2S_CHACHAPOLY, b"any")
    state._ck = Secret(chaining_key)
    return state.split(RECORD_SUITES[suite][0].value)


def vector(suite: str, name: str, plain: bytes, counter: int, *, parity: bool) -> dict[str, Any]:
    drawn = stream(f"record/{suite}/{name}")
    chaining_key, index = drawn(32), int.from_bytes(drawn(4), "little")
    keys = record_keys(chaining_key, suite)
    seal = RECORD_SUITES[suite][1](bytes(keys[0].reveal())).encrypt_into
    made = bytes(RecordCutter(SIZE).cut(seal, memoryview(plain), index, counter, parity=parity))
    size = SIZE if fragments(len(plain), SIZE) > 1 else len(made) // (1 + parity)
    return {
        "name": f"{suite}, {name}",
        "cipher": suite,
        "chaining_key": chaining_key.hex(),
        "initiator_key": bytes(keys[0].reveal()).hex(),
        "responder_key": bytes(keys[1].reveal()).hex(),
        "receiver_index": index,
        "counter": counter,
        "parity": parity,
        "plaintext": plain.hex(),
        "datagrams": [made[at : at + size].hex() for at in range(0, len(made), size)],
    }


def all_vectors() -> list[dict[str, Any]]:
    """The set in the repository: the initiator's records."""
    several = b"".join(packet(length) for length in (0, 300, 1000, 1000, 77))
    full = packet(capacity(2, SIZE) - 30)
    found = []
    for suite in RECORD_SUITES:
        found += [
            vector(suite, "a report", _REPORT, 0, parity=False),
            vector(suite, "one packet, sent twice", packet(60), 1, parity=True),
            vector(suite, "several packets and a report", several + _REPORT, 2, parity=False),
            vector(suite, "the same with parity", several + _REPORT, 3, parity=True),
            vector(suite, "two full datagrams, the last counter", full, MAX_COUNTER, parity=True),
        ]
    return found


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps({"vectors": all_vectors()}, indent=1) + "\n")
