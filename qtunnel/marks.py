"""The mark of what a socket sends, by which routing rules tell it from other traffic."""

from __future__ import annotations

import socket
import struct

_MARK = struct.Struct("=I")


def set_mark(sock: socket.socket, mark: int) -> None:
    """Let what the socket sends have this mark (SO_MARK of socket(7)), of 32 bits without a sign, where 0 is none.

    As bytes: Python passes numbers on as C has its int, which ends at 0x7fffffff. Raises ``OSError``.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _MARK.pack(mark))
