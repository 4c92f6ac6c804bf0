"""Send handshake initiations of nobody to ADDRESS, PORT with the public key KEY: ``flood.py ADDRESS PORT KEY``.

They have a valid mac1, so that only load makes the receiver refuse them. 200 a second, for 15 s at most.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import time

from qtunnel.wireguard.cookie import mac1_key
from qtunnel.wireguard.messages import Initiation

PER_BURST, PAUSE, BURSTS = 20, 0.1, 150


def main(address: str, port: str, key: str) -> None:
    mac_key = mac1_key(bytes.fromhex(key))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, int(port)))
        for _ in range(BURSTS):
            for _ in range(PER_BURST):
                body = Initiation(1, os.urandom(32), os.urandom(48), os.urandom(28)).pack()[:-32]
                mac1 = hashlib.blake2s(body, key=mac_key, digest_size=16).digest()
                sock.send(body + mac1 + bytes(16))
            time.sleep(PAUSE)


if __name__ == "__main__":
    main(*sys.argv[1:])
