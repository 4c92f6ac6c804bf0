"""A flood of initiations with a valid mac1: who has a cookie still gets through."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.support.netns import Namespace
from tests.wireguard.gateways import PORT, Gateway

pytestmark = pytest.mark.root


def test_a_handshake_with_a_cookie(hosts: tuple[Namespace, Namespace]) -> None:
    ours, theirs = Gateway(hosts[0], 0), Gateway(hosts[1], 1, program="wireguard-go")
    try:
        ours.meet(theirs, endpoint=False)
        flood = theirs.host.start(
            sys.executable, str(Path(__file__).with_name("flood.py")), "10.99.0.1", str(PORT), ours.public.hex()
        )
        theirs.host.run("sleep", "1.2")  # under load by now
        theirs.meet(ours)
        # The first initiation gets a cookie, the next, after 5 s, carries it.
        done = theirs.host.run("ping", "-n", "-c", "1", "-W", "12", ours.inner(4), check=False)
        assert " 1 received" in done.stdout
        assert flood.poll() is None, flood.communicate()[0]
        (tx,) = theirs.get("tx_bytes")
        assert int(tx) >= 2 * 148 + 128
    finally:
        theirs.close()
        log = ours.close()
    (refused,) = re.findall(r"cookie-required=(\d+)", log.splitlines()[-1])
    assert int(refused) > 64
