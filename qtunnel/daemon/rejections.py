"""What becomes of rejected datagrams and refused offers: others decide how many there are, and nobody may fill the
event stream with them."""

from __future__ import annotations

from dataclasses import dataclass

from qtunnel.rekey.model import Notice

KIND = "message.rejected"
REFUSED = "rekey.failed"
"""By a responder: the peer may make as many offers as it likes that this end has to refuse."""
PAUSE = 10.0
"""Seconds between two events of the same reason from the same peer; what came meanwhile is counted."""
KINDS_KEPT = 1024
"""Reasons times peers; a hub of 1,000 peers has a handful of reasons at a time."""


def is_limited(notice: Notice) -> bool:
    """Whether others can make any number of such notices."""
    return notice.kind == KIND or (notice.kind == REFUSED and notice.fields.get("role") == "responder")


BLAME = {
    "mac1": "it is made for another identity than this gateway's; does the peer have this gateway's public file?",
    "unknown-peer": "{}; is the public file here the peer's?",
    "authentication": "{}",
    "suite": "{}",
}
"""Reasons that speak of a wrong configuration; the others happen by loss and duplication every day."""


CLOCK = "clock"
"""The reason of an offer that is authentic and much too old. It may be one of the past that somebody sends again."""


def blamed(notice: Notice) -> str | None:
    """The peer whose status a rejection belongs to: it came from its address, or is an old offer of its own."""
    if notice.kind == KIND and notice.fields.get("reason") == CLOCK:
        return notice.peer
    found = notice.fields.get("from")
    return None if found is None else str(found)


def blame(notice: Notice) -> str | None:
    """For the status of the peer that a rejection belongs to; None for what is usual."""
    if notice.fields.get("reason") == CLOCK:
        return f"refused: {notice.fields['detail']}"
    words = BLAME.get(str(notice.fields.get("reason")))
    return None if words is None else f"rejected what came from its address: {words.format(notice.fields['detail'])}"


@dataclass(slots=True)
class _Said:
    at: float
    unsaid: int = 0


class Rejections:
    """Lets the first of each kind through, and then one in ``PAUSE`` with the number of those held back."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str, str], _Said] = {}
        self.by_reason: dict[str, int] = {}
        """All of them, told or not; reasons are words of ours, some twenty."""

    def admit(self, notice: Notice, now: float) -> Notice | None:
        """The notice as it is to be told, or None. now: monotonic seconds. Field ``from``: the peer whose address the
        message came from, where that is all that is known of its sender."""
        more = notice.fields.get("more", 0)
        count = 1 + (more if isinstance(more, int) else 0)
        reason = str(notice.fields.get("reason"))
        self.by_reason[reason] = self.by_reason.get(reason, 0) + count
        key = notice.kind, notice.peer or str(notice.fields.get("from", "")), str(notice.fields.get("reason"))
        said = self._said.get(key)
        if said is None:
            while len(self._said) >= KINDS_KEPT:
                del self._said[next(iter(self._said))]
            self._said[key] = _Said(now)
            return notice
        if now - said.at < PAUSE:
            said.unsaid += count
            return None
        held_back, said.unsaid, said.at = said.unsaid + count - 1, 0, now
        if not held_back:
            return notice
        return Notice(notice.peer, notice.kind, {**notice.fields, "more": held_back})
