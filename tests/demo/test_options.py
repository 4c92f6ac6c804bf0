"""What may be asked of a demo run, and its timetable."""

from __future__ import annotations

import math

import pytest
from click.testing import CliRunner

from qtunnel.cli.main import cli
from qtunnel.demo.options import DemoOptions
from qtunnel.errors import ConfigError


@pytest.mark.parametrize(
    "options,words",
    [
        (DemoOptions(seconds=2), "--seconds 2: too short"),
        (DemoOptions(seconds=math.nan), "--seconds nan: at most"),
        (DemoOptions(seconds=math.inf), "--seconds inf: at most"),
        (DemoOptions(interval=math.nan), "--interval nan: at most"),
        (DemoOptions(interval=0.5), "--interval 0.5: at least 1"),
        (DemoOptions(seconds=6, interval=4), "use --seconds 8 or more"),
        (DemoOptions(seconds=20, kme_outage=True), "use --seconds 24 or more"),
    ],
)
def test_what_cannot_be_shown_is_refused(options: DemoOptions, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        options.check()


def test_what_a_refusal_names_is_accepted() -> None:
    DemoOptions(seconds=24, kme_outage=True).check()
    DemoOptions(seconds=8, interval=4).check()
    DemoOptions(seconds=5).check()


def test_the_timetable_of_a_run_with_an_outage() -> None:
    options = DemoOptions(seconds=45, kme_outage=True)
    stopped, started = 15.0, 30.0
    assert options.outage == (stopped, started)
    assert options.max_age == 6
    assert sum(options.load) < stopped  # TCP is done before its packets are blocked
    assert stopped + options.max_age < started


def test_most_rekeys_of_the_schedule_are_expected() -> None:
    assert DemoOptions(seconds=30).rekeys_expected == 12
    assert DemoOptions(seconds=45, kme_outage=True).rekeys_expected == 11
    assert DemoOptions(seconds=5, interval=2.5).rekeys_expected == 1


def test_a_refusal_on_the_command_line_starts_nothing() -> None:
    result = CliRunner().invoke(cli, ["demo", "--seconds", "1"])
    assert isinstance(result.exception, ConfigError)
    assert result.exception.exit_code == 2
