"""A program for a namespace of its own: to a real TUN goes a peer's super-packet that every kernel refuses, of more UDP
segments than there may be (UDP_MAX_SEGMENTS, 128 at most). Prints how many packets arrived, and what was lost."""

from __future__ import annotations

import errno
import os
import socket
import subprocess

from qtunnel.netio.inbound import Inbound
from qtunnel.netio.routes import Routes
from qtunnel.netio.tun import Tun
from qtunnel.netio.udp import UdpPort
from tests.offload.reference import UDP, Packet
from tests.wireguard.world import connected

SEGMENTS = 150
SIZE = 100
PORT = 9000


def main() -> None:
    _, alice, bob = connected()
    tun = Tun("refusing0")
    for words in (f"addr add {bob.inner}/24 dev {tun.name}", f"link set {tun.name} up"):
        subprocess.run(["ip", *words.split()], check=True)
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    receiver.bind((bob.inner, PORT))
    receiver.settimeout(10)
    payload = b"".join(bytes((number,)) * SIZE for number in range(SEGMENTS))
    packet = Packet(
        version=4,
        protocol=UDP,
        payload=payload,
        ports=(5, PORT),
        source=socket.inet_aton(alice.inner),
        destination=socket.inet_aton(bob.inner),
    )
    item = packet.super_packet(SIZE, 0)
    try:
        os.write(tun.fd, item)
    except OSError as error:
        print("the kernel:", errno.errorcode.get(error.errno or 0))
    inbound = Inbound(tun, bob.device, UdpPort(Routes(), segments=False))
    inbound._deliver(bob.peer(alice), [memoryview(bytearray(item))])
    arrived = [receiver.recv(2 * SIZE) for _ in range(SEGMENTS)]
    print("arrived:", len(arrived), b"".join(arrived) == payload)
    print("lost:", dict(inbound.errors), dict(bob.device.drops))


if __name__ == "__main__":
    main()
