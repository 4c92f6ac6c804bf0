"""``qtunnel sources`` against a real control server: how the sources are, and the end of a quarantine."""

from __future__ import annotations

import json

import pytest

from qtunnel.cli.sources import qber_words
from qtunnel.control.messages import KeySourceStatus, SourcePeerStatus
from qtunnel.errors import ControlError, QtunnelError, UnknownSourceError
from tests.control.support import Serving
from tests.control.test_cli import call

WELL = KeySourceStatus(
    name="metro", description="etsi014:metro", healthy=True, state="well", stored_keys=412, max_keys=1000, qber=0.032,
    qber_limit=0.11, key_rate=1234.0, keys_used_per_day=720.0, days_left=3.4, keys_taken=30,
)  # fmt: skip
EVE = KeySourceStatus(
    name="reserve", description="mqtt:reserve", healthy=False, state="in quarantine", qber=0.25, qber_limit=0.11,
    alarm="QBER 25.0%, above its limit of 11.0%", last_error="QBER 25.0%, above its limit of 11.0%", keys_lost=2,
)  # fmt: skip


def test_a_line_for_each_source_and_what_is_wrong_below(server: Serving) -> None:
    server.canned.key_sources = [WELL, EVE]
    code, output, errors = call("sources", "--socket", server.path)
    assert (code, errors) == (1, "")
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert "metro well 412 of 1,000 1.23 kbit/s 720 3.4 days 3.2% of 11.0% 0" in lines
    assert "reserve in quarantine - - - - 25.0% of 11.0% 2" in lines
    assert "mqtt:reserve: QBER 25.0%, above its limit of 11.0%" in lines


def test_all_well_is_0_and_none_at_all_too(server: Serving) -> None:
    server.canned.key_sources = [WELL.model_copy(update={"days_left": None, "lasts": True})]
    code, output, _ = call("sources", "--socket", server.path)
    assert code == 0
    assert "on and on" in output
    server.canned.key_sources = []
    code, output, _ = call("sources", "--socket", server.path)
    assert (code, output) == (0, "no key sources are configured\n")


def test_json(server: Serving) -> None:
    server.canned.key_sources = [WELL, EVE]
    code, output, _ = call("sources", "--json", "--socket", server.path)
    document = json.loads(output)
    assert code == 1
    assert document["version"] == 1
    assert [its["state"] for its in document["key_sources"]] == ["well", "in quarantine"]


def test_an_operator_ends_a_quarantine(server: Serving) -> None:
    code, output, errors = call("sources", "clear", "reserve", "--socket", server.path)
    assert (code, errors) == (0, "")
    assert output.startswith("key source reserve is out of quarantine")
    assert server.canned.cleared == ["reserve"]
    code, output, errors = call("sources", "clear", "reserve", "--peer", "bob", "--socket", server.path)
    assert (code, errors) == (0, "")
    assert output.startswith("key source reserve is out of quarantine towards bob")
    assert server.canned.cleared[1:] == ["reserve towards bob"]


def test_peers_towards_which_something_is_wrong_have_a_line_each(server: Serving) -> None:
    towards = [
        SourcePeerStatus(peer="bob", state="no alarm", qber=0.02),
        SourcePeerStatus(peer="carol", state="in quarantine", qber=0.25, alarm="QBER 25.0%"),
        SourcePeerStatus(peer="dave", state="status not known", problem="HTTP 404", silent_s=240.0),
    ]
    partly = WELL.model_copy(update={"healthy": False, "state": "partly in quarantine", "towards": towards})
    server.canned.key_sources = [partly]
    code, output, _ = call("sources", "--socket", server.path)
    assert code == 1
    assert "metro towards carol: in quarantine: QBER 25.0%" in output
    assert "metro towards dave: status not known for 4 min: HTTP 404" in " ".join(output.split())
    assert "towards bob" not in output
    many = [SourcePeerStatus(peer=f"p{number}", state="in quarantine", alarm="Eve") for number in range(23)]
    server.canned.key_sources = [partly.model_copy(update={"towards": many})]
    assert "metro: and 3 peers more" in call("sources", "--socket", server.path)[1]


@pytest.mark.parametrize(("age", "shown"), [(None, "3.2%"), (59.0, "3.2%"), (300.0, "3.2%, 5 min ago")])
def test_a_qber_that_is_old_has_its_age(age: float | None, shown: str) -> None:
    its = WELL.model_copy(update={"qber": 0.032, "qber_limit": None, "qber_age_s": age})
    assert qber_words(its) == shown


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnknownSourceError("no key source 'metra'; there are: metro"), 2),
        (ControlError("key source metro is not in quarantine"), 1),
    ],
)
def test_what_cannot_be_cleared(server: Serving, error: QtunnelError, code: int) -> None:
    server.canned.clearing = error
    found, output, errors = call("sources", "clear", "metra", "--socket", server.path)
    assert (found, output, errors) == (code, "", f"qtunnel: {error}\n")


def test_options_before_the_command_are_refused(server: Serving) -> None:
    code, _, errors = call("sources", "--socket", server.path, "clear", "metro")
    assert code == 2
    assert "options go after the command" in errors
