"""What the operator said of a preshared key: its number, what it is, and when it ends by itself."""

from __future__ import annotations

from dataclasses import dataclass

NEVER = float("inf")


@dataclass(slots=True)
class EpochLabel:
    """Shared by a preshared key and all sessions that are made with it, so that they end together.

    epoch: None where the operator gave no number. note: text that is given back as it came, for whoever takes the
    interface over. ends: monotonic seconds, time asleep included; from then on the key makes no session, and its
    sessions carry nothing.
    """

    epoch: int | None = None
    note: str = ""
    ends: float = NEVER

    def over(self, now: float) -> bool:
        """Whether its end has come, also where nobody has looked at the timer yet."""
        return now >= self.ends
