"""Durations, percentages, names and addresses, as a configuration writes them."""

from __future__ import annotations

import contextlib
import ipaddress
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from qtunnel.config.types import (
    AllowedNetwork,
    Host,
    InterfaceAddress,
    InterfaceName,
    Name,
    Port,
    SocketAddress,
    format_duration,
    parse_duration,
    parse_percentage,
    parse_socket_address,
    resolve,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("120s", 120),
        ("10m", 600),
        ("10min", 600),
        ("1h", 3600),
        ("1d", 86400),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        (" 1.5s ", 1.5),
    ],
)
def test_a_duration_has_a_unit(text: str, seconds: float) -> None:
    assert math.isclose(parse_duration(text), seconds)


@pytest.mark.parametrize("value", [120, 1.5, "120", "1.5"])
def test_a_bare_number_is_told_to_take_a_unit(value: object) -> None:
    with pytest.raises(ValueError, match=rf"needs a unit; write {value}s"):
        parse_duration(value)


@pytest.mark.parametrize(
    "value", ["", "s", "-5s", "5 weeks", "5S", "1h-30m", "٣s", True, None, [], {}, "1e3s", "nan", "inf s"]
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="500ms, 120s, 10m, 1h, 1d"):
        parse_duration(value)


@given(st.integers(0, 10_000_000_000))
def test_a_duration_survives_being_written_and_read(milliseconds: int) -> None:
    assert round(parse_duration(format_duration(milliseconds / 1000)) * 1000) == milliseconds


@given(st.text(max_size=20) | st.integers() | st.floats() | st.none() | st.booleans())
def test_parsers_raise_nothing_but_value_error(value: object) -> None:
    for parser in (parse_duration, parse_percentage, parse_socket_address):
        with contextlib.suppress(ValueError):
            parser(value)


def test_percentages() -> None:
    assert parse_percentage("10%") == 0.1
    assert parse_percentage(" 2.5 %") == 0.025
    for value, message in (
        (10, "write 10%"),
        ("0.1", r"write 0\.1%"),
        ("ten", "write 10%"),
        ("-1%", "not a percentage"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_percentage(value)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_a_listen_address_survives_being_written_and_read(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    written = SocketAddress(address, port)
    assert parse_socket_address(str(written)) == written


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("::1:5", "needs brackets"),
        ("0.0.0.0", "an address and a port"),
        ("localhost:51821", "not an IP address"),
        ("0.0.0.0:0", "from 1 to 65535"),
        ("0.0.0.0:65536", "from 1 to 65535"),
        ("[0.0.0.0]:5", "not an IP address"),
        (51821, "must be text"),
    ],
)
def test_listen_addresses_that_are_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_socket_address(value)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Name, ["a", "Alice-1.x_y", "0" * 63], ["", "-a", ".a", "a b", "a/b", "ä", "0" * 64, "a\n"]),
        (
            InterfaceName,
            ["qt0", "wg-a_b", "x" * 15],
            ["", "x" * 16, "a/b", "..", "a b", "a\n", "ä0", "a:1", "a%d", "lo", "all"],
        ),
        (
            Host,
            ["10.0.0.1", "2001:db8::1", "[2001:db8::1]", "vpn.example.org", "a", "fe80::1%eth0", "x.y."],
            [
                "",
                "10.0.0.1:5",
                "[::1]:5",
                "0.0.0.0",
                "::",
                "224.0.0.1",
                "10.0.0",
                "1.2.3.256",
                "-a.b",
                "a..b",
                "a b",
                "x" * 64,
            ],
        ),
        (AllowedNetwork, ["10.0.0.0/8", "0.0.0.0/0", "::/0", "10.0.0.1"], ["10.0.0.1/8", "10.0.0.0/33", "x", 5, None]),
        (InterfaceAddress, ["10.0.0.1/8", "fd77::1/64"], ["10.0.0.1/33", "x/8", 5, True]),
        (Port, [1, 65535], [0, 65536, -1, True, "51820", 1.0, 1.5]),
    ],
)
def test_what_a_type_takes(kind: Any, good: list[object], bad: list[object]) -> None:
    adapter = TypeAdapter[Any](kind)
    for value in good:
        adapter.validate_python(value)
    for value in bad:
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


def test_paths_start_at_the_files_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    context = {"directory": tmp_path}
    assert resolve(Path("a/b"), context) == tmp_path / "a/b"
    assert resolve(Path("/a/b"), context) == Path("/a/b")
    assert resolve(Path("~/b"), context) == Path("/home/somebody/b")
    assert resolve(Path("a"), None) == Path("a")
