"""What the configuration says of a KME with ETSI GS QKD 014 v1.1.1, and of a peer's SAE there."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from qtunnel.config.types import Duration, Host, InputFile, KeySize, SecretFile, Section, at_least
from qtunnel.config.urls import parse_https_url
from qtunnel.tls import AnyFiles, Pkcs12Files, TlsFiles, own_names

MAX_URLS = 8
"""A call that is refused everywhere tries each once."""

Item = TypeVar("Item")


def _sae_id(value: str) -> str:
    if not value or len(value) > 255 or not value.isascii() or not value.isprintable() or "/" in value:
        raise ValueError("not an SAE ID; take 1 to 255 printable ASCII characters without '/'")
    return value


SaeId = Annotated[str, AfterValidator(_sae_id)]
KmeId = Annotated[str, Field(min_length=1, max_length=255)]


def _as_list(value: object) -> object:
    return value if isinstance(value, list | tuple) else (value,)


def _urls(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        return (parse_https_url(value),)
    if not 1 <= len(value) <= MAX_URLS:
        raise ValueError(f"must be one URL, or a list of at most {MAX_URLS}")
    found = []
    for number, item in enumerate(value, 1):
        try:
            found.append(parse_https_url(item))
        except ValueError as error:
            raise ValueError(f"entry {number}: {error}") from None
    return _without_repeats(tuple(found))


def _without_repeats(values: tuple[Item, ...]) -> tuple[Item, ...]:
    if len(set(values)) != len(values):
        raise ValueError("one of them stands there twice; remove it")
    return values


def _version(value: object) -> object:
    return str(value) if isinstance(value, float) else value  # 1.3 without quotes is a number in YAML


def _extensions(value: object) -> tuple[dict[str, Any], ...]:
    """``{a: 1, b: 2}`` or ``[{a: 1}, {b: 2}]`` as the second, which is the standard's form (clause 6.2)."""
    items = [{name: item} for name, item in value.items()] if isinstance(value, dict) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, dict) and item for item in items):
        raise ValueError("must be a mapping of names to values, or a list of such mappings")
    if not all(isinstance(name, str) for item in items for name in item):
        raise ValueError("the names must be text; put them in quotes")
    try:
        plain = json.loads(json.dumps(items, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        raise ValueError(
            "has a value that JSON does not have; write text, numbers, true, false, lists, mappings"
        ) from None
    return tuple(plain)


Extensions = Annotated[tuple[dict[str, Any], ...], BeforeValidator(_extensions)]


class Options(Section):
    """What stands under ``key_sources.<name>``.

    url: of the KME, or of several in the order of preference. check_hostname: the KME's certificate must be for the
    host of ``url``, or for ``server_hostname`` where given. kme_id: the KME that must answer, or one for each url.
    kme_id_check: where its ID is looked for: in the ``certificate`` (common name or DNS name, before anything is sent),
    in the ``status`` it reports (before every key that is asked for), or in ``both``. Without the check of the host
    name it must be looked for in the certificate: what a server reports of itself proves nothing.

    method: ``get`` where the standard allows it, which is without extensions, without additional SAEs, and for one
    key_ID (clauses 5.3 and 5.4). key_size: bits of the only size that the KME serves. trailing_slash: the KME's paths
    end with one.
    """

    url: Annotated[tuple[str, ...], BeforeValidator(_urls)] = Field(examples=["https://127.0.0.1:8443"])
    sae_id: SaeId = Field(examples=["sae-alice"])
    ca: InputFile = Field(examples=["pki/ca.pem"])
    certificate: InputFile | None = Field(default=None, examples=["pki/sae-alice.pem"])
    private_key: SecretFile | None = Field(default=None, examples=["pki/sae-alice.key"])
    private_key_password_file: SecretFile | None = None
    pkcs12: SecretFile | None = None
    pkcs12_password_file: SecretFile | None = None
    tls_min_version: Annotated[Literal["1.2", "1.3"], BeforeValidator(_version)] = "1.2"
    check_hostname: bool = True
    server_hostname: Host | None = None
    kme_id: Annotated[tuple[KmeId, ...], BeforeValidator(_as_list)] | None = None
    kme_id_check: Literal["certificate", "status", "both"] | None = None
    timeout: Annotated[Duration, at_least(0.1, "no KME answers that fast")] = 5.0
    method: Literal["post", "get"] = "post"
    trailing_slash: bool = False
    key_size: KeySize | None = None
    extension_mandatory: Extensions = ()
    extension_optional: Extensions = ()

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        self._check_files()
        if self.kme_id is not None and len(self.kme_id) not in (1, len(self.url)):
            raise ValueError(
                f"kme_id has {len(self.kme_id)} names for {len(self.url)} urls; write one, or one for each"
            )
        if self.kme_id_check is not None and self.kme_id is None:
            raise ValueError("kme_id_check needs kme_id: the ID that the KME must have")
        if self.server_hostname is not None and not self.check_hostname:
            raise ValueError("server_hostname says what to check, and check_hostname: false says not to; remove one")
        if not self.check_hostname and not self.checks_certificate_id:
            raise ValueError(
                "check_hostname: false needs kme_id, the common name of the KME's certificate, and no kme_id_check: "
                "status; otherwise every server with a certificate of the CA would be taken for the KME"
            )
        return self

    def _check_files(self) -> None:
        if self.pkcs12 is not None:
            if self.certificate or self.private_key or self.private_key_password_file:
                raise ValueError("pkcs12 holds certificate and private_key; remove these, or pkcs12")
        elif self.certificate is None or self.private_key is None:
            raise ValueError("needs certificate and private_key, or pkcs12: how the KME knows this gateway")
        if self.pkcs12_password_file is not None and self.pkcs12 is None:
            raise ValueError("pkcs12_password_file needs pkcs12; for a PEM file write private_key_password_file")

    @property
    def tls_files(self) -> AnyFiles:
        if self.pkcs12 is not None:
            return Pkcs12Files(self.ca, self.pkcs12, self.pkcs12_password_file)
        assert self.certificate is not None
        assert self.private_key is not None
        return TlsFiles(self.ca, self.certificate, self.private_key, self.private_key_password_file)

    @property
    def tls_version(self) -> ssl.TLSVersion:
        return ssl.TLSVersion.TLSv1_3 if self.tls_min_version == "1.3" else ssl.TLSVersion.TLSv1_2

    def kme_id_at(self, number: int) -> str | None:
        """The KME that must answer at the url of that number."""
        if self.kme_id is None:
            return None
        return self.kme_id[number if len(self.kme_id) > 1 else 0]

    @property
    def checks_certificate_id(self) -> bool:
        return self.kme_id is not None and self.kme_id_check != "status"

    @property
    def checks_status_id(self) -> bool:
        return self.kme_id is not None and self.kme_id_check in ("status", "both")


class PeerOptions(Section):
    """What stands under ``peers[].qkd.sources.<name>``: the SAE at the other end, and who gets its keys too."""

    peer_sae_id: SaeId = Field(examples=["sae-bob"])
    additional_slave_sae_ids: Annotated[tuple[SaeId, ...], AfterValidator(_without_repeats)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> PeerOptions:
        if self.peer_sae_id in self.additional_slave_sae_ids:
            raise ValueError("additional_slave_sae_ids names peer_sae_id, which gets the keys anyway; remove it")
        return self


def doubts(options: Options) -> Iterator[str]:
    """KMEs take the SAE ID from the client certificate (ETSI GS QKD 014 clause 5.1); some map it by a table instead."""
    found = own_names(options.tls_files)
    if options.sae_id not in found:
        listed = ", ".join(sorted(found)) or "nobody"
        place = options.pkcs12 or options.certificate
        yield f"{place} names {listed}, not sae_id {options.sae_id}; most KMEs will refuse it"
