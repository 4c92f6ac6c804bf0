"""What may stand in the configuration of the etsi014 driver."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from qtunnel.config import load_config
from qtunnel.drivers import etsi014
from qtunnel.identity import Identity
from tests.support.kme import driver_options

URL = "https://127.0.0.1:1"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"url": "http://kme:8443"}, "keys need mutual TLS"),
        ({"url": "kme:8443"}, "not an https URL"),
        ({"url": "https://user:pass@kme"}, "has a user or password"),
        ({"url": "https://kme/?x=1"}, "has a query"),
        ({"url": "https://kme:99999"}, "not a URL"),
        ({"url": 1}, "must be text"),
        ({"url": []}, "must be one URL, or a list of at most 8"),
        ({"url": [f"https://kme-{number}" for number in range(9)]}, "must be one URL, or a list of at most 8"),
        ({"url": [URL, "http://kme"]}, "entry 2: is http"),
        ({"url": [URL, URL + "/"]}, "stands there twice"),
        ({"timeout": 5}, "write 5s for seconds"),
        ({"timeout": "1ms"}, "no KME answers that fast"),
        ({"kme_id_check": "status"}, "kme_id_check needs kme_id"),
        ({"kme_id": ["a", "b"]}, "kme_id has 2 names for 1 urls"),
        ({"kme_id": ["a", "b"], "url": [URL, "https://x", "https://y"]}, "kme_id has 2 names for 3 urls"),
        ({"check_hostname": False, "server_hostname": "x"}, "remove one"),
        ({"check_hostname": False}, "check_hostname: false needs kme_id"),
        ({"check_hostname": False, "kme_id": "kme-a", "kme_id_check": "status"}, "no kme_id_check: status"),
        ({"sae_id": "a/b"}, "not an SAE ID"),
        ({"sae": "x"}, "Extra inputs"),
        ({"certificate": None}, "needs certificate and private_key, or pkcs12"),
        ({"private_key": None}, "needs certificate and private_key, or pkcs12"),
        ({"pkcs12": "x.p12"}, "pkcs12 holds certificate and private_key"),
        ({"pkcs12_password_file": "x"}, "pkcs12_password_file needs pkcs12"),
        ({"tls_min_version": 1.1}, "'1.2' or '1.3'"),
        ({"method": "put"}, "'post' or 'get'"),
        ({"key_size": 100}, "write 104"),
        ({"key_size": 0}, "greater than or equal to 8"),
        ({"extension_mandatory": "x"}, "must be a mapping of names to values"),
        ({"extension_mandatory": [{}]}, "must be a mapping of names to values"),
        ({"extension_optional": [1]}, "must be a mapping of names to values"),
        ({"extension_optional": {1: 2}}, "the names must be text"),
        ({"extension_optional": {"a": float("nan")}}, "a value that JSON does not have"),
        ({"extension_optional": {"a": {1, 2}}}, "a value that JSON does not have"),
    ],
)
def test_options_that_cannot_be(pki: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        driver_options(pki, **{"sae_id": "sae-alice", "url": URL, **change})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peer_sae_id": ""}, "not an SAE ID"),
        ({"additional_slave_sae_ids": ["sae-bob"]}, "names peer_sae_id"),
        ({"additional_slave_sae_ids": ["x", "x"]}, "stands there twice"),
        ({"additional_slave_sae_ids": ["x/y"]}, "not an SAE ID"),
    ],
)
def test_options_of_a_peer_that_cannot_be(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        etsi014.PeerOptions.model_validate({"peer_sae_id": "sae-bob", **change})


def test_urls_lose_their_last_slash_and_keep_their_path(pki: Path) -> None:
    assert driver_options(pki, "sae-alice", "https://kms.example.org/tenant/7/").url == (
        "https://kms.example.org/tenant/7",
    )
    assert driver_options(pki, "sae-alice", [URL + "/", "https://kme"]).url == (URL, "https://kme")


def test_one_kme_id_is_that_of_all_urls(pki: Path) -> None:
    urls = [URL, "https://kme"]
    assert [driver_options(pki, "sae-alice", urls, kme_id="a").kme_id_at(number) for number in (0, 1)] == ["a", "a"]
    both = driver_options(pki, "sae-alice", urls, kme_id=["a", "b"])
    assert [both.kme_id_at(number) for number in (0, 1)] == ["a", "b"]
    assert driver_options(pki, "sae-alice", urls).kme_id_at(1) is None


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("document", ["docs/sources/etsi014.md", "configs/etsi014.yaml"])
def test_every_option_is_explained(document: str) -> None:
    text = (ROOT / document).read_text()
    names = [*etsi014.Options.model_fields, *etsi014.PeerOptions.model_fields]
    assert [name for name in names if name not in text] == []


def test_the_example_of_the_document_is_one(pki: Path, tmp_path: Path) -> None:
    text = (ROOT / "docs/sources/etsi014.md").read_text()
    [example] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    for name in ("alice", "bob"):
        Identity.create(os.urandom).save(tmp_path / f"{name}.identity")
        public = Identity.load(tmp_path / f"{name}.identity").public.to_text()
        (tmp_path / f"{name}.public").write_text(public)
    (tmp_path / "pki").symlink_to(pki)
    own = "node: {name: alice, identity: alice.identity}\ntunnel: {interface: qt0, addresses: [10.77.0.1/24]}\n"
    (tmp_path / "alice.yaml").write_text(own + example)
    config = load_config(tmp_path / "alice.yaml", environ={})
    options = config.key_sources["metro"].options
    assert isinstance(options, etsi014.Options)
    assert options.url == ("https://kme-a.example.org:8443",)
