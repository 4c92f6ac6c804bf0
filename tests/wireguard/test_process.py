"""The engine as a process: its start, its errors in one line, its end with nothing left behind."""

from __future__ import annotations

import ast
import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import qtunnel.wireguard as room
from qtunnel.netio.uapi_socket import MAX_CONNECTIONS
from tests.support.netns import Namespace, gone, namespaces, run, ticks, unique_name, wait_until
from tests.wireguard.gateways import QTUNNEL, Gateway, socket_path, talk

NOBODY = 65534
TUNSETVNETHDRSZ = 0x400454D8


@pytest.fixture
def host() -> Iterator[Namespace]:
    with namespaces(1) as (made,):
        yield made


@pytest.fixture
def interface() -> Iterator[str]:
    name = unique_name("qp")
    yield name
    assert not socket_path(name).exists()


def process_of(interface: str) -> int:
    """The pid of the background process that serves the interface."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if interface.encode() in arguments and b"wg" in arguments:
                return int(entry.name)
    raise AssertionError(f"no process serves {interface}")


def one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("qtunnel: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.root
def test_background_returns_when_wg_can_talk_to_it(host: Namespace, interface: str, tmp_path: Path) -> None:
    log = tmp_path / "wg.log"
    done = host.run(*QTUNNEL, "wg", interface, "--log-file", str(log))
    pid = process_of(interface)
    try:
        assert (done.stdout, done.stderr) == ("", "")
        assert talk(interface, "get=1\n\n") == "errno=0\n\n"
        link = host.links()[interface]
        assert (link["mtu"], link["txqlen"]) == (1420, 1000)
        assert "UP" not in link["flags"]
        assert socket_path(interface).stat().st_mode & 0o777 == 0o600
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert "Max core file size        0                    0" in limits
        assert os.readlink(f"/proc/{pid}/fd/0") == os.readlink(f"/proc/{pid}/fd/2") == "/dev/null"
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: gone(pid), "the process ends")
    assert interface not in host.links()
    lines = log.read_text().splitlines()
    assert all(line.startswith("time=") and f" interface={interface} msg=" in line for line in lines)
    assert "SIGTERM" in lines[-2]


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing(host: Namespace, number: signal.Signals) -> None:
    gateway = Gateway(host, 0)
    host.ip("link", "set", gateway.interface, "up")
    gateway.process.send_signal(number)
    said = gateway.process.communicate(timeout=10)[0]
    assert gateway.process.returncode == 0, said
    assert number.name in said
    assert gateway.interface not in host.links()
    assert not socket_path(gateway.interface).exists()


@pytest.mark.root
def test_it_ends_when_its_socket_is_removed(host: Namespace) -> None:
    gateway = Gateway(host, 0)
    other = Gateway(host, 1)
    try:
        socket_path(gateway.interface).unlink()
        assert "was removed" in gateway.process.communicate(timeout=10)[0]
        assert gateway.interface not in host.links()
        assert other.answers()
    finally:
        other.close()


@pytest.mark.root
def test_it_ends_when_its_interface_is_deleted(host: Namespace) -> None:
    gateway = Gateway(host, 0)
    host.ip("link", "del", gateway.interface)
    assert "went away" in gateway.process.communicate(timeout=10)[0]
    assert not socket_path(gateway.interface).exists()


def tun_of(process: int) -> int:
    """A descriptor of our own of the TUN that the process has open (pidfd_getfd(2))."""
    (number,) = [int(entry.name) for entry in Path(f"/proc/{process}/fd").iterdir() if "tun" in os.readlink(entry)]
    holder = os.pidfd_open(process)
    try:
        descriptor = ctypes.CDLL(None, use_errno=True).syscall(438, holder, number, 0)
    finally:
        os.close(holder)
    assert descriptor >= 0, os.strerror(ctypes.get_errno())
    return int(descriptor)


@pytest.mark.root
def test_packets_that_the_kernel_cannot_hand_over_are_lost_alone(host: Namespace) -> None:
    """Here for a vnet header that no buffer has room for; else one whose GSO fields it has no words for is as good."""
    gateway = Gateway(host, 0)
    host.address(gateway.interface, "10.77.0.1/24")
    send = ("bash", "-c", "for _ in {1..150}; do echo > /dev/udp/10.77.0.2/9; done")
    with open(tun_of(gateway.process.pid), "rb", buffering=0) as tun:
        for header in (1 << 20, 10):
            fcntl.ioctl(tun, TUNSETVNETHDRSZ, struct.pack("=i", header))
            host.run(*send)
            assert gateway.answers()
            assert gateway.answers()  # what was there before the first one has been looked at
    host.ip("link", "del", gateway.interface)
    said = gateway.process.communicate(timeout=10)[0]
    assert "went away" in said
    assert said.count("a packet of the TUN cannot be read: tun-read-EINVAL") == 1
    counted = {word.partition("=")[0] for word in said.split("'")[-2].split()}
    assert counted >= {"tun-read-EINVAL", "no-peer-for-destination"}


@pytest.mark.root
@pytest.mark.parametrize("mode", [[], ["--foreground"]])
@pytest.mark.parametrize("kind", ["ours", "foreign", "persistent-tun"])
def test_an_interface_name_that_is_taken(host: Namespace, interface: str, kind: str, mode: list[str]) -> None:
    if kind == "persistent-tun":
        host.ip("tuntap", "add", "dev", interface, "mode", "tun")
    elif kind == "foreign":
        host.ip("link", "add", interface, "type", "bridge")
    else:
        host.run(*QTUNNEL, "wg", interface)
    try:
        before = host.links()[interface]["ifindex"]
        one_line(host.run(*QTUNNEL, "wg", *mode, interface, check=False), interface, "taken")
        assert host.links()[interface]["ifindex"] == before
        if kind == "ours":
            assert talk(interface, "get=1\n\n") == "errno=0\n\n"
    finally:
        if kind == "ours":
            pid = process_of(interface)
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: gone(pid), "the process ends")


@pytest.mark.root
def test_the_same_name_in_another_namespace(host: Namespace) -> None:
    gateway = Gateway(host, 0)
    try:
        with namespaces(1) as (other,):
            done = other.run(*QTUNNEL, "wg", gateway.interface, check=False)
            one_line(done, gateway.interface, "a running WireGuard answers there")
            assert gateway.interface not in other.links()
        assert gateway.answers()
    finally:
        gateway.close()


@pytest.mark.root
def test_clients_for_whom_there_is_no_place_wait_and_cost_nothing(host: Namespace) -> None:
    gateway = Gateway(host, 0)
    clients = [socket.socket(socket.AF_UNIX) for _ in range(MAX_CONNECTIONS + 3)]
    for client in clients:
        client.connect(str(socket_path(gateway.interface)))  # waits where the backlog is full
        client.settimeout(20)
    for client in clients[:MAX_CONNECTIONS]:  # all places are taken
        client.sendall(b"get=1\n\n")
        assert client.recv(65536).endswith(b"errno=0\n\n")
    before = ticks(gateway.process.pid)
    time.sleep(1)
    assert ticks(gateway.process.pid) - before < os.sysconf("SC_CLK_TCK") // 2
    clients[0].close()
    clients[1].close()
    for client in clients[MAX_CONNECTIONS : MAX_CONNECTIONS + 2]:
        client.sendall(b"get=1\n\n")
        assert client.recv(65536).endswith(b"errno=0\n\n")
    for client in clients[2:]:
        client.close()
    wait_until(gateway.answers, "an answer to one more")
    gateway.close()


@pytest.mark.root
def test_a_stale_socket_is_replaced(host: Namespace) -> None:
    gateway = Gateway(host, 0)
    gateway.process.kill()
    gateway.process.wait()
    assert socket_path(gateway.interface).exists()
    host.run(*QTUNNEL, "wg", gateway.interface)
    assert gateway.interface in host.links()
    os.kill(process_of(gateway.interface), signal.SIGTERM)
    wait_until(lambda: not socket_path(gateway.interface).exists(), "the socket goes")


@pytest.mark.root
@pytest.mark.parametrize("mode", [[], ["--foreground"]])
def test_no_permission_for_a_tun(host: Namespace, interface: str, mode: list[str], tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    done = host.run(
        *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *QTUNNEL),
        *("wg", *mode, interface, "--socket-dir", str(tmp_path)),
        check=False,
    )
    one_line(done, interface, "CAP_NET_ADMIN")


@pytest.mark.root
def test_a_socket_directory_that_cannot_be_made(host: Namespace, interface: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = host.run(*QTUNNEL, "wg", interface, "--socket-dir", str(tmp_path / "file" / "x"), check=False)
    one_line(done, "UAPI socket", "--socket-dir")
    assert interface not in host.links()


@pytest.mark.root
def test_an_unprivileged_user_namespace(interface: str) -> None:
    """It has no capability in the machine's own namespaces, only in those made here."""
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-ec"),
            'mount -t tmpfs none /run; "$@"; ip link set "$0" up; wg set "$0" listen-port 7; wg show "$0" listen-port; '
            'ip link show "$0" | grep -o "qlen 1000"; '
            'rm /run/wireguard/"$0".sock; while ip link show "$0" 2>/dev/null; do sleep 0.1; done',
            *(interface, *QTUNNEL, "wg", interface),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.startswith("7\nqlen 1000\n"), done.stderr


@pytest.mark.parametrize("name", ["", "a" * 16, "a/b", "a b", ".", "..", "wg%d", "a:b", "\u00e9"])
def test_impossible_names(name: str) -> None:
    done = subprocess.run([*QTUNNEL, "wg", "--", name], capture_output=True, text=True, timeout=20, check=False)
    one_line(done, "interface name")


@pytest.mark.parametrize("level", ["warn", "5", "", "Verbose"])
def test_a_log_level_of_another_program(level: str) -> None:
    """In the environment it is none of our business, as an option it is an error."""
    command, environment = [*QTUNNEL, "wg", "--foreground", "a/b"], os.environ | {"LOG_LEVEL": level}
    one_line(run(*command, check=False, env=environment), "interface name")
    if level == "warn":
        done = run(*command, "--log-level", level, check=False)
        assert done.returncode == 2
        assert "'warn' is not one of 'debug', 'info'" in done.stderr


def test_a_log_file_that_cannot_be_written(tmp_path: Path) -> None:
    command = [*QTUNNEL, "wg", "qt0", "--log-file", str(tmp_path / "no" / "such.log")]
    one_line(subprocess.run(command, capture_output=True, text=True, timeout=20, check=False), "log file", "such.log")


def test_the_room_does_no_io() -> None:
    """``qtunnel.wireguard`` imports no clock, socket or source of randomness."""
    forbidden = {"asyncio", "socket", "select", "time", "random", "os", "secrets"}
    files = list(Path(room.__path__[0]).glob("*.py"))
    assert len(files) > 10
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not forbidden & {name.partition(".")[0] for name in names}, path


DEFECT = """\
import qtunnel.cli.wg as wg
from qtunnel.cli.main import main

class Loop:
    def run(self):
        raise TypeError("a value")

    def close(self):
        wg.log.info("closed")

def open_loop(*arguments, **options):
    if "start" in arguments:
        raise TypeError("a value")
    return Loop()

wg.open_loop = open_loop
main()
"""


@pytest.mark.parametrize("mode", [[], ["--foreground"]])
def test_a_defect_that_ends_it_is_in_the_log(mode: list[str], tmp_path: Path) -> None:
    """Its kind and place, without a value that was at hand."""
    log = tmp_path / "wg.log"
    done = run(sys.executable, "-c", DEFECT, "wg", *mode, "qt0", "--log-file", str(log), check=False)
    if mode:
        one_line(done, "a defect of qtunnel ended the interface: TypeError at <string>:6")
    else:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        wait_until(lambda: "closed" in log.read_text(), "the end of the process")
    lines = log.read_text().splitlines()
    assert ["level=ERROR" in line for line in lines] == [False, True, False]
    assert "a defect of qtunnel ended the interface: TypeError at <string>:6" in lines[1]
    assert "a value" not in lines[1]


def test_a_defect_at_its_start_is_told_to_who_starts_it() -> None:
    done = run(sys.executable, "-c", DEFECT, "wg", "start", check=False)
    one_line(done, "a defect of qtunnel: TypeError at <string>:13")
    assert "a value" not in done.stderr
