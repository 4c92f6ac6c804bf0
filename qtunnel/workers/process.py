"""The process of a worker: it answers the engine until that is gone, and has nothing else of it."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import signal
import socket
from typing import Final, NoReturn

from qtunnel.process import drop_privileges
from qtunnel.workers.bursts import BurstWorker
from qtunnel.workers.messages import MAX_MESSAGE, Status

_STANDARD: Final = 3
"""Descriptors of input, output and errors."""

_MAX_DESCRIPTOR: Final = 4096


def be_worker(sock: socket.socket, memory: memoryview, *, udp_segments: bool) -> NoReturn:
    """Never returns: what follows in the caller's program is the engine's to do.

    To be called in a child just forked, by an engine that has no keys yet. The engine's end of ``sock`` tells when to
    go, so signals to the whole group, as Ctrl-C sends them, are ignored.
    """
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        sock = _keep_only(sock)
        drop_privileges()
        worker = BurstWorker(memory, udp_segments=udp_segments)
        gc.freeze()
        _serve(sock, worker)
        code = 0
    except OSError:  # the engine is gone
        code = 0
    except Exception as error:  # its words could hold what it worked on; its type cannot
        with contextlib.suppress(OSError):
            sock.send(bytes((Status.FAILED,)) + type(error).__name__.encode())
    finally:
        os._exit(code)


def _keep_only(sock: socket.socket) -> socket.socket:
    """Close all else: who waits for the engine's output must not wait for this process, too."""
    kept = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, _STANDARD)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(_STANDARD):
        os.dup2(null, descriptor)
    os.closerange(_STANDARD, kept)
    os.closerange(kept + 1, _MAX_DESCRIPTOR)
    sock.detach()
    return socket.socket(fileno=kept)


def _serve(sock: socket.socket, worker: BurstWorker) -> None:
    while message := sock.recv(MAX_MESSAGE):
        answer = worker.answer(message)
        if answer is not None:
            sock.send(answer)
