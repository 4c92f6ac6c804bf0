"""wg(8) of wireguard-tools on our interface."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.wireguard.gateways import Gateway, socket_path, talk

pytestmark = pytest.mark.root


def genkey(gateway: Gateway) -> tuple[str, str]:
    private = gateway.wg("genkey").stdout.strip()
    public = gateway.host.run("wg", "pubkey", input=private).stdout.strip()
    return private, public


@pytest.fixture
def gateway(gateways: tuple[Gateway, Gateway]) -> Gateway:
    return gateways[0]


def secret_file(path: Path, text: str) -> str:
    path.touch(0o600)
    path.write_text(text)
    return str(path)


def test_set_and_show(gateway: Gateway, tmp_path: Path) -> None:
    private, public = genkey(gateway)
    _, peer = genkey(gateway)
    _, other = genkey(gateway)
    psk = gateway.wg("genpsk").stdout.strip()
    gateway.wg("set", gateway.interface, "private-key", secret_file(tmp_path / "key", private))
    gateway.wg("set", gateway.interface, "listen-port", "51999", "fwmark", "0x1234")
    gateway.wg(
        *("set", gateway.interface, "peer", peer, "preshared-key", secret_file(tmp_path / "psk", psk)),
        *("endpoint", "[2001:db8::1]:51820", "persistent-keepalive", "25", "allowed-ips", "10.9.8.7/24,fd00::/64"),
        *("peer", other, "endpoint", "192.0.2.1:1", "allowed-ips", ""),
    )

    def shown(what: str) -> str:
        return gateway.wg("show", gateway.interface, what).stdout.strip()

    assert shown("public-key") == public
    assert shown("private-key") == private
    assert shown("listen-port") == "51999"
    assert shown("fwmark") == "0x1234"
    assert shown("peers") == f"{peer}\n{other}"
    assert shown("preshared-keys") == f"{peer}\t{psk}\n{other}\t(none)"
    assert shown("endpoints") == f"{peer}\t[2001:db8::1]:51820\n{other}\t192.0.2.1:1"
    assert shown("allowed-ips") == f"{peer}\t10.9.8.0/24 fd00::/64\n{other}\t(none)"
    assert shown("persistent-keepalive") == f"{peer}\t25\n{other}\toff"
    assert shown("latest-handshakes") == f"{peer}\t0\n{other}\t0"
    assert shown("transfer") == f"{peer}\t0\t0\n{other}\t0\t0"
    assert gateway.interface in gateway.wg("show", "interfaces").stdout.split()
    assert peer in gateway.wg("show").stdout
    gateway.wg("set", gateway.interface, "peer", peer, "remove")
    assert shown("peers") == other
    gateway.wg("set", gateway.interface, "private-key", "/dev/null")
    assert shown("public-key") == "(none)"


def test_setconf_showconf_addconf_syncconf(gateways: tuple[Gateway, Gateway], tmp_path: Path) -> None:
    left, right = gateways
    right.meet(left)
    left.meet(right)
    left.ping(right)
    (handshake,) = left.get("last_handshake_time_nsec")
    _, other = genkey(left)

    config = left.wg("showconf", left.interface).stdout
    extra = f"[Peer]\nPublicKey = {other}\nAllowedIPs = 10.88.0.0/16\n"
    left.wg("addconf", left.interface, secret_file(tmp_path / "add", extra))
    assert len(left.get("public_key")) == 2
    left.ping(right)

    left.wg("syncconf", left.interface, secret_file(tmp_path / "sync", config))
    assert left.get("public_key") == [right.public.hex()]
    assert left.get("last_handshake_time_nsec") == [handshake]  # the session lives on
    left.ping(right)
    assert left.get("last_handshake_time_nsec") == [handshake]

    left.wg("setconf", left.interface, secret_file(tmp_path / "set", config))
    assert left.get("last_handshake_time_nsec") == ["0"]
    assert left.wg("showconf", left.interface).stdout == config
    left.ping(right)


def test_errors_reach_the_user_in_words(gateway: Gateway) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        port = taken.getsockname()[1]
        # the same port in the gateway's own namespace is free; so take it there
        assert gateway.wg("set", gateway.interface, "listen-port", str(port)).returncode == 0
    other = Gateway(gateway.host, 0)
    try:
        done = other.wg("set", other.interface, "listen-port", str(port), check=False)
        assert done.returncode != 0
        assert "Address already in use" in done.stderr
        assert other.answers()
    finally:
        log = other.close()
    assert f"UDP port {port}: Address already in use" in log


def test_empty_connections_and_garbage_do_not_disturb(gateway: Gateway) -> None:
    path = str(socket_path(gateway.interface))
    for request in (b"", b"\0" * 5000, b"get=1", b"set=1\nprivate_key=", b"\n\n\n", os.urandom(100_000)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(5)
            client.connect(path)
            try:
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
            except (BrokenPipeError, ConnectionResetError):
                pass  # hung up on, as it should be
    idle = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(30)]
    try:
        for client in idle:
            client.connect(path)
        assert talk(gateway.interface, "get=1\n\n").endswith("errno=0\n\n")
    finally:
        for client in idle:
            client.close()


def test_very_many_allowed_ips(gateway: Gateway, tmp_path: Path) -> None:
    _, peer = genkey(gateway)
    prefixes = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(30_000)]
    config = f"[Peer]\nPublicKey = {peer}\n" + "".join(f"AllowedIPs = {prefix}\n" for prefix in prefixes)
    gateway.wg("setconf", gateway.interface, secret_file(tmp_path / "conf", config))
    shown = gateway.wg("show", gateway.interface, "allowed-ips").stdout.split()
    assert sorted(shown[1:]) == sorted(prefixes)
