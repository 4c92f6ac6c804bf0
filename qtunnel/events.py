"""The one event stream inside the daemon: what feeds the log, the status and the telemetry.

Publishing never blocks and never fails for want of a reader: a reader that falls behind loses its oldest events, and is
told how many. Events hold no secrets.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType

FieldValue = str | int | float | bool | None | tuple[str, ...]
"""What an event's field may hold; every one of them has a JSON form."""

HISTORY = 256
"""Events kept for whoever asks later: an hour of one peer's rekeys at the default interval, with room for faults."""

QUEUE = 1024
"""Events that wait for one reader. At some 300 bytes each a reader that stands still costs 300 kB."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    time: Unix seconds. kind: a dotted name such as ``rekey.done``. peer: the peer's name, or ``None`` for the node.
    """

    time: float
    kind: str
    peer: str | None = None
    fields: dict[str, FieldValue] = field(default_factory=dict)


def _plain(kind: str, name: str, value: object) -> FieldValue:
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple) and all(isinstance(part, str | int | float | Enum) for part in value):
        return tuple(str(_plain(kind, name, part)) for part in value)
    raise TypeError(f"event {kind}: field {name} is a {type(value).__name__}, which an event must not hold")


class Subscription:
    """One reader: an asynchronous iterator that ends when the stream or the subscription is closed.

    ``dropped`` counts the events that this reader was too slow for.
    """

    def __init__(self, stream: EventStream, limit: int) -> None:
        self._stream = stream
        self._waiting: deque[Event] = deque(maxlen=limit)
        self._wake = asyncio.Event()
        self._closed = False
        self.dropped = 0

    def _offer(self, event: Event) -> None:
        if len(self._waiting) == self._waiting.maxlen:
            self.dropped += 1
        self._waiting.append(event)
        self._wake.set()

    def close(self) -> None:
        """End the iteration after what is already waiting. Idempotent."""
        self._closed = True
        self._stream._leave(self)
        self._wake.set()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._waiting.popleft()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class EventStream:
    """Publishes to every subscription; belongs to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.time, history: int = HISTORY) -> None:
        self._clock = clock
        self._history: deque[Event] = deque(maxlen=history)
        self._subscriptions: set[Subscription] = set()
        self._closed = False

    def publish(self, kind: str, peer: str | None = None, **fields: object) -> Event:
        """Tell everybody. Raises ``TypeError`` for a field that has no plain form, such as bytes or a secret: that is
        a defect of the caller."""
        event = Event(self._clock(), kind, peer, {name: _plain(kind, name, value) for name, value in fields.items()})
        self._history.append(event)
        for subscription in tuple(self._subscriptions):
            subscription._offer(event)
        return event

    def history(self, peer: str | None = None) -> list[Event]:
        """The newest events, oldest first; of one peer where ``peer`` is given."""
        return [event for event in self._history if peer is None or event.peer == peer]

    def subscribe(self, limit: int = QUEUE) -> Subscription:
        """A reader of everything published from now on; close it, or use it in a ``with`` block."""
        if limit < 1:
            raise ValueError("a subscription holds at least one event")
        subscription = Subscription(self, limit)
        if self._closed:
            subscription.close()
        else:
            self._subscriptions.add(subscription)
        return subscription

    def close(self) -> None:
        """End every subscription once it has read what is waiting. Idempotent; publishing goes on to be harmless."""
        self._closed = True
        for subscription in tuple(self._subscriptions):
            subscription.close()

    def _leave(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)
