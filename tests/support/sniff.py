"""What passes a host's interfaces, by AF_PACKET: a line ``listening``, then one a packet. Runs in a namespace."""

from __future__ import annotations

import socket
import sys

ETH_P_ALL = 3
SEEN = 128
"""Bytes of a packet that are told: headers of all layers."""


def main() -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        print("listening", flush=True)
        while True:
            data, (interface, protocol, kind, *_) = link.recvfrom(65536)
            sys.stdout.write(f"{interface} {kind} {protocol:04x} {len(data)} {data[:SEEN].hex()}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
