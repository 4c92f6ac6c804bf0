"""Either end of a UDP transfer in bursts of one sendmsg with UDP_SEGMENT: ``udp_bursts.py send|receive ADDRESS SIZE``.

The receiver, with UDP_GRO or without, wants every datagram with its content.
"""

from __future__ import annotations

import random
import socket
import struct
import sys

PORT = 5002
BURSTS = 50
SEGMENTS = 30
_UDP_SEGMENT = 103


def datagram(number: int, size: int) -> bytes:
    return struct.pack(">I", number) + random.Random(number).randbytes(size - 4)


def sizes(size: int) -> list[int]:
    """Of the datagrams of a burst; the last is shorter."""
    return [size] * (SEGMENTS - 1) + [size // 2]


def main() -> None:
    role, address, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as endpoint:
        endpoint.settimeout(20)
        if role == "send":
            endpoint.connect((address, PORT))
            for burst in range(BURSTS):
                payload = b"".join(datagram(burst * SEGMENTS + i, length) for i, length in enumerate(sizes(size)))
                endpoint.sendmsg([payload], [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("H", size))])
                assert endpoint.recv(100) == b"next"
            return
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        endpoint.bind((address, PORT))
        print("listening", flush=True)
        for burst in range(BURSTS):
            wanted = {datagram(burst * SEGMENTS + i, length) for i, length in enumerate(sizes(size))}
            while wanted:
                data, sender = endpoint.recvfrom(1 << 16)
                wanted.remove(data)
            endpoint.sendto(b"next", sender)
    print("complete", flush=True)


if __name__ == "__main__":
    main()
