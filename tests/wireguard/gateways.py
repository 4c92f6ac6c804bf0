"""Real WireGuard interfaces in namespaces: ours, or wireguard-go's."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

from qtunnel.constants import UAPI_DIRECTORY
from qtunnel.secret import Secret
from qtunnel.wireguard.noise import KeyPair
from tests.support.netns import Namespace, run, stop, unique_name, wait_until
from tests.support.ping import all_answered, ping

QTUNNEL = [sys.executable, "-m", "qtunnel"]
PORT = 51820


def socket_path(interface: str) -> Path:
    return Path(UAPI_DIRECTORY) / f"{interface}.sock"


def talk(interface: str, request: str) -> str:
    """One UAPI operation, spoken directly."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        client.connect(str(socket_path(interface)))
        client.sendall(request.encode())
        answer = b""
        while not answer.endswith(b"\n\n"):
            piece = client.recv(1 << 20)
            assert piece, f"hung up after {answer[-200:]!r}"
            answer += piece
    return answer.decode()


class Gateway:
    """One interface in one host, at 10.99.0.N and fd99::N outside, 10.77.0.N and fd77::N inside."""

    def __init__(
        self,
        host: Namespace,
        index: int,
        *,
        program: str = "qtunnel",
        level: str = "info",
        options: tuple[str, ...] = (),
        wait: bool = True,
        code: str = "",
    ) -> None:
        """wait: until it answers; else ``ready`` does, so that several may start at once. code: instead of the
        program's own, with its arguments."""
        self.host = host
        self.number = index + 1
        self.interface = unique_name("qw")
        self.private = os.urandom(32)
        self.public = KeyPair.of(Secret(self.private)).public
        if program == "qtunnel":
            command = [
                *([sys.executable, "-c", code] if code else QTUNNEL),
                "wg",
                "--foreground",
                "--log-level",
                level,
                *options,
                self.interface,
            ]
            self.process = host.start(*command)
        else:
            self.process = host.start("wireguard-go", "-f", self.interface, env=os.environ | {"LOG_LEVEL": "verbose"})
        if wait:
            self.ready()

    def ready(self) -> None:
        """Wait until it answers."""
        wait_until(self.answers, f"{self.interface} answers")

    def answers(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()[0]
        with contextlib.suppress(OSError):
            return talk(self.interface, "get=1\n\n").endswith("errno=0\n\n")
        return False

    def inner(self, version: int) -> str:
        return f"10.77.0.{self.number}" if version == 4 else f"fd77::{self.number}"

    def outer(self, version: int) -> str:
        return f"10.99.0.{self.number}" if version == 4 else f"[fd99::{self.number}]"

    def set(self, *lines: str) -> None:
        answer = talk(self.interface, "\n".join(["set=1", *lines, "", ""]))
        assert answer == "errno=0\n\n", answer

    def get(self, key: str) -> list[str]:
        """The values of that key in the answer to ``get``."""
        lines = talk(self.interface, "get=1\n\n").splitlines()
        return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]

    def meet(
        self,
        other: Gateway,
        *,
        outer: int = 4,
        psk: str = "",
        endpoint: bool = True,
        versions: tuple[int, ...] = (4, 6),
    ) -> None:
        """Make the other a peer, and set the interface up. versions: of the addresses inside."""
        lines = [f"private_key={self.private.hex()}", f"listen_port={PORT}", f"public_key={other.public.hex()}"]
        lines += [f"preshared_key={psk}"] if psk else []
        lines += [f"endpoint={other.outer(outer)}:{PORT}"] if endpoint else []
        whole, network = {4: 32, 6: 128}, {4: 24, 6: 64}
        self.set(*lines, *(f"allowed_ip={other.inner(version)}/{whole[version]}" for version in versions))
        self.host.address(self.interface, *(f"{self.inner(version)}/{network[version]}" for version in versions))

    def ping(self, other: Gateway, version: int = 4, count: int = 5) -> None:
        """Every ping is answered, also the first, which starts the handshake."""
        done = self.host.run(*ping(other.inner(version), count), check=False)
        assert all_answered(done.stdout, count), done.stdout + done.stderr

    def wg(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run("wg", *arguments, check=check)

    def close(self) -> str:
        """End it; its log."""
        return stop(self.process)


def meet_in_records(left: Gateway, right: Gateway, suite: str) -> None:
    """Tunnel with record mode at both ends, agreed."""
    right.meet(left)
    left.meet(right)
    for end, other in ((left, right), (right, left)):
        end.set(f"public_key={other.public.hex()}", f"record_mode={suite}", "drop_sessions=true")
    left.ping(right)
    wait_until(lambda: active(left) and active(right), "record mode")


def active(gateway: Gateway) -> bool:
    """Whether its one peer gets records."""
    return gateway.get("record_mode_state") == ["active"]


def tcp(sender: Gateway, receiver: Gateway, version: int, size: int) -> None:
    """Send that many bytes over TCP through the tunnel; all arrive unchanged."""
    script = Path(__file__).with_name("tcp_transfer.py")
    server = receiver.host.start(sys.executable, str(script), "receive", receiver.inner(version), str(size))
    assert server.stdout is not None
    assert server.stdout.readline() == "listening\n"
    sender.host.run(sys.executable, str(script), "send", receiver.inner(version), str(size))
    assert server.communicate(timeout=30)[0] == "complete\n"
