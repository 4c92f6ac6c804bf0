"""``engine: kernel`` on a real kernel: what it makes, refuses and leaves."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from qtunnel.constants import UAPI_DIRECTORY
from qtunnel.crypto.dh import public_key
from qtunnel.engines.base import Lease, PeerSpec
from qtunnel.engines.choice import open_engine
from qtunnel.engines.host import interface_exists
from qtunnel.engines.kernel import KernelEngine
from qtunnel.errors import EngineError, InterfaceError
from qtunnel.secret import Secret
from tests.engines.namespaces import Namespace, run
from tests.kernel.ends import End, agreed, dump, key, with_two
from tests.support.netns import wait_until
from tests.support.ping import answered, gaps

pytestmark = pytest.mark.root

PRIVATE = Secret(os.urandom(32))
OURS = public_key(PRIVATE)
SPEC = PeerSpec(
    public_key(Secret(os.urandom(32))),
    ("127.0.0.9", 51820),
    (ip_network("10.8.0.0/16"), ip_network("fd08::/32"), *(ip_network(f"10.9.{i}.0/24") for i in range(1, 250))),
    25,
)


@pytest.fixture
def engine(namespace: Namespace, interface: str) -> KernelEngine:
    made = open_engine("kernel", interface, public_key=OURS, log_line=print)
    assert isinstance(made, KernelEngine)
    return made


def running(engine: KernelEngine, body: Callable[[], Awaitable[None]]) -> None:
    """``body`` with the engine started; afterwards nothing of it is left."""

    async def main() -> None:
        await engine.start()
        try:
            await engine.configure_device(PRIVATE, 51823, 7)
            await body()
        finally:
            await engine.stop()

    asyncio.run(main())
    assert engine.pid is None
    assert not interface_exists(engine.interface)
    assert not list(Path(UAPI_DIRECTORY).glob(f"{engine.interface}*"))


def refused(engine: KernelEngine) -> str:
    with pytest.raises(InterfaceError) as raised:
        asyncio.run(engine.start())
    assert "\n" not in str(raised.value)
    assert engine.pid is None
    return str(raised.value)


def arguments_of(engine: KernelEngine) -> bytes:
    return Path(f"/proc/{engine.pid}/cmdline").read_bytes()


def test_what_is_configured_is_what_wg_shows(engine: KernelEngine) -> None:
    psk = key()

    async def body() -> None:
        assert await engine.stats() == {}
        await engine.set_peer(SPEC)
        assert dump(engine.interface)[1][1] != "(none)"
        await engine.set_psk(SPEC.public_key, psk, 1)
        await engine.set_endpoint(SPEC.public_key, ("::1", 7))
        device, peer = dump(engine.interface)
        assert device[1:] == [base64.b64encode(OURS).decode(), "51823", "0x7"]
        assert peer[0] == base64.b64encode(SPEC.public_key).decode()
        assert peer[1] == base64.b64encode(psk.reveal()).decode()
        assert (peer[2], peer[7]) == ("[::1]:7", "25")
        assert set(peer[3].split(",")) == {str(network) for network in SPEC.allowed_ips}
        told = (await engine.stats())[SPEC.public_key]
        assert (told.endpoint, told.last_handshake, told.epoch_in_force) == (("::1", 7), None, None)
        await engine.set_peer(replace(SPEC, allowed_ips=(ip_network("10.9.0.0/16"),), persistent_keepalive=None))
        assert (dump(engine.interface)[1][3], dump(engine.interface)[1][7]) == ("10.9.0.0/16", "off")
        await engine.remove_peer(SPEC.public_key)
        assert len(dump(engine.interface)) == 1

    running(engine, body)


def test_a_plain_peer_has_no_preshared_key_and_can_be_taken_out(engine: KernelEngine) -> None:
    async def body() -> None:
        await engine.set_peer(SPEC)
        await engine.set_psk(SPEC.public_key, Secret(bytes(32)), 0, lease=None)
        assert dump(engine.interface)[1][1] == "(none)"
        await engine.renew(SPEC.public_key, Lease(0.0))  # no lease, so nothing ends
        assert dump(engine.interface)[1][1] == "(none)"
        await engine.remove_peer(SPEC.public_key)
        await engine.remove_peer(SPEC.public_key)  # a refusal that came after the removal
        assert len(dump(engine.interface)) == 1

    running(engine, body)


def test_more_allowed_ips_than_fit_into_a_message_and_an_unknown_peer(engine: KernelEngine) -> None:
    many = tuple(ip_network(f"10.{i // 250}.{i % 250}.0/24") for i in range(1700))

    async def body() -> None:
        await engine.set_peer(replace(SPEC, allowed_ips=many))
        await engine.block(SPEC.public_key, key())
        assert len(dump(engine.interface)[1][3].split(",")) == len(many)
        with pytest.raises(EngineError, match="never given"):
            await engine.set_psk(os.urandom(32), key(), 1)
        assert len(dump(engine.interface)) == 2

    running(engine, body)


def test_somebody_elses_interface_is_refused_and_left_alone(engine: KernelEngine) -> None:
    run("ip", "link", "add", engine.interface, "type", "wireguard")
    text = refused(engine)
    assert f"interface name {engine.interface} is taken" in text
    assert "tunnel.manage: psk" in text
    assert interface_exists(engine.interface)
    run("ip", "link", "del", engine.interface)
    run("ip", "link", "add", engine.interface, "type", "veth", "peer", "other")
    assert "is taken" in refused(engine)
    assert interface_exists(engine.interface)


def test_what_a_killed_keeper_left_is_taken_away_and_a_running_one_is_not(engine: KernelEngine) -> None:
    second = open_engine("kernel", engine.interface, public_key=OURS, log_line=print)
    assert isinstance(second, KernelEngine)

    async def body() -> None:
        await engine.set_peer(SPEC)
        with pytest.raises(InterfaceError, match="another gateway of qtunnel"):
            await second.start()
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        assert "was killed by SIGKILL" in await engine.wait_dead()
        assert len(dump(engine.interface)) == 2, "its keys are still there"
        await engine.stop()
        assert not interface_exists(engine.interface), "and go at once"
        await engine.start()
        assert len(dump(engine.interface)) == 1, "it was made anew"

    running(engine, body)


def test_what_keeper_and_daemon_left_is_known_by_its_key_and_made_anew(engine: KernelEngine) -> None:
    """Both were killed; here the daemon's part of the end is what does not happen."""
    second = open_engine("kernel", engine.interface, public_key=OURS, log_line=print)
    assert isinstance(second, KernelEngine)

    async def main() -> None:
        await engine.start()
        await engine.configure_device(PRIVATE, 51823)
        await engine.set_peer(SPEC)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        await engine.wait_dead()
        await second.start()
        assert len(dump(engine.interface)) == 1, "it was made anew"
        await second.stop()

    asyncio.run(main())
    assert not interface_exists(engine.interface)


def test_another_interface_of_the_name_is_told_nothing(engine: KernelEngine) -> None:
    async def body() -> None:
        await engine.set_peer(SPEC)
        run("ip", "link", "del", engine.interface)
        run("ip", "link", "add", engine.interface, "type", "wireguard")
        for told in (engine.set_psk(SPEC.public_key, key(), 1), engine.block(SPEC.public_key, key()), engine.stats()):
            with pytest.raises(EngineError):
                await told
        assert len(dump(engine.interface)) == 1
        await engine.stop()
        assert interface_exists(engine.interface), "it is somebody else's"
        run("ip", "link", "del", engine.interface)

    running(engine, body)


def test_the_interface_goes_with_a_daemon_that_is_killed(namespace: Namespace, interface: str) -> None:
    code = (
        "import asyncio\n"
        "from qtunnel.engines.choice import open_engine\n"
        "async def main():\n"
        f"    engine = open_engine('kernel', {interface!r})\n"
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
        wait_until(lambda: not interface_exists(interface), "the interface is gone")


def test_an_interface_that_is_deleted_is_noticed(engine: KernelEngine) -> None:
    async def body() -> None:
        dead = asyncio.create_task(engine.wait_dead())
        run("ip", "link", "del", engine.interface)
        assert "is gone" in await asyncio.wait_for(dead, 60)

    running(engine, body)


def test_keys_are_not_in_the_keepers_arguments(engine: KernelEngine) -> None:
    async def body() -> None:
        arguments = arguments_of(engine)
        assert bytes(PRIVATE.reveal()).hex().encode() not in arguments
        assert OURS.hex().encode() in arguments, "public, and so may be there"

    running(engine, body)


@pytest.mark.parametrize("right", ["kernel", "wireguard-go", "qtunnel"])
def test_blocking_ends_the_sessions_at_once_and_the_next_epoch_opens_them(interface: str, right: str) -> None:
    async def body(a: End, b: End) -> None:
        assert not a.reaches_peer(), "a random key at each end"
        await agreed(a, b, 1)
        assert (await a.stats()).epoch_in_force == 1
        before = await a.stats()
        assert before.rx_bytes > 0
        await a.inside(a.engine.block, b.public, key())
        assert not a.reaches_peer()
        after = await a.stats()
        assert (after.epoch_in_force, after.last_handshake, after.endpoint) == (None, None, before.endpoint)
        assert a.engine.interface in a.namespace.run("ip", "route", "get", b.address())
        await b.inside(b.engine.block, a.public, key())
        await agreed(a, b, 2)
        assert (await a.stats()).epoch_in_force == 2

    with_two("kernel", right, interface, body)


def test_a_first_key_makes_a_session_although_nobody_sends(interface: str) -> None:
    async def body(a: End, b: End) -> None:
        psk = key()
        await b.install(psk, 1)
        await a.install(psk, 1, now=True)
        for end in (a, b):
            for _ in range(600):
                if (await end.stats()).epoch_in_force == 1:
                    break
                await asyncio.sleep(0.1)
            assert (await end.stats()).epoch_in_force == 1
        assert a.dump()[1][7] == "off", "the keepalive is as it was"

    with_two("kernel", "kernel", interface, body)


def test_rotation_loses_nothing(interface: str) -> None:
    async def body(a: End, b: End) -> None:
        previous = await agreed(a, b, 1)
        ping = a.pings()
        for epoch in range(2, 8):
            psk = key()
            await b.install(psk, epoch, previous)
            await asyncio.sleep(0.3)  # the ends differ for a while
            await a.install(psk, epoch, previous, now=True)
            await asyncio.sleep(0.3)
            previous = psk
        ping.send_signal(signal.SIGINT)
        output = ping.communicate()[0]
        assert not gaps(output), output
        assert len(answered(output)) > 10
        assert (await a.stats()).epoch_in_force == 1, "its next handshake is up to 120 s away"

    with_two("kernel", "kernel", interface, body)
