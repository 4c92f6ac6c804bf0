"""What is made of what a KME of ETSI GS QKD 004 answers: errors by status, QoS that will not do, key_IDs. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from uuid import UUID

from qtunnel.drivers.etsi004_terms import MAX_INDEX, NULL_KSID, Call, Qos, Status
from qtunnel.errors import (
    KeyRequestRejectedError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnavailableError,
)

LEAST_CHUNK = 16
"""Bytes; of shorter ones two could be equal, or all zeros, by chance, and would be refused."""

MOST_CHUNK = 65_536
"""Bytes; a key has some dozens, and the rest of its last chunk is thrown away."""

LEAST_TTL = 90.0
"""Seconds that a key must be kept for the other end: an exchange may last that long (docs/protocol.md)."""

_KEY_ID = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):(0|[1-9][0-9]{0,9}):([1-9][0-9]{0,5})", re.ASCII)

_KINDS: dict[int, type[KeySourceError]] = {
    Status.PEER_NOT_CONNECTED: KeySourceUnavailableError,
    Status.INSUFFICIENT_KEY: KeySourceUnavailableError,
    Status.PEER_NOT_YET_CONNECTED: KeySourceUnavailableError,
    Status.NO_QKD_CONNECTION: KeySourceUnavailableError,
    Status.KSID_IN_USE: KeySourceUnavailableError,
    Status.TIMEOUT: KeySourceTimeoutError,
    Status.QOS_NOT_MET: KeyRequestRejectedError,
    Status.METADATA_TOO_SMALL: KeyRequestRejectedError,
}

_POSSIBLE = {
    Call.OPEN_CONNECT: {Status.PEER_NOT_CONNECTED, Status.NO_QKD_CONNECTION, Status.KSID_IN_USE, Status.TIMEOUT,
                        Status.QOS_NOT_MET},
    Call.GET_KEY: {Status.INSUFFICIENT_KEY, Status.PEER_NOT_YET_CONNECTED, Status.NO_QKD_CONNECTION, Status.TIMEOUT,
                   Status.METADATA_TOO_SMALL},
    Call.CLOSE: set(),
}  # fmt: skip
"""With which status each call may fail; any other one is not of the standard."""

CERTAIN = frozenset(
    {Status.INSUFFICIENT_KEY, Status.PEER_NOT_YET_CONNECTED, Status.NO_QKD_CONNECTION, Status.METADATA_TOO_SMALL}
)
"""Refusals of GET_KEY after which the chunk is still where it was. After a timeout nobody knows."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key begins: the stream, the index of its first chunk, and how many bytes a chunk has.

    As key_ID: ``KSID:index:chunk size``, e.g. ``c42fe0b3-dfa7-4872-b170-9d3b63b1f841:17:32``.
    """

    ksid: UUID
    index: int
    chunk: int

    def __str__(self) -> str:
        return f"{self.ksid}:{self.index}:{self.chunk}"

    def chunks(self, size: int) -> int:
        """How many chunks a key of ``size`` bytes takes: it begins with one, and has the last for itself."""
        return -(-size // self.chunk)

    def fits(self, size: int) -> bool:
        """Whether the key ends before the stream's indexes do."""
        return size > 0 and self.index + self.chunks(size) - 1 <= MAX_INDEX


def parse_key_id(key_id: str) -> Place | None:
    """The place that a key_ID names; ``None`` where it is not of this driver, or out of bounds."""
    found = _KEY_ID.fullmatch(key_id)
    if found is None:
        return None
    place = Place(UUID(found[1]), int(found[2]), int(found[3]))
    if place.ksid == NULL_KSID or place.index > MAX_INDEX or not LEAST_CHUNK <= place.chunk <= MOST_CHUNK:
        return None
    return place


def refusal(place: str, call: Call, status: int, *, lost: int = 0, remedy: str = "") -> KeySourceError:
    """The named error for a status other than 0. lost: keys that are gone where the status does not rule it out."""
    if status not in _POSSIBLE[call]:
        known = f" ({Status(status).words})" if status in Status.__members__.values() else ""
        detail = f"status {status}{known}, which the standard does not have for this call"
        return KeySourceProtocolError(place, call.value, detail, lost=lost)
    said = f"status {status}: {Status(status).words}"
    return _KINDS[status](place, call.value, f"{said}; {remedy}" if remedy else said, lost=lost)


def objection(asked: Qos, offered: Qos) -> str | None:
    """In words, why a stream of the offered QoS will not do; ``None`` where it will.

    Jitter, priority and the form of the metadata are the KME's business.
    """
    if not LEAST_CHUNK <= offered.key_chunk_size <= MOST_CHUNK:
        return f"chunks of {offered.key_chunk_size} bytes, and {LEAST_CHUNK} to {MOST_CHUNK} can be used"
    if offered.max_bps < max(1, asked.min_bps):
        return f"at most {offered.max_bps} bit/s (max_bps), and qos.min_bps is {asked.min_bps}"
    if offered.min_bps < asked.min_bps:
        return f"{offered.min_bps} bit/s at least (min_bps), and qos.min_bps is {asked.min_bps}"
    if offered.ttl < LEAST_TTL:
        return f"a TTL of {offered.ttl} s, and a key may have to wait {LEAST_TTL:g} s for the other end"
    if not 0 < offered.timeout <= asked.timeout:
        return f"a timeout of {offered.timeout} ms, and ours is {asked.timeout} ms; set qos.timeout and timeout"
    return None


def told(metadata: bytes) -> str | None:
    """What metadata in JSON tells of a key, in words: over how many trusted nodes it came (clause 6)."""
    try:
        fields = json.loads(metadata)
    except (ValueError, RecursionError):
        return None
    hops = fields.get("hops") if isinstance(fields, dict) else None
    if not isinstance(hops, int) or isinstance(hops, bool) or not 0 <= hops <= MAX_INDEX:
        return None
    return f"keys come over {hops} hops" if hops else "keys come directly"
