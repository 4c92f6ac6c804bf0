"""The configuration of the embedded KME, a YAML file; configs/kme-a.yaml is a commented example."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StrictFloat, StrictInt

from qtunnel.config.document import Problem
from qtunnel.config.loader import load
from qtunnel.config.types import Duration, InputFile, KeySize, ListenAddress, Name, SecretFile, Section, at_least
from qtunnel.config.urls import HttpsUrl
from qtunnel.kme.api import Limits
from qtunnel.tls import TlsFiles


class PartnerConfig(Section):
    """The KME at the other end of the simulated QKD link."""

    kme_id: Name = Field(examples=["kme-b"])
    listen: ListenAddress = Field(examples=["10.99.0.1:8444"])
    url: HttpsUrl = Field(examples=["https://10.99.0.2:8444"])
    timeout: Annotated[Duration, at_least(0.1, "no link answers that fast")] = 3.0


class SaeConfig(Section):
    """An SAE, and the KME it asks: this one (``local``) or the partner."""

    sae_id: Name = Field(examples=["sae-alice"])
    kme: Literal["local", "partner"] = Field(examples=["local"])


class KeyConfig(Section):
    """What keys there are. Sizes in bits, rate in bits per second."""

    size: KeySize = 256
    min_size: KeySize = 64
    max_size: KeySize = 4096
    max_per_request: Annotated[StrictInt, Field(ge=1, le=10_000)] = 128
    max_count: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 10_000
    max_sae_ids: Annotated[StrictInt, Field(ge=0, le=100)] = 4
    rate: Literal["unlimited"] | Annotated[StrictInt | StrictFloat, Field(gt=0, le=1e12)] = "unlimited"
    ttl: Annotated[Duration, at_least(1, "the other SAE could not fetch it in time")] = 3600.0

    @property
    def limits(self) -> Limits:
        return Limits(
            size=self.size,
            min_size=self.min_size,
            max_size=self.max_size,
            max_per_request=self.max_per_request,
            max_count=self.max_count,
            max_sae_ids=self.max_sae_ids,
        )


class KmeConfig(Section):
    """One KME."""

    kme_id: Name = Field(examples=["kme-a"])
    listen: ListenAddress = Field(examples=["127.0.0.1:8443"])
    certificate: InputFile = Field(examples=["pki/kme-a.pem"])
    private_key: SecretFile = Field(examples=["pki/kme-a.key"])
    ca: InputFile = Field(examples=["pki/ca.pem"])
    partner: PartnerConfig | None = None
    saes: list[SaeConfig] = Field(min_length=1, examples=[[{"sae_id": "sae-alice", "kme": "local"}]])
    key: KeyConfig = KeyConfig()

    @property
    def tls_files(self) -> TlsFiles:
        return TlsFiles(self.ca, self.certificate, self.private_key)


def load_config(path: Path | str) -> KmeConfig:
    """The KME's configuration; raises ``ConfigError`` with one line per problem."""
    return load(path, KmeConfig, checks=[_key_sizes, _saes, _partner])


def _key_sizes(config: KmeConfig) -> Iterator[Problem]:
    key = config.key
    reads = (("key", "size"), ("key", "min_size"), ("key", "max_size"))
    if not key.min_size <= key.size <= key.max_size:
        what = f"is {key.size}; must be from min_size ({key.min_size}) to max_size ({key.max_size})"
        yield Problem(("key", "size"), what, reads)


def _saes(config: KmeConfig) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, sae in enumerate(config.saes):
        if sae.sae_id in seen:
            yield Problem(("saes", index, "sae_id"), f"'{sae.sae_id}' is given twice; each SAE belongs to one KME")
        seen.add(sae.sae_id)
        if sae.kme == "partner" and config.partner is None:
            yield Problem(("saes", index, "kme"), "is partner, but there is no partner; add partner: or write local")
    if not any(sae.kme == "local" for sae in config.saes):
        yield Problem(
            ("saes",), "has no local SAE, so nobody could ask this KME; add one with kme: local", (("saes",),)
        )


def _partner(config: KmeConfig) -> Iterator[Problem]:
    if config.partner is None:
        return
    if config.partner.kme_id == config.kme_id:
        yield Problem(("partner", "kme_id"), f"is {config.kme_id}, this KME itself; write the other KME's ID")
    if config.partner.listen == config.listen:
        what = f"is {config.listen}, where SAEs are served; take another port"
        yield Problem(("partner", "listen"), what, (("listen",),))
