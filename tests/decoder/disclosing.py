"""``qtunnel``, daemon and engine, which write down what a decoder has to be told: for tests alone.

disclosing.py DIRECTORY COMMAND...: in DIRECTORY comes one file a process, with a line for each 32 or 64 random bytes
that it drew, and one for each exchange it finished: epoch, suite, and the transcript's hash.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any


def main() -> None:
    here, directory = sys.argv[0], sys.argv.pop(1)
    sys.path.pop(0)  # this directory, whose modules are nobody's but the decoder's
    file = os.open(f"{directory}/disclosed-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    draw = os.urandom

    def told(size: int) -> bytes:
        bits = draw(size)
        if size in (32, 64):
            os.write(file, f"drawn {bits.hex()}\n".encode())
        return bits

    os.urandom = told  # before anybody takes it: it is handed into the rooms as an argument

    from qtunnel.cli.main import main as qtunnel
    from qtunnel.engines.programs import OWN, PROGRAMS
    from qtunnel.handshake import transcript

    own, finish = PROGRAMS[OWN], transcript.finish
    PROGRAMS[OWN] = replace(own, arguments=lambda name: [os.path.abspath(here), directory, *own.arguments(name)[2:]])

    def finished(state: Any, suite: Any, epoch: int, *rest: Any) -> Any:
        os.write(file, f"finished {epoch} {suite.id} {state.h.hex()}\n".encode())
        return finish(state, suite, epoch, *rest)

    setattr(transcript, "finish", finished)  # noqa: B010  # whose type would have to be told again
    qtunnel()


if __name__ == "__main__":
    main()
