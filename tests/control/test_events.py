from __future__ import annotations

import asyncio
from enum import Enum

import pytest

from qtunnel.events import Event, EventStream
from qtunnel.secret import Secret


class Level(Enum):
    HIGH = "high"


def test_every_reader_gets_every_event_in_order() -> None:
    async def main() -> None:
        stream = EventStream(clock=lambda: 7.0)
        first, second = stream.subscribe(), stream.subscribe()
        stream.publish("rekey.done", "bob", epoch=1)
        stream.publish("node.up")
        stream.close()
        expected = [Event(7.0, "rekey.done", "bob", {"epoch": 1}), Event(7.0, "node.up")]
        assert [event async for event in first] == expected
        assert [event async for event in second] == expected
        assert first.dropped == 0

    asyncio.run(main())


def test_a_slow_reader_loses_its_oldest_events_and_is_told_how_many() -> None:
    async def main() -> None:
        stream = EventStream()
        slow = stream.subscribe(limit=3)
        for number in range(10):
            stream.publish("tick", number=number)
        stream.close()
        assert [event.fields["number"] async for event in slow] == [7, 8, 9]
        assert slow.dropped == 7

    asyncio.run(main())


def test_a_waiting_reader_wakes() -> None:
    async def main() -> None:
        stream = EventStream()
        with stream.subscribe() as reader:
            waiting = asyncio.create_task(anext(reader))
            await asyncio.sleep(0)
            assert not waiting.done()
            stream.publish("tick")
            assert (await asyncio.wait_for(waiting, 10)).kind == "tick"

    asyncio.run(main())


def test_a_closed_reader_ends_and_gets_no_more() -> None:
    async def main() -> None:
        stream = EventStream()
        reader = stream.subscribe()
        waiting = asyncio.create_task(anext(reader))
        await asyncio.sleep(0)
        reader.close()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(waiting, 10)
        stream.publish("tick")
        assert [event async for event in reader] == []
        stream.close()
        assert [event async for event in stream.subscribe()] == []

    asyncio.run(main())


def test_history_keeps_the_newest() -> None:
    stream = EventStream(history=3)
    for number in range(5):
        stream.publish("tick", "bob" if number % 2 else "carol", number=number)
    assert [event.fields["number"] for event in stream.history()] == [2, 3, 4]
    assert [event.fields["number"] for event in stream.history("bob")] == [3]


def test_fields_become_plain() -> None:
    event = EventStream().publish("level", level=Level.HIGH, sources=["metro", Level.HIGH], ok=True, age=1.5, none=None)
    assert event.fields == {"level": "high", "sources": ("metro", "high"), "ok": True, "age": 1.5, "none": None}


@pytest.mark.parametrize("value", [Secret(b"k" * 32), b"raw", bytearray(b"raw"), [b"raw"], [Secret(b"k")], object()])
def test_secrets_and_raw_bytes_are_refused(value: object) -> None:
    stream = EventStream()
    with pytest.raises(TypeError, match="field key is a"):
        stream.publish("oops", key=value)
    assert stream.history() == []
