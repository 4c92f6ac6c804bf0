"""An engine in the hands of scripts: started again under the same name, and told a log level of other programs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support.netns import Namespace, namespaces, unique_name, wait_until
from tests.wireguard.gateways import socket_path, talk

pytestmark = pytest.mark.root

PROGRAM = str(Path(sys.executable).with_name("qtunnel-wg"))


def end(host: Namespace, interface: str) -> None:
    host.ip("link", "del", interface)
    wait_until(lambda: not socket_path(interface).exists(), "the engine ended")


def test_the_name_is_free_again_at_once() -> None:
    interface = unique_name("qa")
    with namespaces(1) as (host,):
        for _ in range(4):
            host.run(PROGRAM, interface)
            assert talk(interface, "get=1\n\n") == "errno=0\n\n"
            host.ip("link", "del", interface)
        host.run(PROGRAM, interface)
        end(host, interface)


@pytest.mark.parametrize("level", ["verbose", "silent", "error", "debug"])
def test_log_levels_of_other_implementations(level: str) -> None:
    interface = unique_name("qa")
    with namespaces(1) as (host,):
        done = host.run(PROGRAM, interface, env=os.environ | {"LOG_LEVEL": level})
        assert (done.stdout, done.stderr) == ("", "")
        end(host, interface)
