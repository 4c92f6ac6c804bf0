"""The hosts of the tests with real interfaces, here too."""

from __future__ import annotations

from tests.wireguard.conftest import hosts

__all__ = ["hosts"]
