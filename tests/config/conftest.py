"""A directory with everything that a gateway's configuration names."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from qtunnel.config import load_config
from qtunnel.errors import ConfigError
from qtunnel.identity import Identity

MINIMAL = """\
node:
  name: alice
  identity: alice.identity
tunnel:
  interface: qt0
  addresses: [10.77.0.1/24]
key_sources:
  metro:
    driver: etsi014
    url: https://127.0.0.1:8443
    sae_id: sae-alice
    ca: pki/ca.pem
    certificate: pki/sae-alice.pem
    private_key: pki/sae-alice.key
peers:
  - name: bob
    public: bob.public
    allowed_ips: [10.77.0.2/32]
    qkd:
      sources:
        metro: {peer_sae_id: sae-bob}
"""


@lru_cache
def identity(name: str) -> Identity:
    return Identity.create(os.urandom)


def write_secret(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Identities, public files, pairing secrets, and files in the place of certificates and keys."""
    for name in ("alice", "bob", "hub", "ministry", "laboratory", "branch", "pad", "program"):
        identity(name).save(tmp_path / f"{name}.identity")
        (tmp_path / f"{name}.public").write_text(identity(name).public.to_text())
    write_secret(tmp_path / "ministry.pairing", base64.b64encode(bytes(range(32))).decode() + "\n")
    write_secret(tmp_path / "kp.psk", "0f" * 32 + "\n")
    (tmp_path / "pki").mkdir()
    for name in ("ca", "backbone-ca", "sae-alice", "sae-bob", "sae-hub", "hub-1"):
        (tmp_path / "pki" / f"{name}.pem").write_text("stands for a certificate\n")
        write_secret(tmp_path / "pki" / f"{name}.key", "stands for a private key\n")
    write_secret(tmp_path / "pki" / "sae-alice.password", "stands for a password\n")
    return tmp_path


@pytest.fixture
def write(site: Path) -> Callable[[str], Path]:
    """Writes a configuration into the site."""

    def to(text: str) -> Path:
        path = site / "node.yaml"
        path.write_text(text)
        return path

    return to


@pytest.fixture
def errors_of(site: Path) -> Callable[[str | bytes], list[str]]:
    """The lines that loading a text gives, without the directory in front; fails where it loads."""

    def of(text: str | bytes) -> list[str]:
        path = site / "node.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ConfigError) as caught:
            load_config(path, environ={})
        lines = str(caught.value).splitlines()
        assert all(line.startswith(str(path)) for line in lines), lines
        return [line.removeprefix(f"{site}/") for line in lines]

    return of
