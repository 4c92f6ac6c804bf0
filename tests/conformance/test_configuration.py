"""What wg(8) sets and shows where the kernel has rules of its own."""

from __future__ import annotations

import base64
import os
import signal
from pathlib import Path

import pytest

from qtunnel.secret import Secret
from qtunnel.wireguard.noise import KeyPair
from tests.conformance.observe import datagrams_sent, stays_silent
from tests.support.netns import Namespace, wait_until
from tests.support.ping import answered, gaps
from tests.wireguard.gateways import Gateway

pytestmark = pytest.mark.root

LOW_ORDER = [
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",  # 0
    "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",  # 1
    "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=",  # of order 8
    "X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEVc=",  # of order 8
    "7P///////////////////////////////////////38=",  # p - 1
    "7f///////////////////////////////////////38=",  # p
    "7v///////////////////////////////////////38=",  # p + 1
]
"""Points at which X25519 gives zero, whatever the private key (https://cr.yp.to/ecdh.html#validate)."""


def base64_key(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def key_file(path: Path, text: str) -> str:
    path.touch(0o600)
    path.write_text(text)
    return str(path)


def shown(gateway: Gateway, what: str) -> str:
    return gateway.wg("show", gateway.interface, what).stdout.strip()


def test_private_keys(gateways: tuple[Gateway, Gateway], tmp_path: Path) -> None:
    gateway, other = gateways
    ours, theirs = base64_key(gateway.private), base64_key(other.private)
    peer = base64_key(other.public)
    psk = base64_key(os.urandom(32))
    mine = key_file(tmp_path / "mine", "A" + ours[1:])
    yours = key_file(tmp_path / "yours", theirs)

    def wg_set(*arguments: str) -> None:
        gateway.wg("set", gateway.interface, *arguments)

    wg_set("private-key", mine, "peer", peer, "preshared-key", key_file(tmp_path / "psk", psk))
    assert shown(gateway, "preshared-keys") == f"{peer}\t{psk}"
    wg_set("private-key", "/dev/null", "peer", peer, "preshared-key", "/dev/null")
    assert shown(gateway, "private-key") == "(none)"
    assert shown(gateway, "preshared-keys") == f"{peer}\t(none)"
    wg_set("private-key", yours)  # the peer turns out to be ourselves
    assert shown(gateway, "public-key") == peer
    assert shown(gateway, "peers") == ""
    wg_set("peer", peer)
    assert shown(gateway, "peers") == ""
    wg_set("private-key", mine)
    wg_set("peer", peer)
    assert shown(gateway, "peers") == peer
    # Clamping: the low three bits are cleared, "/" is 0x3f << 2 and "+" 0x3e << 2.
    wg_set("private-key", key_file(tmp_path / "clamp", "/" + ours[1:]))
    assert shown(gateway, "private-key")[0] == "+"


def test_peers_that_answers_split(gateways: tuple[Gateway, Gateway], tmp_path: Path) -> None:
    gateway = gateways[0]
    keys = [base64_key(os.urandom(32)) for _ in range(40)]
    sections = [
        f"[Peer]\nPublicKey = {key}\n" + "".join(f"AllowedIPs = {number}.{n}.0.0/16\n" for n in range(1, 53))
        for number, key in enumerate(keys, 1)
    ]
    gateway.wg("setconf", gateway.interface, key_file(tmp_path / "conf", "".join(sections)))
    lines = shown(gateway, "allowed-ips").splitlines()
    assert [line.split("\t")[0] for line in lines] == keys  # in the order in which they came
    assert all(len(line.split()) == 53 for line in lines)
    gateway.wg("showconf", gateway.interface)
    assert gateway.wg("show", "doesnotexist", check=False).returncode != 0


def test_allowed_ips_nest_and_go(gateways: tuple[Gateway, Gateway]) -> None:
    gateway, other = gateways
    peer = base64_key(other.public)
    for prefixes in (
        "0.0.0.0/0,10.0.0.0/8,100.0.0.0/10,172.16.0.0/12,192.168.0.0/16",
        "0.0.0.0/0",
        "::/0,1700::/111,5000::/4,e000::/37,9000::/75",
        "::/0",
        ",".join(f"abcd::{number}" for number in range(1, 198)),
    ):
        gateway.wg("set", gateway.interface, "peer", peer, "allowed-ips", prefixes)
        assert len(shown(gateway, "allowed-ips").split("\t")[1].split()) == prefixes.count(",") + 1
    gateway.wg("set", gateway.interface, "peer", peer, "remove")
    assert shown(gateway, "peers") == ""


def test_low_order_public_keys_are_never_spoken_to(gateways: tuple[Gateway, Gateway], tmp_path: Path) -> None:
    gateway = gateways[0]
    gateway.wg("set", gateway.interface, "private-key", key_file(tmp_path / "key", base64_key(gateway.private)))
    for point in LOW_ORDER:
        gateway.wg(
            *("set", gateway.interface, "peer", point, "persistent-keepalive", "1", "endpoint", "127.0.0.1:1111"),
            *("allowed-ips", "10.5.0.0/16"),
        )
    assert shown(gateway, "peers").split() == LOW_ORDER
    gateway.host.address(gateway.interface, "10.77.0.1/24")
    gateway.host.ip("route", "add", "10.5.0.0/16", "dev", gateway.interface)
    gateway.host.run("ping", "-c", "2", "-i", "0.2", "-W", "1", "10.5.0.1", check=False)
    assert stays_silent(gateway.host)
    assert datagrams_sent(gateway.host) == 0


def test_a_new_private_key_handshakes_at_once(hosts: tuple[Namespace, Namespace]) -> None:
    ours, theirs = Gateway(hosts[0], 0), Gateway(hosts[1], 1, program="wireguard-go")
    try:
        theirs.meet(ours)
        ours.meet(theirs)
        ours.ping(theirs)
        before = ours.public
        ours.private = os.urandom(32)
        ours.public = KeyPair.of(Secret(ours.private)).public
        ours.set(f"private_key={ours.private.hex()}")
        theirs.set(
            f"public_key={ours.public.hex()}",
            f"allowed_ip={ours.inner(4)}/32",
            f"public_key={before.hex()}",
            "remove=true",
        )
        ours.host.run("ping", "-c", "1", "-W", "2", theirs.inner(4))
        assert theirs.get("public_key") == [ours.public.hex()]
        theirs.host.run("ping", "-c", "1", "-W", "2", ours.inner(4))
    finally:
        ours.close()
        theirs.close()


def test_another_listen_port_keeps_the_session(hosts: tuple[Namespace, Namespace]) -> None:
    ours, theirs = Gateway(hosts[0], 0), Gateway(hosts[1], 1, program="wireguard-go")
    try:
        theirs.meet(ours)
        ours.meet(theirs)
        ours.ping(theirs)
        (handshake,) = ours.get("last_handshake_time_nsec")
        for port in ("0", "9999", "0"):
            ours.wg("set", ours.interface, "listen-port", port)
            ours.ping(theirs)
            assert theirs.get("endpoint") == [f"{ours.outer(4)}:{ours.get('listen_port')[0]}"]
            theirs.ping(ours)
        assert ours.get("last_handshake_time_nsec") == [handshake]
    finally:
        ours.close()
        theirs.close()


def test_a_keepalive_that_is_turned_on_is_sent_at_once(gateways: tuple[Gateway, Gateway]) -> None:
    left, right = gateways
    right.meet(left)
    left.meet(right)
    peer = f"public_key={right.public.hex()}"
    left.set(peer, "persistent_keepalive_interval=60")
    wait_until(lambda: right.get("last_handshake_time_sec") != ["0"], "a handshake for the keepalive")
    left.host.ip("link", "set", left.interface, "down")
    left.set(peer, "persistent_keepalive_interval=0")
    left.set(peer, "persistent_keepalive_interval=1")
    assert stays_silent(left.host)
    left.host.ip("link", "set", left.interface, "up")
    sent = datagrams_sent(left.host)
    wait_until(lambda: datagrams_sent(left.host) >= sent + 2, "keepalives go on")


def test_130560_allowed_ips_while_traffic_goes_on(gateways: tuple[Gateway, Gateway], tmp_path: Path) -> None:
    left, right = gateways
    right.meet(left)
    left.meet(right)
    left.ping(right)
    stranger = base64_key(os.urandom(32))
    prefixes = "".join(f"AllowedIPs = {a}.{b}.0.0/16,{a:x}::{b:x}/128\n" for a in range(1, 256) for b in range(256))
    config = key_file(tmp_path / "many", f"[Peer]\nPublicKey = {stranger}\n{prefixes}")
    pings = left.host.start("ping", "-n", "-i", "0.01", "-W", "5", right.inner(4))
    for _ in range(2):  # the second time it replaces as many
        left.wg("addconf", left.interface, config)
    many = next(line for line in shown(left, "allowed-ips").splitlines() if line.startswith(stranger))
    assert len(many.split()) == 1 + 130_560
    left.wg("set", left.interface, "peer", stranger, "remove")
    left.ping(right)
    pings.send_signal(signal.SIGINT)
    report = pings.communicate()[0]
    assert not gaps(report)
    assert len(answered(report)) > 50
