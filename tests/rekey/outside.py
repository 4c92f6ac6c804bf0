"""What somebody outside gets out of a gateway before it knows who speaks: ``make timing`` measures how long each kind
of first message is worked on; test_outside.py holds that none is answered, whatever was wrong with it.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

from qtunnel.handshake.fragments import Message, MessageType, cut, mac1_key
from qtunnel.handshake.initiator import Initiator
from qtunnel.handshake.messages import ChainRef, Offer
from qtunnel.identity import Identity
from qtunnel.rekey.model import Send
from qtunnel.rekey.node import RekeyNode
from qtunnel.secret import Secret
from qtunnel.tai64n import tai64n
from qtunnel.terms import ChainPolicy, KeyRef, Policy, QkdPolicy
from tests.rekey.gateways import IDENTITIES, OFF, SUITE, node, now, settings

PAIRING = bytes(range(32))
STRICT = Policy(QkdPolicy.REQUIRED, 2, ChainPolicy.REQUIRED)
CHAINS = (ChainRef(3, bytes(16)),)
KEYS = (KeyRef("metro", "key-1", 32), KeyRef("backbone", "key-2", 32))
B, C = IDENTITIES["b"], IDENTITIES["c"]
POSING = cast(Identity, SimpleNamespace(public=B.public, dh=C.dh))
"""Who has b's public file and not its key, and says to be b."""


def hub() -> RekeyNode:
    """A gateway with one peer, b, which proves itself by a pairing secret too. c is nobody's peer."""
    return node("hub", settings("b", pairing=Secret(PAIRING), has_endpoint=False))


def first(
    who: Identity,
    at: float,
    *,
    pairing: bytes = PAIRING,
    strict: bool = False,
    change: Callable[[bytearray], None] | None = None,
    mac_of: str = "hub",
) -> list[bytes]:
    """Datagrams of a message 1 to the hub. strict: another policy, with a chain and keys offered."""
    exchange = os.urandom(16)
    offer = Offer(tai64n(now(at).unix_ns), 1, STRICT if strict else OFF, 0, CHAINS * strict, KEYS * strict)
    to = IDENTITIES["hub"].public
    made = Initiator(who, to, SUITE, exchange, offer, os.urandom, pairing=Secret(pairing))
    body = bytearray(made.message)
    if change is not None:
        change(body)
    return cut(Message(MessageType.INIT, SUITE.id, exchange, bytes(body)), mac1_key(IDENTITIES[mac_of].public.id))


def _randomly(body: bytearray) -> None:
    body[:] = os.urandom(len(body))


def _flip_end(body: bytearray) -> None:
    body[-1] ^= 1


CASES: dict[str, Callable[[float], list[bytes]]] = {
    "for another gateway (mac1)": lambda at: first(B, at, mac_of="c"),
    "random bytes": lambda at: first(B, at, change=_randomly),
    "an unknown peer": lambda at: first(C, at),
    "an unknown peer, strict policy": lambda at: first(C, at, strict=True),
    "a known peer, without its key": lambda at: first(POSING, at),
    "a known peer, without its key, strict policy": lambda at: first(POSING, at, strict=True),
    "a known peer, wrong pairing secret": lambda at: first(B, at, pairing=bytes(32)),
    "a known peer, wrong pairing secret, strict policy": lambda at: first(B, at, pairing=bytes(32), strict=True),
    "a known peer, one bit of the offer changed": lambda at: first(B, at, change=_flip_end),
}
"""First messages that prove nothing, by what is wrong with them."""

ALIKE = "a known peer, without its key"
"""What the others are compared with."""


def _measure(samples: int) -> tuple[dict[str, list[float]], Counter[str]]:
    """Microseconds of processor time for each case's message, all of it, and the answers; in an order by chance, a
    second apart, so that no limit of rates is met."""
    gateway, times, answers = hub(), {name: list[float]() for name in CASES}, Counter[str]()
    order = list(CASES) * samples
    random.Random(1).shuffle(order)
    for number, name in enumerate(order):
        at = 10.0 + number
        datagrams = CASES[name](at)
        moment = now(at)
        begin = time.thread_time_ns()
        for datagram in datagrams:
            gateway.receive(datagram, f"outside-{number}", moment)
        times[name].append((time.thread_time_ns() - begin) / 1000)
        sent = [effect for effect in gateway.take_effects() if isinstance(effect, Send)]
        answers[name] += len(sent) + len(gateway.take_replies())
    return times, answers


def _slower(one: list[float], other: list[float]) -> float:
    """How often a sample of ``one`` is slower than one of ``other``: 0.5 where they cannot be told apart."""
    wins = sum((a > b) + 0.5 * (a == b) for a in one for b in other)
    return wins / (len(one) * len(other))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=300, help="for each case")
    times, answers = _measure(parser.parse_args().samples)
    print(f"Python {platform.python_version()}, {platform.machine()}, {len(times[ALIKE])} messages of each kind\n")
    print(f"| message 1 of | answers | 5 % | median, µs | 95 % | slower than {ALIKE} |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, its in times.items():
        cuts = statistics.quantiles(its, n=20)
        share = "" if name == ALIKE else f"{_slower(its, times[ALIKE]):.2f}"
        print(f"| {name} | {answers[name]} | {cuts[0]:.0f} | {statistics.median(its):.0f} | {cuts[-1]:.0f} | {share} |")


if __name__ == "__main__":
    main()
