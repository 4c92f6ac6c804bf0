"""The driver ``exec`` with real programs: keys, arguments, options."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from qtunnel.drivers import program, registry
from qtunnel.errors import (
    KeyNotFoundError,
    KeySourceUnavailableError,
)
from qtunnel.keys.source import KeyRef
from tests.support.kme import run
from tests.support.vendor import ALL, GOOD, PEER, failure, hub_of, make_device, of_script, script


def test_the_registry_finds_it() -> None:
    assert registry.find("exec") is program.DRIVER


@pytest.mark.timeout(300)
def test_two_hundred_keys_reach_both_ends(tmp_path: Path) -> None:
    """Two sources, one device."""
    path = make_device(tmp_path)
    command: list[str | Path] = [path, tmp_path / "device", *ALL]

    async def test() -> None:
        alice, bob = (hub_of(*command) for _ in range(2))
        one = alice.for_peer(PEER)
        other = bob.for_peer(program.PeerOptions(peer="alice"))
        assert (one.name, one.description) == ("vendor", "exec:vendor")
        refs: set[str] = set()
        for _ in range(50):  # four at a time, so that none waits for its turn for long
            made = await asyncio.gather(*(one.get_key(32) for _ in range(4)))
            assert await asyncio.gather(*(other.get_key_by_id(ref) for ref, _ in made)) == [key for _, key in made]
            refs |= {ref.key_id for ref, _ in made}
        assert len(refs) == 200
        with pytest.raises(KeyNotFoundError, match=r"exit code 66 \(it has no such key\): no key") as caught:
            await other.get_key_by_id(made[0][0])
        assert caught.value.lost == 0
        await alice.close()
        await bob.close()

    asyncio.run(test())


@pytest.mark.parametrize("output", ["hex", "base64", "raw"])
def test_other_forms_of_a_key(tmp_path: Path, output: str) -> None:
    path = make_device(tmp_path)

    async def test() -> None:
        source = hub_of(path, tmp_path / "device", *ALL, output, output=output).for_peer(PEER)
        for size in (16, 32, 100):
            ref, key = await source.get_key(size)
            assert (len(key), len(ref.key_id), ref.key_id[14]) == (size, 36, "4")
            assert await source.get_key_by_id(ref) == key
        assert (await source.status()).healthy

    run(test)


def test_status_in_our_terms(tmp_path: Path) -> None:
    path = make_device(tmp_path)

    async def test() -> None:
        source = hub_of(path, tmp_path / "device", *ALL).for_peer(PEER)
        await source.get_key(32)
        told = await source.status()
        assert (told.healthy, told.stored_keys, told.max_keys, told.key_size) == (True, 1, 1000, 32)
        assert (told.qber, told.key_rate, told.alarm, told.detail) == (0.021, 1200, None, "link up, 1 keys stored")

    run(test)


def test_a_program_without_a_status_tells_how_the_last_call_ended(tmp_path: Path) -> None:
    path = script(tmp_path / "getkey", f"test -e {tmp_path}/down && exit 75; echo '{GOOD}'")
    ask = [str(path), "{key_id}"]

    async def test() -> None:
        for options in ({"command": ask, "get_key": [str(path)]}, {"command": [*ask, "{call}"], "status": "off"}):
            (tmp_path / "down").unlink(missing_ok=True)
            source = program.Hub("vendor", program.Options.model_validate(options)).for_peer(PEER)
            assert (await source.status()).detail == "the program tells no status"
            await source.get_key(32)
            (tmp_path / "down").touch()
            await failure(source)
            assert isinstance(await failure(source, "status"), KeySourceUnavailableError)

    run(test)


def test_arguments_environment_and_descriptors(tmp_path: Path) -> None:
    """No shell looks at the arguments; nothing of the daemon's own leaks."""
    seen = tmp_path / "seen"
    code = f"""#!{Path(sys.executable).resolve()} -IS
import json, os, sys
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines() if ":" in line)
with open({str(seen)!r}, "a") as file:
    json.dump({{"argv": sys.argv, "environ": dict(os.environ), "cwd": os.getcwd(), "stdin": sys.stdin.read(),
        "fds": sorted(int(name) for name in os.listdir("/proc/self/fd")), "leader": os.getsid(0) == os.getpid(),
        "caps": [status[name].strip() for name in ("CapEff", "CapPrm", "CapAmb")], "nnp": status["NoNewPrivs"].strip(),
        "pipe": os.sys.modules["signal"].getsignal(13).name if "signal" in os.sys.modules else status["SigIgn"].strip(),
        }}, file)
    file.write("\\n")
print({GOOD!r})
"""
    path = tmp_path / "getkey"
    path.write_text(code)
    path.chmod(0o755)
    odd = "$(touch x); `id` {size_bits} {{peer}} *"

    async def test() -> None:
        os.environ["QTUNNEL_TEST_SECRET"] = "hidden"
        held = os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(held, False)
        try:
            hub = hub_of(path, *ALL, odd, environment={"VENDOR_CONFIG": "/etc/vendor.conf"})
            await hub.for_peer(PEER).get_key(32)
            await hub_of(path, *ALL, privileges="keep").for_peer(PEER).get_key(32)
        finally:
            os.close(held)
            del os.environ["QTUNNEL_TEST_SECRET"]

    run(test)
    dropped, kept = (json.loads(line) for line in seen.read_text().splitlines())
    assert dropped["argv"] == [
        str(path),
        "get_key",
        "bob",
        "256",
        "",
        odd.replace("{size_bits}", "256").replace("{{peer}}", "{bob}"),
    ]
    expected = {**program.ENVIRONMENT, "VENDOR_CONFIG": "/etc/vendor.conf"}
    assert {name: value for name, value in dropped["environ"].items() if name != "LC_CTYPE"} == expected
    assert (dropped["cwd"], dropped["stdin"], dropped["leader"]) == ("/", "", True)
    assert dropped["fds"][:3] == [0, 1, 2]
    assert len(dropped["fds"]) <= 5, "the three, and what it opened itself"
    assert dropped["caps"] == ["0" * 16] * 3
    assert dropped["nnp"] == "1"
    assert kept["nnp"] == "0"
    if os.geteuid() == 0:
        assert kept["caps"][0] != "0" * 16


@pytest.mark.parametrize("key_id", ["", "-x", "--help", "a b", "a\nb", "a\0b", "ключ", "x" * 256, "\x1b[31m"])
def test_a_key_id_that_no_argument_may_be_is_not_asked_for(tmp_path: Path, key_id: str) -> None:
    async def test() -> None:
        source = of_script(tmp_path, f"touch {tmp_path}/asked")
        with pytest.raises(KeyNotFoundError, match="is no usable key_ID") as caught:
            await source.get_key_by_id(KeyRef("vendor", key_id, 32))
        assert caught.value.lost == 0
        assert str(caught.value).isprintable()
        assert not (tmp_path / "asked").exists()

    run(test)


@given(st.text(alphabet="{}abcdeilprsz_ky$", max_size=30), st.text(max_size=10))
def test_what_is_put_in_is_not_looked_at_again(template: str, value: str) -> None:
    values = dict.fromkeys(program.PLACEHOLDERS, "{peer}" + value)
    try:
        options = program.Options.model_validate({"command": ["/x", "{call}", "{key_id}", template]})
    except ValidationError:
        return
    assert options.command is not None
    filled = program.filled(options.command, values)
    assert (len(filled), filled[0], filled[1]) == (4, "/x", "{peer}" + value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "command is missing"),
        ({"command": []}, "at least 1 item"),
        ({"command": "/x {call} {key_id}"}, "tuple"),
        ({"command": ["x", "{call}", "{key_id}"]}, "write the program's whole path"),
        ({"command": ["/x/{peer}", "{call}", "{key_id}"]}, "write the program's whole path"),
        ({"command": ["/x", "{call}", "{key_id}", "{key}"]}, r"has \{key\}, which stands for nothing"),
        ({"command": ["/x", "{key_id}"]}, r"needs \{call\}"),
        ({"command": ["/x", "{call}"]}, r"needs \{key_id\}"),
        ({"command": ["/x", "{call}", "a\0b"]}, "zero byte"),
        ({"get_key": ["/x"]}, "command is missing"),
        ({"get_key": ["/x"], "get_key_by_id": ["/x", "{key_id}"], "output": "hex"}, r"put \{key_id\} among"),
        ({"command": ["/x", "{call}", "{key_id}"], "timeout": "1m"}, "timeout is longer than 14s, .*; the usual is 5s"),
        ({"command": ["/x", "{call}", "{key_id}"], "at_once": 0}, "greater than or equal to 1"),
        ({"command": ["/x", "{call}", "{key_id}"], "environment": {"A=B": "c"}}, "no name of a variable"),
        ({"command": ["/x", "{call}", "{key_id}"], "environment": {"LD_PRELOAD": "c"}}, "other code"),
        ({"command": ["/x", "{call}", "{key_id}"], "status": "on"}, "tuple"),
        ({"command": ["/x", "{call}", "{key_id}"], "output": "xml"}, "json"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        program.Options.model_validate(options)


@pytest.mark.parametrize("peer", ["", "-x", "a b", "x" * 256])
def test_peers_that_cannot_be(peer: str) -> None:
    with pytest.raises(ValidationError):
        program.PeerOptions(peer=peer)


def test_what_looks_like_a_secret_among_the_arguments_is_told_and_not_repeated() -> None:
    options = program.Options.model_validate({
        "command": ["/x", "{call}", "{key_id}", "--password=hunter2"], "environment": {"API_TOKEN": "hunter2"},
    })  # fmt: skip
    told = list(program.DRIVER.doubts(options))
    assert [text.partition(",")[0] for text in told] == [
        "argument 3 of /x looks like a secret",
        "the environment variable API_TOKEN looks like a secret",
    ]
    assert "hunter2" not in " ".join(told)
    assert list(program.DRIVER.doubts(program.Options.model_validate({"command": ["/x", "{call}", "{key_id}"]}))) == []
