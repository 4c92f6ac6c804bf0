"""Audit logs made for tests, by a real key."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from qtunnel.audit.chain import Chain
from qtunnel.audit.head import SignedHead
from qtunnel.audit.verify import LogFile
from qtunnel.crypto.signature import SigningKey
from qtunnel.secret import Secret

KEY = SigningKey(Secret(bytes(range(32))))
OTHER_KEY = SigningKey(Secret(bytes(32)))


def time_of(number: int) -> str:
    """A time, later for a higher number."""
    return f"2026-11-24T14:{number // 60:02d}:{number % 60:02d}.000Z"


def new_chain(key: SigningKey = KEY) -> Chain:
    return Chain("alice", key.public, key.sign)


def opening(chain: Chain, number: int, before: str = "") -> bytes:
    return chain.open(time_of(number), "0.1", before, base64.b64encode(KEY.public).decode())


def make_log(
    sizes: Sequence[int], head_every: int, key: SigningKey = KEY, word: str = "agreed"
) -> tuple[list[LogFile], SignedHead]:
    """Files with that many records each besides their first ones, signed now and then, and a head of it all."""
    chain = Chain("alice", key.public, key.sign)
    files, number = [], 0
    for index, size in enumerate(sizes):
        text = chain.open(time_of(number), "0.1", "", base64.b64encode(key.public).decode())
        for position in range(size):
            number += 1
            text += chain.append(time_of(number), "rekey.done", "bob", {"epoch": number, "word": word})
            if (position + 1) % head_every == 0:
                text += chain.head(time_of(number))
        files.append(LogFile(f"audit-{index}", text))
    return files, chain.signed_end(time_of(number), chain.end)


def lines_of(files: Sequence[LogFile]) -> list[tuple[str, int, bytes]]:
    """Every line with its file and number."""
    return [(file.name, number, line) for file in files for number, line in enumerate(file.data.split(b"\n")[:-1], 1)]
