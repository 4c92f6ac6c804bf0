"""Fixtures of the tests with real interfaces."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.netns import Namespace, two_hosts
from tests.wireguard.gateways import Gateway


@pytest.fixture
def hosts() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces joined by a veth pair."""
    with two_hosts() as made:
        yield made


@pytest.fixture
def gateways(hosts: tuple[Namespace, Namespace]) -> Iterator[tuple[Gateway, Gateway]]:
    """``qtunnel wg`` in each of two hosts, not configured yet, link down."""
    left, right = (Gateway(host, index, wait=False) for index, host in enumerate(hosts))
    try:
        left.ready()
        right.ready()
        yield left, right
    finally:
        left.close()
        right.close()
