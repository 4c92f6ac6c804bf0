"""What an engine drops is told, rarely, and only where it grows."""

from __future__ import annotations

import logging

import pytest

from qtunnel.netio.losses import INTERVAL, LossReport, words


def test_only_growth_is_told_and_only_once_an_interval(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "qtunnel.netio.losses")
    monkeypatch.setattr(logging.getLogger("qtunnel"), "propagate", True)
    report = LossReport(100.0)
    report.look({"bad-tag": 3}, 100.0 + INTERVAL - 1)
    assert caplog.messages == []
    assert report.next == 100.0 + INTERVAL
    report.look({"bad-tag": 3, "no-endpoint": 0}, 100.0 + INTERVAL)
    report.look({"bad-tag": 3}, 100.0 + 2 * INTERVAL)
    report.look({"bad-tag": 4, "ENETUNREACH": 1}, 100.0 + 3 * INTERVAL)
    assert caplog.messages == [
        "msg='dropped since the last report: bad-tag=3'",
        "msg='dropped since the last report: ENETUNREACH=1 bad-tag=1'",
    ]


def test_words_leave_out_what_is_zero() -> None:
    assert words({"b": 2, "a": 1, "c": 0}) == "a=1 b=2"
