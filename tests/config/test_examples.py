"""Every file in configs/ loads, and shows every option there is."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from qtunnel.cli.check import check
from qtunnel.config import load_config, warnings
from qtunnel.config.accounts import AuditConfig, MetricsConfig, MqttConfig
from qtunnel.config.model import Config, LogConfig, NodeConfig, PeerConfig, QkdConfig, RekeyConfig, TunnelConfig
from qtunnel.config.plain import PlainPeerConfig
from qtunnel.kme.pki import DEFAULT_KMES, DEFAULT_SAES, create_pki

EXAMPLES = Path(__file__).parents[2] / "configs"
GATEWAYS = ["alice", "bob", "hub", "keys-only", "etsi014", "etsi004", "skip", "mqtt", "pad", "program", "audited"]


@pytest.mark.parametrize("name", GATEWAYS)
def test_a_gateway_example_loads(site: Path, name: str) -> None:
    shutil.copy(EXAMPLES / f"{name}.yaml", site)
    assert load_config(site / f"{name}.yaml", environ={}).node.name == name


def test_there_is_no_example_that_no_test_loads() -> None:
    elsewhere = {"kme-a", "kme-b", *(path.stem for path in EXAMPLES.glob("network-*.yaml"))}  # tests/simulator
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} - elsewhere == set(GATEWAYS)


def test_alice_and_bob_belong_together(site: Path) -> None:
    for name in ("alice", "bob"):
        shutil.copy(EXAMPLES / f"{name}.yaml", site)
    alice, bob = (load_config(site / f"{name}.yaml", environ={}) for name in ("alice", "bob"))
    assert alice.node.state_dir == site / "state-alice"
    assert bob.node.control_socket == site / "bob.sock"
    assert (alice.peer("bob").endpoint, bob.peer("alice").endpoint) == ("10.99.0.2", "10.99.0.1")
    for one, other in ((alice, bob), (bob, alice)):
        (peer,) = one.peers
        assert [str(n.network_address) for n in peer.allowed_ips] == [str(a.ip) for a in other.tunnel.addresses]
        assert (peer.kem, peer.cipher, peer.qkd.policy) == (("ml-kem-1024",), "chacha20-poly1305", "required")
        assert warnings(one) == []


def test_alice_explains_every_option() -> None:
    text = (EXAMPLES / "alice.yaml").read_text()
    models: list[type[BaseModel]] = [
        Config,
        NodeConfig,
        LogConfig,
        TunnelConfig,
        PeerConfig,
        RekeyConfig,
        QkdConfig,
        PlainPeerConfig,
        AuditConfig,
        MetricsConfig,
        MqttConfig,
    ]
    assert [name for model in models for name in model.model_fields if f"{name}:" not in text] == []


def test_check_shows_what_alice_means(site: Path) -> None:
    shutil.copy(EXAMPLES / "alice.yaml", site)
    shutil.rmtree(site / "pki")
    create_pki(site / "pki", now=datetime.now(UTC), kmes=DEFAULT_KMES, saes=DEFAULT_SAES)
    result = CliRunner().invoke(check, [str(site / "alice.yaml")])
    assert result.exit_code == 0, result.output
    for said in ("node alice", "qt0", "peer bob", "required, at least 1 of metro", "every 2m ± 10%", "10m: block"):
        assert said in result.output
