"""Schedules as a configuration writes them: amounts with units, bounds, and what contradicts what."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.cli.check import check
from qtunnel.config import Config, load_config
from qtunnel.config.amounts import MAX_AMOUNT, format_amount, parse_bytes, parse_count
from qtunnel.daemon.settings import all_settings, load_public
from qtunnel.kme.pki import create_pki
from tests.config.conftest import MINIMAL

Errors = Callable[[str | bytes], list[str]]


def rekey(text: str, *, engine: str = "qtunnel", qkd: str = "") -> str:
    """The minimal file with this ``rekey``."""
    whole = MINIMAL.replace("    qkd:\n", f"    rekey: {{{text}}}\n    qkd:\n{qkd}")
    return whole.replace("tunnel:\n", f"tunnel:\n  engine: {engine}\n")


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("10G", 10**10), ("10 GB", 10**10), ("1.5M", 1_500_000), ("4096B", 4096), ("1GiB", 2**30), ("1 Ki", 1024),
        (" 2T ", 2 * 10**12), ("0.5k", 500), ("1P", 10**15),
    ],
)  # fmt: skip
def test_bytes_have_a_unit(text: str, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize("value", [10, 10_000_000_000, "10000000000", 1.5])
def test_a_bare_number_of_bytes_is_told_to_take_a_unit(value: object) -> None:
    with pytest.raises(ValueError, match=rf"needs a unit; write {value}B for bytes, {value}M, {value}G"):
        parse_bytes(value)


@pytest.mark.parametrize(
    "value",
    ["", "G", "-5G", "10 gigabytes", "10g", "10Gb", "1e9B", "٣G", True, None, [], {}, "nan", "10,5G", "9" * 30 + "G"],
)
def test_what_is_no_amount_of_bytes_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="500M, 10G, 1T"):
        parse_bytes(value)


def test_packets_are_a_number_with_or_without_a_prefix() -> None:
    assert [parse_count(value) for value in (1_000_000, "1000000", "5M", "1.5k", "1G")] == [
        1_000_000, 1_000_000, 5_000_000, 1500, 10**9,
    ]  # fmt: skip
    for value, words in (
        ("10GB", "is an amount of bytes"), ("many", "1000000, 50M, 1G"), (0, "a whole one"), (1.5, "a whole one"),
        (-3, "1000000, 50M, 1G"), (True, "1000000, 50M, 1G"), (None, "1000000, 50M, 1G"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            parse_count(value)


@given(st.integers(1, MAX_AMOUNT))
def test_an_amount_survives_being_written_and_read(amount: int) -> None:
    assert parse_bytes(f"{format_amount(amount)}B") == amount
    assert parse_count(format_amount(amount)) == amount


@given(st.text(max_size=20) | st.integers() | st.floats() | st.none() | st.booleans() | st.lists(st.integers()))
def test_parsers_raise_nothing_but_value_error(value: object) -> None:
    for parser in (parse_bytes, parse_count):
        with contextlib.suppress(ValueError):
            parser(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (rekey("bytes: 10"), "peers[0].rekey.bytes: an amount of bytes needs a unit; write 10B for bytes"),
        (rekey("bytes: 500k"), "peers[0].rekey.bytes: is less than 1MB, which a busy tunnel carries"),
        (rekey("packets: 999"), "peers[0].rekey.packets: is less than 1k, which a busy tunnel carries"),
        (rekey("packets: 10GB"), "peers[0].rekey.packets: is an amount of bytes"),
        (rekey("packets: 1M", engine="wireguard-go"), "needs engine: qtunnel; wireguard-go does not count packets"),
        (rekey("packets: 1M", engine="boringtun-cli"), "needs engine: qtunnel; boringtun-cli does not count packets"),
        (rekey("min_interval: 3m"), "peers[0].rekey.min_interval: is longer than interval, 2m"),
        (rekey("max_interval: 1m"), "peers[0].rekey.max_interval: is shorter than interval, 2m"),
        (rekey("min_interval: 100ms"), "peers[0].rekey.min_interval: is shorter than 1s"),
        (rekey("max_interval: 300"), "peers[0].rekey.max_interval: a duration needs a unit"),
        (
            rekey("max_interval: 10m"),
            "peers[0].rekey.max_interval: is 10m, and a key gets at most 10m old (qkd.max_age): that leaves no time "
            "for a second try, by either end; lower it to at most 350s, or raise max_age",
        ),
        (
            rekey("max_interval: 125s", qkd="      max_age: 140s\n"),
            "a key gets at most 140s old (qkd.max_age): that leaves no time for a second try, by either end; leave it",
        ),
        (rekey("minimum: 1m"), "peers[0].rekey.minimum"),
        (rekey("jitter: 60%"), "peers[0].rekey.jitter: is more than 50%"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_with_what_would_be_right(
    errors_of: Errors, text: str, expected: str
) -> None:
    (line,) = errors_of(text)
    assert expected in line


def test_bounds_without_qkd_are_refused(errors_of: Errors) -> None:
    text = MINIMAL[: MINIMAL.index("key_sources:")] + MINIMAL[MINIMAL.index("peers:") : MINIMAL.index("    qkd:")]
    text += "    rekey: {min_interval: 60s, max_interval: 5m}\n    qkd: off\n"
    lines = errors_of(text)
    assert len(lines) == 2
    assert all("qkd.policy is off, so there is no supply of keys" in line for line in lines)
    (line,) = errors_of(text.replace("max_interval", "bytes: 10G, max_interval"))
    assert "rekey.max_interval" in line, "min_interval also bounds what traffic may bring about"


def test_the_longest_that_is_allowed_is_allowed(write: Callable[[str], Path]) -> None:
    config = load_config(write(rekey("max_interval: 350s")), environ={})
    assert config.peers[0].rekey.max_interval == 350


def settings(config: Config) -> tuple[object, ...]:
    (its,) = all_settings(config, load_public(config))
    return its.min_interval, its.max_interval, its.max_bytes, its.max_packets


def test_a_schedule_reaches_the_core_and_the_summary(write: Callable[[str], Path]) -> None:
    path = write(rekey("interval: 2m, min_interval: 60s, max_interval: 5m, bytes: 10G, packets: 50M"))
    assert settings(load_config(path, environ={})) == (60, 300, 10**10, 50_000_000)
    assert settings(load_config(write(MINIMAL), environ={})) == (None, None, None, None)
    load_config(write(rekey("interval: 2m, min_interval: 60s, max_interval: 5m, bytes: 10G, packets: 50M")), environ={})


def test_check_says_all_of_it(site: Path) -> None:
    create_pki(site / "new", now=datetime.now(UTC))
    text = rekey("interval: 2m, min_interval: 60s, max_interval: 5m, bytes: 10G, packets: 50M")
    (site / "node.yaml").write_text(text.replace("pki/", "new/"))
    said = CliRunner().invoke(check, [str(site / "node.yaml")]).output
    assert "every 2m ± 10% (1m to 5m, as keys abound or run low) or 10GB or 50M packets; a key older" in said


def test_only_bounds_that_differ_move_the_interval(write: Callable[[str], Path]) -> None:
    for text, moves in (("", False), ("min_interval: 2m, max_interval: 2m", False), ("min_interval: 1m", True)):
        assert load_config(write(rekey(f"interval: 2m, {text}")), environ={}).peers[0].rekey.moves is moves
