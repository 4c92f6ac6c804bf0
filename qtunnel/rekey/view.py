"""What the status shows of one peer's rekeying."""

from __future__ import annotations

from dataclasses import dataclass, field

from qtunnel.keys.policy import Protection
from qtunnel.rekey.model import EpochInfo
from qtunnel.rekey.states import InState, OutState


@dataclass(frozen=True, slots=True)
class PeerView:
    """What the status shows of one peer; never a secret. next_rekey, expires: monotonic seconds.

    interval: between rekeys as it is in force, in seconds; interval_reason: why it is not the usual one. bytes,
    packets: through the tunnel since the last rekey. peer_policy: in words, as the newest exchange had it. reservoir:
    by source, keys agreed ahead that both ends hold and we may offer, and all that are held here.
    """

    name: str
    installed: EpochInfo | None
    epochs: dict[int, EpochInfo]
    protection: Protection
    role: str
    out_state: OutState
    in_state: InState
    next_rekey: float | None
    expires: float | None
    interval: float = 0.0
    interval_reason: str = ""
    bytes: int = 0
    packets: int = 0
    peer_policy: str | None = None
    reservoir: dict[str, tuple[int, int]] = field(default_factory=dict)
