"""What is kept of the last hour: as it was, without what is nobody's business here, and never more than a bound."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from qtunnel.events import Event, FieldValue
from qtunnel.page.past import EVENTS, LONGEST, MARKS, POINTS, SPAN, Past
from tests.page.sample import KEY_ID, status

NOW = 1_800_000_000.0
METRO = status().key_sources[0]


def past(*events: Event) -> Past:
    its = Past(lambda kind: "debug" if kind == "rekey.started" else "info")
    for event in events:
        its.happened(event)
    return its


def test_rekeys_and_protection_of_each_peer_within_the_hour() -> None:
    its = past(
        Event(NOW - SPAN - 900, "protection.in-force", "bob", {"after": "pqc-only"}),
        Event(NOW - SPAN - 600, "protection.in-force", "bob", {"after": "qkd+pqc"}),
        Event(NOW - SPAN - 500, "rekey.done", "bob", {"epoch": 1}),
        Event(NOW - 60, "rekey.done", "bob", {"epoch": 2}),
        Event(NOW - 50, "rekey.failed", "carol", {"reason": "policy"}),
        Event(NOW - 40, "protection.in-force", "bob", {"after": "blocked"}),
    )
    found = its.view(NOW, ["bob", "carol", "dave"])["peers"]
    assert found["bob"]["rekeys"] == [[NOW - 60, 1, 2]]
    assert found["bob"]["levels"] == [[NOW - SPAN, "qkd+pqc"], [NOW - 40, "blocked"]]
    assert found["carol"]["rekeys"] == [[NOW - 50, 0, 0]]
    assert found["dave"] == {"rekeys": [], "levels": []}


def test_a_peer_that_is_another_one_now_has_no_past() -> None:
    its = past(Event(NOW - 60, "rekey.done", "bob", {"epoch": 2}), Event(NOW - 50, "peer.replaced", "bob", {}))
    assert its.view(NOW, ["bob"])["peers"]["bob"]["rekeys"] == []


def test_figures_of_a_source_that_fails_are_a_gap_and_no_old_values() -> None:
    its = past()
    its.sample(NOW - 20, [METRO])
    its.sample(NOW - 10, [METRO.model_copy(update={"healthy": False})])
    figures = [METRO.qber, METRO.key_rate, METRO.stored_keys]
    assert its.view(NOW, [])["sources"]["metro"] == [[NOW - 20, *figures], [NOW - 10, None, None, None]]
    its.sample(NOW, [])
    assert its.view(NOW, [])["sources"] == {}


def test_key_ids_and_what_strangers_cause_are_not_told() -> None:
    its = past(
        Event(
            NOW, "epoch.in-force", "bob", {"epoch": 7, "key_ids": (f"metro {KEY_ID}",), "sources": ("x25519", "metro")}
        ),
        Event(NOW, "message.rejected", None, {"reason": "mac1", "address": "192.0.2.1:5"}),
        Event(NOW, "rekey.started", "bob", {}),
    )
    (event,) = its.view(NOW, [])["events"]
    assert event["fields"] == {"epoch": 7, "sources": "x25519, metro"}


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=2000) | st.tuples(st.text())
kinds = st.sampled_from(["rekey.done", "rekey.failed", "protection.in-force", "source.down", "rekey.started"])
fields: st.SearchStrategy[dict[str, FieldValue]] = st.dictionaries(
    st.sampled_from(["epoch", "after", "detail"]), values
)


@given(st.lists(st.tuples(kinds, fields), max_size=30))
def test_whatever_happens_is_json(happened: list[tuple[str, dict[str, FieldValue]]]) -> None:
    its = past(*(Event(NOW, kind, "bob", told) for kind, told in happened))
    found = json.loads(json.dumps(its.view(NOW, ["bob"]), allow_nan=False))
    for event in found["events"]:
        assert all(len(value) <= LONGEST for value in event["fields"].values() if isinstance(value, str))


def test_however_much_happens_there_is_a_bound() -> None:
    its = past(*(Event(NOW, kind, "bob", {"after": "blocked"}) for kind in ("rekey.done", "protection.in-force") * 900))
    for _ in range(2 * POINTS):
        its.sample(NOW, [METRO.model_copy(update={"qber": math.nan})])
    found = its.view(NOW, ["bob"])
    assert len(found["events"]) == EVENTS
    assert (len(found["peers"]["bob"]["rekeys"]), len(found["peers"]["bob"]["levels"])) == (MARKS, MARKS)
    assert len(found["sources"]["metro"]) == POINTS
    assert found["sources"]["metro"][0][1] is None
