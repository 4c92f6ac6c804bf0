"""State machines as tables: the table decides, the documentation's diagrams are drawn from it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Generic, TypeVar

StateT = TypeVar("StateT", bound=Enum)
EventT = TypeVar("EventT", bound=Enum)

Table = Mapping[tuple[StateT, EventT], StateT]


class Machine(Generic[StateT, EventT]):
    """One running machine over a table of ``(state, event) -> state``."""

    def __init__(self, table: Table[StateT, EventT], start: StateT) -> None:
        self._table = table
        self.state = start

    def can(self, event: EventT) -> bool:
        """Whether the table allows ``event`` now."""
        return (self.state, event) in self._table

    def fire(self, event: EventT) -> StateT:
        """Go where the table says; an event that the table does not have here is a defect and raises."""
        try:
            self.state = self._table[self.state, event]
        except KeyError:
            raise AssertionError(f"no transition from {self.state.name} on {event.name}") from None
        return self.state


def mermaid(table: Table[StateT, EventT], start: StateT) -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {start.name}"]
    lines += [f"    {state.name} --> {target.name}: {event.value}" for (state, event), target in table.items()]
    return "\n".join(lines)
