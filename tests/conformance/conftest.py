"""The fixtures of the tests with real interfaces, here too."""

from __future__ import annotations

from tests.wireguard.conftest import gateways, hosts

__all__ = ["gateways", "hosts"]
