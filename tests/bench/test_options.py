"""What is refused before anything is made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qtunnel.bench.options import (
    HandshakeOptions,
    HubOptions,
    LinkOptions,
    RekeyOptions,
    TunnelOptions,
    parse_kinds,
)
from qtunnel.errors import BenchError

Options = TunnelOptions | RekeyOptions | HandshakeOptions | HubOptions


def test_what_is_left_out_is_sane() -> None:
    TunnelOptions(against=shutil.which("sh") or "").check()
    TunnelOptions(against="standard", mode="record", link=LinkOptions(congestion="reno")).check()
    RekeyOptions().check()
    HandshakeOptions().check()
    HubOptions().check()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (TunnelOptions(against="no-such-program"), "scripts/build-wireguard-go"),
        (TunnelOptions(against="sh", suite="aes-256-gcm"), "add --mode record"),
        (TunnelOptions(against="sh", seconds=0.5), "--seconds is 1 to 3600"),
        (TunnelOptions(against="sh", seconds=float("nan")), "--seconds is 1 to 3600"),
        (TunnelOptions(against="sh", rounds=0), "--rounds is 1 to"),
        (TunnelOptions(against="sh", link=LinkOptions(loss=100)), "--loss is a percentage"),
        (TunnelOptions(against="sh", link=LinkOptions(delay_ms=-1)), "--delay is 0 to 1000"),
        (
            TunnelOptions(against="sh", link=LinkOptions(congestion="none")),
            "--congestion is one of .*reno",
        ),
        (RekeyOptions(rekeys=0), "--rekeys is 1 to"),
        (RekeyOptions(interval=0.01), "--interval is 0.05 to"),
        (RekeyOptions(rate=-1), "--rate is 0 to"),
        (RekeyOptions(suite="aes-256-gcm"), "add --mode record"),
        (HandshakeOptions(rekeys=0), "--rekeys is 1 to"),
        (HubOptions(peers=0), "--peers is 1 to"),
        (HubOptions(round=0.5), "--round is 1 to"),
        (HubOptions(idle=float("nan")), "--idle is 1 to"),
        (HubOptions(state_dir=Path("state")), "--state-dir is an absolute path"),
    ],
)
def test_refusals_say_what_would_be_right(options: Options, words: str) -> None:
    with pytest.raises(BenchError, match=words):
        options.check()


def test_kinds_come_in_the_order_in_which_they_are_measured() -> None:
    assert parse_kinds("memory, tcp1") == ("tcp1", "memory")
    with pytest.raises(BenchError, match="no measurement 'tcp2'; there are: tcp1, tcp4, udp, rtt, memory"):
        parse_kinds("tcp1,tcp2")


def test_loss_implies_single_datagrams_and_a_router() -> None:
    assert (LinkOptions().cuts, LinkOptions().routed) == (False, False)
    assert (LinkOptions(loss=1).cuts, LinkOptions(loss=1).routed) == (True, True)
    assert (LinkOptions(delay_ms=1).cuts, LinkOptions(delay_ms=1).routed) == (False, True)
