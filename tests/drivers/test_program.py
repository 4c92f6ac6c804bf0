"""The driver ``exec`` with real programs."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from qtunnel.drivers import program, registry
from qtunnel.drivers.program_answers import MAX_TEXT, complaint, key_in, usable_key_id
from qtunnel.drivers.program_run import check_program
from qtunnel.errors import (
    ConfigError,
    FilePermissionError,
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceTimeoutError,
    KeySourceUnauthorizedError,
    KeySourceUnavailableError,
    KeySourceUnreachableError,
)
from qtunnel.keys.source import KeyRef
from tests.support.kme import run, until
from tests.support.vendor import make_device, script

PEER = program.PeerOptions(peer="bob")
ALL = ["{call}", "{peer}", "{size_bits}", "{key_id}"]
KEY = bytes.fromhex("1bb2f40745a13e355c09d4516634b06bf8b3e61edd6acb340067f9e152735138")
GOOD = json.dumps({"key_ID": "k1", "key": base64.b64encode(KEY).decode()})


def hub_of(*command: str | Path, **options: Any) -> program.Hub:
    plain = {"command": [str(word) for word in command], "timeout": "14s", **options}
    return program.Hub("vendor", program.Options.model_validate(plain))


def of_script(directory: Path, text: str, **options: Any) -> program.Source:
    """A source whose program is that shell script."""
    return hub_of(script(directory / "getkey", text), *ALL, **options).for_peer(PEER)


async def failing(source: program.Source, call: str = "get_key") -> KeySourceError:
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "get_key": lambda: source.get_key(32),
        "get_key_by_id": lambda: source.get_key_by_id(KeyRef("vendor", "k1", 32)),
        "status": source.status,
    }
    with pytest.raises(KeySourceError) as caught:
        await calls[call]()
    assert str(caught.value).isprintable()
    return caught.value


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


@pytest.mark.parametrize(
    ("body", "healthy", "alarm"),
    [
        ("{}", True, None),
        ('{"stored_keys": 0}', False, None),
        ('{"stored_keys": 0, "healthy": true}', True, None),
        ('{"healthy": false, "alarm": "QBER 14 %"}', False, "QBER 14 %"),
        ('{"stored_keys": "many", "qber": -1, "key_size": true, "alarm": 7}', True, None),
    ],
)
def test_a_status_with_gaps(tmp_path: Path, body: str, healthy: bool, alarm: str | None) -> None:
    async def test() -> None:
        told = await of_script(tmp_path, f"echo '{body}'").status()
        assert (told.healthy, told.alarm) == (healthy, alarm)

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
            await failing(source)
            assert isinstance(await failing(source, "status"), KeySourceUnavailableError)

    run(test)


# What the program gets


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


@given(st.text())
def test_usable_key_ids(text: str) -> None:
    plain = text.isascii() and text.isprintable() and " " not in text and not text.startswith("-")
    assert usable_key_id(text) == (plain and 0 < len(text) <= 255)


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


# What it answers


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "it printed nothing"),
        ("hello", "not JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 5000, "not JSON"),
        ('{"key_ID": "k1"}', "the key's value is missing"),
        ('{"key": "AAAA"}', "no usable key_ID"),
        ('{"key_ID": "-k", "key": "AAAA"}', "no usable key_ID"),
        ('{"key_ID": 7, "key": "AAAA"}', "no usable key_ID"),
        ('{"key_ID": "k1", "key": "AAAA"}', "the key has 24 bits where 256 were asked for"),
        ('{"key_ID": "k1", "key": "AA AA"}', "the key is not base64"),
        ('{"key_ID": "k1", "KEY_id": "k1", "key": "AAAA"}', "a field is there twice"),
        ('{"keys": []}', "not have exactly one key"),
        ('{"keys": [{}, {}]}', "not have exactly one key"),
    ],
)
def test_answers_that_leave_a_doubt(tmp_path: Path, body: str, said: str) -> None:
    async def test() -> None:
        source = of_script(tmp_path, f"cat {tmp_path}/body")
        (tmp_path / "body").write_text(body)
        for call in ("get_key", "get_key_by_id"):
            error = await failing(source, call)
            assert isinstance(error, KeySourceProtocolError)
            assert said in error.detail
            assert error.lost == 1

    run(test)


def test_a_key_container_of_etsi_014_is_taken_too(tmp_path: Path) -> None:
    async def test() -> None:
        source = of_script(tmp_path, f"echo '{{\"keys\": [{GOOD}]}}'")
        ref, key = await source.get_key(32)
        assert (ref.key_id, bytes(key.reveal())) == ("k1", KEY)
        assert await source.get_key_by_id(ref) == key
        with pytest.raises(KeySourceProtocolError, match="answered with key_ID k1 where k2 was asked for"):
            await source.get_key_by_id(KeyRef("vendor", "k2", 32))

    run(test)


@given(st.binary(max_size=60), st.sampled_from(["json", "hex", "base64", "raw"]))
def test_no_output_breaks_the_reader(data: bytes, kind: Any) -> None:
    def fail(what: str) -> KeySourceError:
        return KeySourceProtocolError("x", "y", what)

    with contextlib.suppress(KeySourceError):
        _, key = key_in(bytearray(data), kind, "k1", 32, fail)
        assert len(key) == 32


@pytest.mark.parametrize(
    ("code", "kind", "lost"),
    [
        (64, KeyRequestRejectedError, 0),
        (66, KeyNotFoundError, 0),
        (69, KeySourceUnavailableError, 0),
        (75, KeySourceUnavailableError, 0),
        (77, KeySourceUnauthorizedError, 0),
        (1, KeySourceUnavailableError, 1),
        (127, KeySourceUnavailableError, 1),
    ],
)
def test_exit_codes(tmp_path: Path, code: int, kind: type[KeySourceError], lost: int) -> None:
    async def test() -> None:
        source = of_script(tmp_path, f"echo starting >&2; echo 'the link is down' >&2; exit {code}")
        error = await failing(source)
        assert (type(error), error.lost) == (kind, lost)
        assert error.detail.startswith(f"exit code {code}")
        assert error.detail.endswith(": the link is down")
        assert (await failing(source, "status")).lost == 0

    run(test)


def test_no_key_of_its_complaints_gets_into_an_error(tmp_path: Path) -> None:
    path = make_device(tmp_path)

    async def test() -> None:
        source = hub_of(path, tmp_path / "device", *ALL).for_peer(PEER)
        (tmp_path / "device" / "fault").write_text("leaks")
        error = await failing(source)
        (file,) = (tmp_path / "device" / "keys").iterdir()
        key = file.read_bytes()
        assert error.detail == "exit code 3: key [removed] is [removed]"
        assert key.hex() not in str(error)

    run(test)


@pytest.mark.parametrize(
    "text",
    [
        KEY.hex(), KEY.hex().upper(), KEY[:16].hex(), KEY.hex(":"), KEY.hex(" "), base64.b64encode(KEY).decode(),
        f"key={KEY.hex()}", f'{{"key": "{base64.b64encode(KEY).decode()}"}}',
    ],
)  # fmt: skip
def test_what_looks_like_a_key_is_taken_out(text: str) -> None:
    said = complaint(f"bad: {text}\n".encode(), bytearray())
    assert "[removed]" in said
    assert not any(part in said.lower() for part in (KEY.hex()[:16], KEY.hex(":")[:20], KEY.hex(" ")[:20]))
    assert base64.b64encode(KEY).decode()[:12] not in said


def test_what_stands_in_its_output_is_taken_out_of_its_complaints() -> None:
    assert complaint(b"short-key 12-34-56-78-90 failed", bytearray(b"12-34-56-78-90\n")) == "short-key [removed] failed"


# What it may not do


def test_a_flood_of_complaints_does_not_hold_it_up(tmp_path: Path) -> None:
    async def test() -> None:
        source = of_script(tmp_path, f"head -c 3000000 /dev/zero | tr '\\0' x >&2; echo '{GOOD}'")
        await source.get_key(32)

    run(test)


@pytest.mark.parametrize("extra", [0, 1])
def test_output_up_to_its_bound(tmp_path: Path, extra: int) -> None:
    limit = MAX_TEXT + 64

    async def test() -> None:
        (tmp_path / "body").write_text(GOOD.ljust(limit + extra))
        source = of_script(tmp_path, f"cat {tmp_path}/body")
        if extra:
            assert f"it printed more than {limit} bytes" in (await failing(source)).detail
        else:
            await source.get_key(32)

    run(test)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("stubborn", [False, True], ids=["plain", "ignores SIGTERM"])
def test_a_program_that_takes_too_long_is_ended_with_its_children(tmp_path: Path, stubborn: bool) -> None:
    trap = "trap '' TERM;" if stubborn else ""
    text = f"{trap} sleep 600 & echo $! >> {tmp_path}/pids; echo $$ >> {tmp_path}/pids; wait; sleep 600"

    async def test() -> None:
        source = of_script(tmp_path, text, timeout="1500ms")
        error = await failing(source)
        assert isinstance(error, KeySourceTimeoutError)
        assert (error.detail, error.lost) == ("no answer within 1.5 s; it was ended", 1)
        pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
        assert len(pids) == 2

        async def gone() -> bool:
            return not any(alive(pid) for pid in pids)

        await until(gone)

    run(test)


def test_a_child_that_keeps_the_output_open_is_ended(tmp_path: Path) -> None:
    async def test() -> None:
        source = of_script(tmp_path, f"echo '{GOOD}'; sleep 600 & echo $! > {tmp_path}/pid")
        _, key = await source.get_key(32)
        assert bytes(key.reveal()) == KEY
        pid = int((tmp_path / "pid").read_text())

        async def gone() -> bool:
            return not alive(pid)

        await until(gone)

    run(test)


def test_closing_ends_what_runs(tmp_path: Path) -> None:
    async def test() -> None:
        hub = hub_of(script(tmp_path / "getkey", f"echo $$ > {tmp_path}/pid; exec sleep 600"), *ALL)
        source = hub.for_peer(PEER)
        call = asyncio.create_task(failing(source))

        async def started() -> bool:
            return (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text().strip())

        await until(started)
        await hub.close()
        error = await call
        assert (type(error), error.lost) == (KeySourceUnreachableError, 1)
        pid = int((tmp_path / "pid").read_text())

        async def gone() -> bool:
            return not alive(pid)

        await until(gone)
        assert (await failing(source)).lost == 0

    run(test)


def test_it_ends_with_the_daemon(tmp_path: Path) -> None:
    """Also with one that is killed."""
    script(tmp_path / "getkey", f"echo $$ > {tmp_path}/pid; exec sleep 600")
    code = f"""
import asyncio
from qtunnel.drivers import program
options = program.Options.model_validate(dict(command=["{tmp_path}/getkey", "{{call}}", "{{key_id}}"], timeout="14s"))
asyncio.run(program.Hub("vendor", options).for_peer(program.PeerOptions(peer="bob")).get_key(32))
"""

    async def test() -> None:
        daemon = await asyncio.create_subprocess_exec(sys.executable, "-c", code)

        async def started() -> bool:
            return (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text().strip())

        await until(started)
        pid = int((tmp_path / "pid").read_text())
        assert alive(pid)
        daemon.send_signal(signal.SIGKILL)
        await daemon.wait()

        async def gone() -> bool:
            return not alive(pid)

        await until(gone)

    run(test)


def test_so_many_at_once_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = tmp_path / "running"
    running.mkdir()
    text = f"touch {running}/$$; ls {running} | wc -l >> {tmp_path}/counts; sleep 0.1; rm {running}/$$; echo '{GOOD}'"

    async def test() -> None:
        hub = hub_of(script(tmp_path / "getkey", text), *ALL, at_once=2)
        source = hub.for_peer(PEER)
        await asyncio.gather(*(source.get_key(32) for _ in range(8)))
        counts = [int(line) for line in (tmp_path / "counts").read_text().split()]
        assert len(counts) == 8
        assert max(counts) <= 2
        monkeypatch.setattr(program, "TURN_LIMIT", 0.05)
        script(tmp_path / "getkey", f"sleep 1; echo '{GOOD}'")
        ended = await asyncio.gather(*(source.get_key(32) for _ in range(4)), return_exceptions=True)
        late = [error for error in ended if isinstance(error, KeySourceTimeoutError)]
        assert len(late) == 2
        assert "not asked: 2 other calls of ours took longer" in str(late[0])
        assert late[0].lost == 0

    run(test)


# Whether it may be started


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    path = script(tmp_path / "getkey", f"echo '{GOOD}'")

    async def test() -> None:
        source = hub_of(path, *ALL).for_peer(PEER)
        await source.get_key(32)
        path.write_text("#!/no/such/shell\n")
        error = await failing(source)
        assert (type(error), error.lost) == (KeySourceUnreachableError, 0)
        assert error.detail == "cannot be started: no such file or directory"
        path.write_bytes(b"\x7fELF junk")
        assert "exec format error" in (await failing(source)).detail
        path.unlink()
        error = await failing(source)
        assert error.detail == "not started: no such program"
        script(path, f"echo '{GOOD}'")
        await source.get_key(32)
        path.chmod(0o757)
        error = await failing(source)
        assert isinstance(error, KeySourceUnauthorizedError)
        assert error.detail == f"not started: can be written by others; chmod go-w {path}"

    run(test)


def test_programs_that_others_could_replace_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "vendor"
    place.mkdir()
    path = script(place / "getkey", "true")
    assert check_program(path) == path.resolve()
    (tmp_path / "link").symlink_to(path)
    assert check_program(tmp_path / "link") == path.resolve()
    path.chmod(0o755 | 0o002)
    with pytest.raises(FilePermissionError, match=f"{path}: can be written by others; chmod go-w {path}"):
        check_program(path)
    with pytest.raises(FilePermissionError, match=f"link: {path} can be written by others"):
        check_program(tmp_path / "link")
    path.chmod(0o755)
    place.chmod(0o777)
    with pytest.raises(FilePermissionError, match=f"{path}: {place} can be written by others"):
        check_program(path)
    place.chmod(0o1777)
    check_program(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="cannot be run; chmod"):
        check_program(path)
    with pytest.raises(ConfigError, match="no such program"):
        check_program(place / "none")
    with pytest.raises(ConfigError, match="is no program"):
        check_program(place)
    if os.geteuid() == 0:
        path.chmod(0o755)
        os.chown(path, 12345, 0)
        with pytest.raises(FilePermissionError, match="belongs to user 12345, who could put another program there"):
            check_program(path)
        os.chown(path, 0, 12345)
        path.chmod(0o775)
        with pytest.raises(FilePermissionError, match="can be written by others"):
            check_program(path)


# How it is configured


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
        ({"command": ["/x", "{call}", "{key_id}"], "timeout": "1m"}, "timeout is longer than 14s"),
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
