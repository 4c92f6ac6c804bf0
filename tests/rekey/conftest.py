"""Fixtures for the rekeying core."""

from __future__ import annotations

import pytest

from qtunnel.rekey import gate


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes made from here on ask for no cookies, and tell of every rejection: what other bounds there are shows."""
    monkeypatch.setattr(gate, "LOAD_FRAGMENTS", 1 << 30)
    monkeypatch.setattr(gate, "TELL_BURST", 1 << 30)
