"""ping(8) judged by which echoes were answered, never by how soon.

With a count alone, ping(8) ends two round trips after its last echo as soon as any was answered, whatever ``-W`` says:
an answer that a busy machine delays by 50 ms would count as lost. With a deadline (``-w``) it goes on until as many
answers came as were asked for.
"""

from __future__ import annotations

import re


def ping(address: str, count: int, *options: str, interval: float = 0.05, patience: int = 15) -> list[str]:
    """The command that sends ``count`` echoes, and more while answers are missing. interval, patience: seconds."""
    return ["ping", "-n", "-i", str(interval), "-c", str(count), "-w", str(patience), *options, address]


def answered(output: str) -> set[int]:
    """The numbers of the echoes that were answered, the first being 1."""
    return {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl=", output)}


def all_answered(output: str, count: int) -> bool:
    """Whether the first ``count`` were."""
    return answered(output) >= set(range(1, count + 1))


def gaps(output: str) -> set[int]:
    """Those that were not answered though a later one was; what was sent after that may be on its way."""
    found = answered(output)
    return set(range(1, max(found, default=0) + 1)) - found
