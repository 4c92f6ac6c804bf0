"""``tunnel.manage: psk``: what of the configuration is then not this gateway's to say."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from qtunnel.cli.check import summary
from qtunnel.config import load_config
from qtunnel.daemon.settings import capabilities_of
from tests.config.conftest import MINIMAL, identity

Errors = Callable[[str | bytes], list[str]]
KEY = base64.b64encode(bytes(range(32))).decode()
OWNED = MINIMAL.replace("  addresses: [10.77.0.1/24]\n", "  manage: psk\n").replace(
    "    allowed_ips: [10.77.0.2/32]\n", f"    wireguard_key: {KEY}\n"
)
BELONGS = "belongs to whoever made the interface where tunnel.manage is psk; remove it here"


def test_an_interface_and_the_peers_keys_are_enough(write: Callable[[str], Path]) -> None:
    config = load_config(write(OWNED), environ={})
    assert (config.tunnel.manage, config.tunnel.addresses, config.peers[0].allowed_ips) == ("psk", (), ())
    assert config.peers[0].wireguard_key == bytes(range(32))
    assert capabilities_of(config.tunnel, fast_aes=True) == 0, "no record mode"
    assert "tunnel qt0: made by somebody else, preshared keys alone" in summary(config)


@pytest.mark.parametrize(
    "line",
    ["addresses: [10.77.0.1/24]", "mtu: 1400", "engine: kernel", "routes: off", "record_mode: off", "processes: 2"],
)
def test_what_the_interface_is_is_its_owners_to_say(errors_of: Errors, line: str) -> None:
    (error,) = errors_of(OWNED.replace("  manage: psk\n", f"  manage: psk\n  {line}\n"))
    assert error.endswith(f"tunnel.{line.partition(':')[0]}: {BELONGS}")


@pytest.mark.parametrize("line", ["allowed_ips: [10.8.0.0/16]", "wireguard_port: 5", "persistent_keepalive: 25s"])
def test_what_a_peer_is_there_is_its_owners_to_say(errors_of: Errors, line: str) -> None:
    (error,) = errors_of(OWNED.replace("    public:", f"    {line}\n    public:"))
    assert error.endswith(f"peers[0].{line.partition(':')[0]}: {BELONGS}")


def test_plain_peers_are_its_owners_too(errors_of: Errors) -> None:
    plain = (
        f"plain_peers:\n  - {{name: p, protection: wireguard-only, public_key: {KEY}, allowed_ips: [10.9.0.1/32]}}\n"
    )
    (error,) = errors_of(plain + OWNED)
    assert error.endswith(f"plain_peers: {BELONGS}")


def test_where_the_interface_is_ours_addresses_and_allowed_ips_are_needed(errors_of: Errors) -> None:
    lines = errors_of(OWNED.replace("  manage: psk\n", ""))
    assert "tunnel.addresses: is missing; for example addresses: [10.77.0.1/24]" in lines[0]
    assert "peers[0].allowed_ips: is missing; for example allowed_ips: [10.77.0.2/32]" in lines[1]
    (line,) = errors_of(MINIMAL.replace("[10.77.0.2/32]", "[]"))
    assert line.endswith("peers[0].allowed_ips: needs at least 1 entry")


@pytest.mark.parametrize("key", ["x", KEY[:-4], "c2VjcmV0", "5"])
def test_a_key_that_is_none_is_told_and_not_repeated(errors_of: Errors, key: str) -> None:
    (line,) = errors_of(OWNED.replace(KEY, key))
    assert line.endswith(
        "peers[0].wireguard_key: not a WireGuard public key: 32 bytes in base64, as wg pubkey prints it"
    )


def test_two_peers_with_one_key_are_told(errors_of: Errors) -> None:
    second = f"  - name: hub\n    public: hub.public\n    wireguard_key: {KEY}\n    qkd: off\n"
    (line,) = errors_of(OWNED + second)
    assert "peers[1].wireguard_key: peers[0] has the same key; every peer needs its own" in line


def test_the_kernels_engine_has_no_record_mode(write: Callable[[str], Path], errors_of: Errors) -> None:
    config = load_config(write(MINIMAL.replace("tunnel:\n", "tunnel:\n  engine: kernel\n")), environ={})
    assert capabilities_of(config.tunnel, fast_aes=True) == 0
    (line,) = errors_of(MINIMAL.replace("tunnel:\n", "tunnel:\n  engine: kernel\n  record_mode: aes-256-gcm\n"))
    assert "needs engine: qtunnel; kernel has no record mode" in line


def test_a_key_that_is_also_in_another_peers_public_file_is_told(site: Path, errors_of: Errors) -> None:
    """The one stands in the file, the other peer has none there."""
    key = base64.b64encode(identity("hub").public.wireguard).decode()
    text = OWNED.replace(KEY, key) + "  - {name: hub, public: hub.public, qkd: off}\n"
    (line,) = errors_of(text)
    assert "peers[1].public: has the same WireGuard key as bob" in line
