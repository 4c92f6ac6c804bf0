"""What the configuration says of a key provider that speaks SKIP (draft-cisco-skip-02), and of a peer's there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from qtunnel.config.types import Duration, Host, InputFile, SecretFile, Section, at_least
from qtunnel.config.urls import HttpsUrl
from qtunnel.drivers.skip_answers import MAX_SYSTEM_ID, is_system_id

MAX_PSK_IDENTITY = 128
"""Bytes of a PSK identity that every server has to support (RFC 4279 section 5.3)."""


def _system_id(value: str) -> str:
    if not is_system_id(value):
        raise ValueError(f"not a system ID; take 1 to {MAX_SYSTEM_ID} printable characters")
    return value


def _psk_identity(value: str) -> str:
    if not value or not value.isprintable() or len(value.encode()) > MAX_PSK_IDENTITY:
        raise ValueError(f"not a PSK identity; take 1 to {MAX_PSK_IDENTITY} bytes of printable text")
    return value


SystemId = Annotated[str, AfterValidator(_system_id)]


class Options(Section):
    """What stands under ``key_sources.<name>``: how the key provider (KP) of this site is reached.

    ca, certificate, private_key, server_hostname: TLS with certificates (draft, table 1). Without ``certificate`` the
    KP shows who it is and this gateway does not. psk_identity, psk_file: TLS with a pre-shared key instead; the file
    holds it in hexadecimal. local_system_id: the KP that must answer, by what it says of itself; no replacement for
    TLS, but it finds a url that leads to another site's.
    """

    url: HttpsUrl = Field(examples=["https://127.0.0.1:9443"])
    ca: InputFile | None = Field(default=None, examples=["pki/ca.pem"])
    certificate: InputFile | None = Field(default=None, examples=["pki/alice.pem"])
    private_key: SecretFile | None = Field(default=None, examples=["pki/alice.key"])
    server_hostname: Host | None = None
    psk_identity: Annotated[str, AfterValidator(_psk_identity)] | None = Field(default=None, examples=["alice"])
    psk_file: SecretFile | None = Field(default=None, examples=["kp.psk"])
    local_system_id: SystemId | None = Field(default=None, examples=["KP_ALICE"])
    timeout: Annotated[Duration, at_least(0.1, "no key provider answers that fast")] = 5.0

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        if (self.psk_identity is None) is not (self.psk_file is None):
            raise ValueError("psk_identity and psk_file belong together; write both, or neither")
        if (self.certificate is None) is not (self.private_key is None):
            raise ValueError("certificate and private_key belong together; write both, or neither")
        if self.psk_file is not None:
            if self.ca or self.certificate or self.server_hostname:
                raise ValueError(
                    "a PSK proves both ends; remove ca, certificate, private_key and server_hostname, or the psk_ keys"
                )
        elif self.ca is None:
            raise ValueError(
                "needs ca, with certificate and private_key where the key provider wants them, or psk_identity and "
                "psk_file: how the key provider is known"
            )
        return self


class PeerOptions(Section):
    """What stands under ``peers[].qkd.sources.<name>``: the key provider at the other end, by its localSystemID."""

    remote_system_id: SystemId = Field(examples=["KP_BOB"])


def doubts(options: Options) -> Iterator[str]:
    """The draft leaves open whether a KP wants a client certificate (table 1)."""
    if options.psk_file is None and options.certificate is None:
        yield (
            f"{options.url} is not told who asks: without certificate or psk_identity, everybody who reaches it may "
            "get the same keys"
        )
