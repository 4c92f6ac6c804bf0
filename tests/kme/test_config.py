"""The KME's configuration file: the examples hold, and mistakes are named with their line."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from qtunnel.errors import ConfigError
from qtunnel.kme.config import load_config
from tests.support.kme import pair_configs

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def example(pki: Path, tmp_path: Path) -> Path:
    """configs/kme-a.yaml beside the PKI that it names."""
    (tmp_path / "pki").symlink_to(pki)
    path = tmp_path / "kme-a.yaml"
    path.write_text((CONFIGS / "kme-a.yaml").read_text())
    return path


def problems(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return str(caught.value)


def test_the_examples_are_two_ends_of_one_link(pki: Path, example: Path) -> None:
    a = load_config(example)
    example.write_text((CONFIGS / "kme-b.yaml").read_text())
    b = load_config(example)
    assert a.partner is not None
    assert b.partner is not None
    assert (a.kme_id, b.kme_id) == (b.partner.kme_id, a.partner.kme_id) == ("kme-a", "kme-b")
    assert a.partner.url == f"https://{b.partner.listen}"
    assert b.partner.url == f"https://{a.partner.listen}"
    assert {sae.sae_id: sae.kme for sae in a.saes} == {"sae-alice": "local", "sae-bob": "partner"}
    assert {sae.sae_id: sae.kme for sae in b.saes} == {"sae-alice": "partner", "sae-bob": "local"}
    assert a.certificate == example.parent / "pki/kme-a.pem"


def test_what_the_examples_call_defaults_are_the_defaults(example: Path) -> None:
    shown = example.read_text()
    uncommented = "".join(
        line.replace("# ", "", 1) if line.startswith(("# key:", "#   ", "  # timeout")) else line
        for line in shown.splitlines(keepends=True)
    )
    assert uncommented.count("\n  size: 256") == 1
    before = load_config(example)
    example.write_text(uncommented)
    assert load_config(example) == before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kme_id: kme-a ", "kme_idd: kme-a ", ":6:1: kme_idd: unknown key 'kme_idd'; did you mean 'kme_id'?"),
        ("listen: 127.0.0.1:8443", "listen: 127.0.0.1", ":7:9: listen: not an address and a port"),
        (
            "listen: 10.99.0.1:8444",
            "listen: 127.0.0.1:8443",
            "partner.listen: is 127.0.0.1:8443, where SAEs are served",
        ),
        ("  kme_id: kme-b", "  kme_id: kme-a", "partner.kme_id: is kme-a, this KME itself"),
        ("url: https://", "url: http://", "partner.url: is http; keys need mutual TLS"),
        ("pki/kme-a.pem", "pki/other.pem", "certificate: no such file"),
        ("sae_id: sae-bob", "sae_id: sae-alice", "saes[1].sae_id: 'sae-alice' is given twice"),
        ("kme: local", "kme: partner", "saes: has no local SAE"),
        ("kme: local", "kme: here", "saes[0].kme: is 'here'; must be one of: local, partner"),
        ("# key:", "key: {size: 100}\n#", "key.size: must be a multiple of 8 bits; write 104"),
        ("# key:", "key: {size: 8192}\n#", "key.size: is 8192; must be from min_size (64) to max_size (4096)"),
        ("# key:", "key: {ttl: 60}\n#", "key.ttl: a duration needs a unit; write 60s for seconds"),
        ("# key:", "key: {rate: 0}\n#", "key.rate: "),
        ("# key:", "key: {max_count: 0}\n#", "key.max_count: is '0'; must be at least 1"),
        ("partner:\n", "partner:\n  kme_id: kme-c\n", "kme_id"),
        ("saes:", "saes: [", "kme-a.yaml:"),
    ],
)
def test_mistakes_are_named_with_their_place(example: Path, old: str, new: str, said: str) -> None:
    text = example.read_text()
    assert old in text
    example.write_text(text.replace(old, new, 1))
    found = problems(example)
    assert said in found
    assert found.startswith(f"{example}:")


def test_a_partner_sae_needs_a_partner(pki: Path, tmp_path: Path) -> None:
    plain, _ = pair_configs(pki)
    del plain["partner"]
    path = tmp_path / "alone.yaml"
    with path.open("w") as file:
        YAML(typ="safe").dump(plain, file)
    assert "is partner, but there is no partner; add partner: or write local" in problems(path)
    plain["saes"] = [{"sae_id": "sae-bob", "kme": "local"}]
    with path.open("w") as file:
        YAML(typ="safe").dump(plain, file)
    assert load_config(path).partner is None


def test_a_private_key_that_others_can_read(pki: Path, example: Path) -> None:
    key = example.parent / "open.key"
    key.write_bytes((pki / "kme-a.key").read_bytes())
    key.chmod(0o644)
    example.write_text(example.read_text().replace("pki/kme-a.key", "open.key"))
    assert f"run: chmod 600 {key}" in problems(example)
