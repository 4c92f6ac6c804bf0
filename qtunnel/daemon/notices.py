"""What the rekeying core tells: what of it becomes an event, and what it means for the status of a peer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from qtunnel.daemon.clock import monotonic
from qtunnel.daemon.endpoints import Endpoints
from qtunnel.daemon.rejections import Rejections, blame, blamed, is_limited
from qtunnel.daemon.tunnel import Tunnel
from qtunnel.daemon.view import Tally
from qtunnel.rekey.model import Notice

SILENCE = "rekey.unanswered"
"""Of a peer: proves nothing, and what comes from its address may well say why."""
ERRORS = ("rekey.failed", SILENCE, "source.failed", "peer.blocked", "policy.relaxed", "peer.defect")
"""Kinds that are a peer's last error."""


class Publish(Protocol):
    """Puts an event into the stream."""

    def __call__(self, kind: str, peer: str | None = None, **fields: object) -> None: ...


class Notices:
    """Takes the core's notices in two steps: ``admit`` as they come, ``tell`` when what came before is done.

    lose: books keys that a source gave in vain.
    """

    def __init__(
        self,
        tallies: Mapping[str, Tally],
        tunnel: Tunnel,
        endpoints: Endpoints,
        publish: Publish,
        lose: Callable[[str, int, str], None] = lambda source, number, detail: None,
    ) -> None:
        self._tallies = tallies
        self._tunnel = tunnel
        self._endpoints = endpoints
        self._publish, self._lose = publish, lose
        self.rejections = Rejections()

    def admit(self, notice: Notice) -> Notice | None:
        """The notice as it is to be told, or None: others can make any number of some."""
        if not is_limited(notice):
            return notice
        placed, present = self._placed(notice), monotonic()
        told = self.rejections.admit(placed, present)
        if told is None:
            if notice.peer:
                self._tallies[notice.peer].failed += notice.kind == "rekey.failed"
            return None
        name, words = blamed(placed), blame(placed)
        if name is not None and words is not None:
            self._tallies[name].suspect(words, present)
        return told

    def _placed(self, notice: Notice) -> Notice:
        """A rejection with the peer whose address the message came from."""
        name = None if notice.peer else self._endpoints.peer_at(str(notice.fields.get("address")))
        if name is None:
            return notice
        return Notice("", notice.kind, {**notice.fields, "from": name})

    def _in_place(self, notice: Notice) -> bool:
        """Whether the engine has the epoch that is told of, or one that was agreed on after it."""
        epoch, found = notice.fields.get("epoch"), self._tunnel.epoch_in_place(notice.peer)
        return found is not None and isinstance(epoch, int) and not found < epoch

    def tell(self, notice: Notice) -> None:
        """Count it, and publish it as an event."""
        tally = self._tallies[notice.peer]
        if notice.kind == "rekey.done" and not self._in_place(notice):
            detail = (
                f"agreed on epoch {notice.fields.get('epoch')}, but the engine has not taken it yet; it is tried again"
            )
            notice = Notice(
                notice.peer, "rekey.failed", {"role": notice.fields.get("role"), "reason": "engine", "detail": detail}
            )
        if notice.kind == "rekey.done":
            tally.done += 1
        elif notice.kind == "rekey.failed":
            tally.failed += 1
        if notice.kind == SILENCE:
            # Already while the attempt is under way: what it repeats goes to where the name leads then.
            self._endpoints.doubt(notice.peer)
        elif notice.fields.get("reason") == "no-answer":
            self._endpoints.in_vain(notice.peer)
        if notice.kind in ERRORS:
            proven = notice.kind != SILENCE
            tally.tell(str(notice.fields.get("detail") or notice.kind), monotonic(), proven=proven)
        self._publish(notice.kind, notice.peer or None, **notice.fields)
        source, number = notice.fields.get("source"), notice.fields.get("number")
        if notice.kind in ("reservoir.lost", "key.distrusted") and isinstance(source, str) and isinstance(number, int):
            self._lose(source, number, f"{notice.peer}: {notice.fields.get('detail')}")
