"""What can be seen of an engine from outside: datagrams its host sent, and what it counted."""

from __future__ import annotations

import time

from tests.support.netns import Namespace
from tests.wireguard.gateways import Gateway


def datagrams_sent(host: Namespace) -> int:
    """UDP datagrams that left any socket of the namespace since it was made."""
    lines = host.run("cat", "/proc/net/snmp", "/proc/net/snmp6").stdout.splitlines()
    names, values = (line.split() for line in lines if line.startswith("Udp:"))
    ipv6 = next(int(line.split()[1]) for line in lines if line.startswith("Udp6OutDatagrams"))
    return int(values[names.index("OutDatagrams")]) + ipv6


def stays_silent(host: Namespace, seconds: float = 1.5) -> bool:
    """Whether nothing at all is sent for so long, more than the shortest keepalive interval."""
    before = datagrams_sent(host)
    time.sleep(seconds)
    return datagrams_sent(host) == before


def counted(gateway: Gateway) -> tuple[int, int]:
    """tx_bytes and rx_bytes of the only peer."""
    (sent,), (received,) = gateway.get("tx_bytes"), gateway.get("rx_bytes")
    return int(sent), int(received)
