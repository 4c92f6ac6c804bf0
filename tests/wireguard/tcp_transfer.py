"""Either end of a TCP transfer whose content is checked: ``tcp_transfer.py send|receive ADDRESS SIZE``."""

from __future__ import annotations

import hashlib
import random
import socket
import sys

PORT = 5001


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def main() -> None:
    role, address, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if role == "send":
        with socket.create_connection((address, PORT), timeout=30) as connection:
            connection.sendall(content(size))
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(2) == b"ok"
        return
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, PORT), family=family) as server:
        server.settimeout(30)
        print("listening", flush=True)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(30)
            digest = hashlib.sha256()
            while data := connection.recv(1 << 16):
                digest.update(data)
            assert digest.digest() == hashlib.sha256(content(size)).digest()
            connection.sendall(b"ok")
    print("complete", flush=True)


if __name__ == "__main__":
    main()
