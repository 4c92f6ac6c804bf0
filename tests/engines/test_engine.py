"""Engines as processes: real TUN devices in a namespace of the test's own."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from qtunnel.constants import UAPI_DIRECTORY
from qtunnel.engines import child, programs, uapi
from qtunnel.engines.base import PeerSpec
from qtunnel.engines.host import interface_exists
from qtunnel.engines.uapi import UapiEngine
from qtunnel.errors import EngineError, InterfaceError
from qtunnel.secret import Secret
from tests.engines.namespaces import Namespace, run
from tests.engines.programs_here import PROGRAMS

pytestmark = pytest.mark.root

SPEC = PeerSpec(
    X25519PrivateKey.generate().public_key().public_bytes_raw(),
    ("127.0.0.9", 51820),
    (ip_network("10.8.0.0/16"), ip_network("fd08::/32")),
    25,
)

Body = Callable[[UapiEngine], Awaitable[None]]


@pytest.fixture(params=PROGRAMS)
def engine(request: pytest.FixtureRequest, namespace: Namespace, interface: str) -> UapiEngine:
    return UapiEngine(PROGRAMS[request.param], interface, log_line=print)


@pytest.fixture
def wireguard_go(namespace: Namespace, interface: str) -> UapiEngine:
    return UapiEngine(programs.find("wireguard-go"), interface, log_line=print)


def running(engine: UapiEngine, body: Body) -> None:
    """``body`` with the engine started; afterwards nothing of it is left."""

    async def main() -> None:
        await engine.start()
        try:
            await body(engine)
        finally:
            await engine.stop()

    asyncio.run(main())
    assert engine.pid is None
    assert not interface_exists(engine.interface)
    assert not socket_of(engine).exists()


def socket_of(engine: UapiEngine) -> Path:
    return Path(UAPI_DIRECTORY) / f"{engine.interface}.sock"


def key() -> Secret:
    return Secret(os.urandom(32))


def proc(engine: UapiEngine, place: str) -> bytes:
    return Path(f"/proc/{engine.pid}/{place}").read_bytes()


def dump(engine: UapiEngine) -> list[list[str]]:
    """What ``wg show IFACE dump`` tells: the interface's line, then one per peer."""
    return [line.split("\t") for line in run("wg", "show", engine.interface, "dump").splitlines()]


def refused(engine: UapiEngine) -> str:
    with pytest.raises(EngineError) as raised:
        asyncio.run(engine.start())
    text = str(raised.value)
    assert "\n" not in text
    assert engine.pid is None
    return text


def test_starts_down_and_leaves_nothing(engine: UapiEngine) -> None:
    async def body(engine: UapiEngine) -> None:
        assert "UP" not in run("ip", "link", "show", engine.interface).split("<")[1].split(">")[0]
        assert engine.pid is not None
        assert await engine.stats() == {}

    running(engine, body)
    running(engine, body)  # and it can be started again
    asyncio.run(engine.stop())


def test_what_is_configured_is_what_wg_shows(engine: UapiEngine) -> None:
    private, psk = key(), key()

    async def body(engine: UapiEngine) -> None:
        await engine.configure_device(private, 51823)
        await engine.set_peer(SPEC)
        await engine.set_psk(SPEC.public_key, psk, 1)
        await engine.set_endpoint(SPEC.public_key, ("::1", 7))
        device, peer = dump(engine)
        assert device[2] == "51823"
        assert peer[0] == base64.b64encode(SPEC.public_key).decode()
        assert peer[1] == base64.b64encode(psk.reveal()).decode()
        assert peer[2:4] == ["[::1]:7", "10.8.0.0/16,fd08::/32"]
        assert peer[7] == "25"
        told = (await engine.stats())[SPEC.public_key]
        assert (told.endpoint, told.last_handshake, told.epoch_in_force) == (("::1", 7), None, None)
        await engine.set_peer(replace(SPEC, allowed_ips=(ip_network("10.9.0.0/16"),), persistent_keepalive=None))
        assert dump(engine)[1][3] == "10.9.0.0/16"
        assert dump(engine)[1][7] == "off"
        await engine.remove_peer(SPEC.public_key)
        assert len(dump(engine)) == 1

    running(engine, body)


def test_a_new_peer_has_a_random_key_from_the_start(engine: UapiEngine) -> None:
    async def body(engine: UapiEngine) -> None:
        await engine.configure_device(key(), 0)
        await engine.set_peer(SPEC)
        first = dump(engine)[1][1]
        assert len(base64.b64decode(first)) == 32
        await engine.remove_peer(SPEC.public_key)
        await engine.set_peer(SPEC)
        assert dump(engine)[1][1] not in (first, "(none)")

    running(engine, body)


def test_blocking_keeps_the_peer_and_changes_the_key(engine: UapiEngine) -> None:
    psk, random = key(), key()

    async def body(engine: UapiEngine) -> None:
        await engine.configure_device(key(), 0)
        await engine.set_peer(SPEC)
        await engine.set_psk(SPEC.public_key, psk, 1)
        before = dump(engine)[1]
        await engine.block(SPEC.public_key, random)
        after = dump(engine)[1]
        assert after[1] == base64.b64encode(random.reveal()).decode()
        assert (before[0], before[2:4], before[7]) == (after[0], after[2:4], after[7])

    running(engine, body)


def test_a_peer_that_was_never_given_is_refused(engine: UapiEngine) -> None:
    async def body(engine: UapiEngine) -> None:
        await engine.configure_device(key(), 0)
        for attempt in (
            engine.set_psk(SPEC.public_key, key(), 1),
            engine.block(SPEC.public_key, key()),
            engine.set_endpoint(SPEC.public_key, ("127.0.0.1", 1)),
        ):
            with pytest.raises(EngineError, match="never given"):
                await attempt
        assert len(dump(engine)) == 1

    running(engine, body)


def test_keys_of_the_wrong_size_and_bad_endpoints_are_refused(wireguard_go: UapiEngine) -> None:
    async def body(engine: UapiEngine) -> None:
        await engine.configure_device(key(), 0)
        await engine.set_peer(SPEC)
        with pytest.raises(EngineError, match="has 32 bytes, not 31"):
            await engine.set_psk(SPEC.public_key, Secret(bytes(31)), 1)
        with pytest.raises(EngineError, match="bad endpoint"):
            await engine.set_endpoint(SPEC.public_key, ("gateway.example", 1))
        with pytest.raises(EngineError, match="bad endpoint"):
            await engine.set_endpoint(SPEC.public_key, ("127.0.0.1", 0))

    running(wireguard_go, body)


def test_keys_are_neither_in_arguments_nor_in_the_environment(engine: UapiEngine) -> None:
    private, psk = key(), key()

    async def body(engine: UapiEngine) -> None:
        await engine.configure_device(private, 0)
        await engine.set_peer(SPEC)
        await engine.set_psk(SPEC.public_key, psk, 1)
        for place in ("cmdline", "environ"):
            content = proc(engine, place)
            for secret in (private, psk):
                assert bytes(secret.reveal()) not in content
                assert bytes(secret.reveal()).hex().encode() not in content

    running(engine, body)


def test_core_dumps_are_off(engine: UapiEngine) -> None:
    async def body(engine: UapiEngine) -> None:
        limits = proc(engine, "limits").decode()
        line = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert line.split()[4:6] == ["0", "0"]

    running(engine, body)


@pytest.mark.parametrize("fault", ["killed", "interface", "socket"])
def test_a_dead_engine_is_noticed(engine: UapiEngine, fault: str) -> None:
    async def body(engine: UapiEngine) -> None:
        dead = asyncio.create_task(engine.wait_dead())
        await asyncio.sleep(0)
        assert not dead.done()
        assert engine.pid is not None
        if fault == "killed":
            os.kill(engine.pid, signal.SIGKILL)
        elif fault == "interface":
            run("ip", "link", "del", engine.interface)
        else:
            socket_of(engine).unlink()
        reason = await asyncio.wait_for(dead, 30)
        assert engine.interface in reason
        if fault == "killed":
            assert "was killed by SIGKILL" in reason

    running(engine, body)


def test_a_taken_name_is_told_and_left_alone(engine: UapiEngine) -> None:
    run("ip", "tuntap", "add", "dev", engine.interface, "mode", "tun")
    assert f"interface name {engine.interface} is taken" in refused(engine)
    assert interface_exists(engine.interface)


def test_a_name_taken_behind_our_back_is_told_and_left_alone(
    wireguard_go: UapiEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody makes the interface between the look and the start: the engine itself finds out."""
    run("ip", "tuntap", "add", "dev", wireguard_go.interface, "mode", "tap")
    with monkeypatch.context() as patch:
        patch.setattr(uapi, "interface_exists", lambda name: False)
        told = refused(wireguard_go)
    assert wireguard_go.interface in told
    assert interface_exists(wireguard_go.interface)


def test_a_stale_socket_is_replaced(engine: UapiEngine) -> None:
    path = socket_of(engine)
    path.parent.mkdir(mode=0o755, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_over:
        left_over.bind(str(path))

    async def body(engine: UapiEngine) -> None:
        assert await engine.stats() == {}

    running(engine, body)


def test_a_served_socket_is_left_alone(engine: UapiEngine) -> None:
    path = socket_of(engine)
    path.parent.mkdir(mode=0o755, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(path))
        try:
            other.listen()
            assert "is served by another WireGuard" in refused(engine)
            assert path.is_socket()
        finally:
            path.unlink()


def test_whoever_serves_the_socket_between_the_look_and_the_start_is_told(
    engine: UapiEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another gateway of the same name does, in another network namespace and the same moment."""

    async def looked() -> None: ...

    path = socket_of(engine)
    path.parent.mkdir(mode=0o755, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(path))
        try:
            other.listen()
            monkeypatch.setattr(engine, "_clear_socket", looked)
            refused(engine)
            assert path.is_socket()
            other.setblocking(False)
            while True:  # those who looked who it is; none of them said anything
                try:
                    asked = other.accept()[0]
                except BlockingIOError:
                    break
                with asked:
                    assert asked.recv(100) == b""
        finally:
            path.unlink(missing_ok=True)


def test_nothing_is_sent_to_another_process_that_serves_the_socket(engine: UapiEngine) -> None:
    """A second engine of the same interface name, in another network namespace, takes the path over."""
    elsewhere = Namespace()

    async def body(engine: UapiEngine) -> None:
        await engine.set_peer(SPEC)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)  # it would end when it sees that its socket is gone: too late
        socket_of(engine).unlink()
        other = UapiEngine(engine._program, engine.interface, log_line=print)
        with elsewhere.entered():
            await other.start()
        try:
            assert other.pid is not None
            with elsewhere.entered():
                await other.configure_device(key(), 51899)
                await other.set_peer(SPEC)
                before = dump(other)
            for told in (
                engine.set_psk(SPEC.public_key, key(), 7),
                engine.block(SPEC.public_key, key()),
                engine.configure_device(key(), 51898),
                engine.set_peer(replace(SPEC, persistent_keepalive=7)),
                engine.stats(),
            ):
                with pytest.raises(EngineError, match=f"nothing was sent: it is served by process {other.pid}, "):
                    await told
            with elsewhere.entered():
                assert dump(other) == before
            reason = await asyncio.wait_for(engine.wait_dead(), 30)
            assert f"is another's: it is served by process {other.pid}, " in reason
        finally:
            os.kill(engine.pid, signal.SIGCONT)
            with elsewhere.entered():
                await other.stop()

    try:
        running(engine, body)
    finally:
        elsewhere.close()


def test_a_file_in_the_sockets_place_is_told(engine: UapiEngine) -> None:
    path = socket_of(engine)
    path.parent.mkdir(mode=0o755, exist_ok=True)
    path.write_text("mine")
    try:
        assert "is no socket" in refused(engine)
        assert path.read_text() == "mine"
    finally:
        path.unlink()


def test_a_taken_port_is_told(engine: UapiEngine) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 0))
        port = other.getsockname()[1]

        async def body(engine: UapiEngine) -> None:
            with pytest.raises(EngineError, match=f"UDP port {port} is taken"):
                await engine.configure_device(key(), port)

        running(engine, body)


@pytest.mark.parametrize("name", PROGRAMS)
def test_without_the_capability_it_says_so(namespace: Namespace, interface: str, name: str) -> None:
    code = (
        "import asyncio\n"
        "from qtunnel.engines.choice import open_engine\n"
        "from qtunnel.errors import EngineError\n"
        "try:\n"
        f"    asyncio.run(open_engine({PROGRAMS[name].name!r}, {interface!r}).start())\n"
        "except EngineError as error:\n"
        "    print(error)\n"
    )
    # Still root, so that it can read its own code wherever that is, but without the one capability.
    command = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert f"no permission to create TUN device {interface}; needs CAP_NET_ADMIN" in done.stdout, done.stderr
    assert done.stdout.count("\n") == 1
    assert not Path(UAPI_DIRECTORY, f"{interface}.sock").exists()


def test_an_engine_does_not_outlive_the_daemon(namespace: Namespace, interface: str) -> None:
    code = (
        "import asyncio\n"
        "from qtunnel.engines.choice import open_engine\n"
        "async def main():\n"
        f"    engine = open_engine('wireguard-go', {interface!r})\n"
        "    await engine.start()\n"
        "    print('up', flush=True)\n"
        "    await engine.wait_dead()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "up\n"
        assert interface_exists(interface)
        daemon.kill()
        daemon.wait()
        deadline = time.monotonic() + 20
        while interface_exists(interface) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not interface_exists(interface)
        assert not Path(UAPI_DIRECTORY, f"{interface}.sock").exists()


@pytest.mark.parametrize("name", ["", "sixteen-letters-", "a/b", "a b", "..", "a:b"])
def test_a_name_the_kernel_would_not_take_is_refused(name: str) -> None:
    with pytest.raises(InterfaceError, match="is no interface name"):
        UapiEngine(programs.find("wireguard-go"), name)


def test_a_missing_program_starts_nothing(namespace: Namespace, interface: str) -> None:
    missing = replace(programs.find("wireguard-go"), executable="no-such-program")
    assert "program no-such-program is not found on PATH" in refused(UapiEngine(missing, interface))
    assert not interface_exists(interface)


def test_a_program_that_dies_at_once_is_told_with_its_words(namespace: Namespace, interface: str) -> None:
    broken = replace(
        programs.find("wireguard-go"), executable="sh", arguments=lambda _: ["-c", "echo out of luck >&2; exit 9"]
    )
    assert "exited with code 9 at its start: out of luck" in refused(UapiEngine(broken, interface))


def test_a_program_that_never_answers_is_given_up(
    namespace: Namespace, interface: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "START_BOUND", 0.3)
    mute = replace(programs.find("wireguard-go"), executable="sleep", arguments=lambda _: ["100"])
    assert "did not answer within" in refused(UapiEngine(mute, interface))
