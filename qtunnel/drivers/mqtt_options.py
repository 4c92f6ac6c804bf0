"""What stands in the configuration of a source with the driver ``mqtt``."""

from __future__ import annotations

import ssl
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator
from yarl import URL

from qtunnel.config.types import Duration, InputFile, SecretFile, Section, at_least
from qtunnel.config.urls import MqttUrl
from qtunnel.secret import Secret
from qtunnel.tls import CaFile, TlsFiles, client_context, read_password


def _level(value: str) -> str:
    if not 0 < len(value) <= 64 or not value.isascii() or not value.isprintable() or set(value) & set("/+#$ "):
        raise ValueError(
            "not a level of a topic; take 1 to 64 printable ASCII characters without '/', '+', '#', '$', ' '"
        )
    return value


def _prefix(value: str) -> str:
    for level in value.split("/"):
        _level(level)
    if len(value) > 200:
        raise ValueError("has more than 200 characters")
    return value


Level = Annotated[str, AfterValidator(_level)]
"""One level of a topic."""


class Options(Section):
    """What stands under ``key_sources.<name>``.

    device: the name of the device in the topics; prefix: what stands before it. client_id: our name in the topics and
    at the broker, which must be no other client's. ca: who signs the broker's certificate, which has to be for the host
    of ``url``. certificate and private_key, or username and password_file, or all of them: who we are to the broker.
    """

    url: MqttUrl = Field(examples=["mqtts://broker.example.org:8883"])
    device: Level = Field(examples=["qkd-a"])
    client_id: Level = Field(examples=["gateway-a"])
    prefix: Annotated[str, AfterValidator(_prefix)] = "qkd/v1"
    ca: InputFile | None = None
    certificate: InputFile | None = None
    private_key: SecretFile | None = None
    username: str | None = Field(default=None, min_length=1, max_length=255)
    password_file: SecretFile | None = None
    timeout: Annotated[Duration, at_least(0.1, "no device answers that fast")] = 5.0

    @property
    def tls(self) -> bool:
        return self.url.startswith("mqtts:")

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key belong together; give both or neither")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file belong together; give both or neither")
        if self.tls and self.ca is None:
            raise ValueError("mqtts needs ca: the certificate of who signs the broker's")
        if not self.tls and (self.ca is not None or self.certificate is not None):
            raise ValueError("ca and certificate are for TLS, and the url has none; write mqtts://, or leave them out")
        if self.tls and self.certificate is None and self.username is None:
            raise ValueError(
                "the broker has to know who asks for keys: give certificate and private_key, or username and "
                "password_file"
            )
        return self

    def address(self) -> tuple[str, int]:
        """Host and port of the broker."""
        url = URL(self.url)
        assert url.host is not None
        assert url.port is not None
        return url.host, url.port

    def context(self) -> ssl.SSLContext | None:
        """For the connection to the broker, with the check of its name; raises ``ConfigError`` or
        ``FilePermissionError``."""
        if not self.tls:
            return None
        assert self.ca is not None
        files: TlsFiles | CaFile = CaFile(self.ca)
        if self.certificate is not None and self.private_key is not None:
            files = TlsFiles(self.ca, self.certificate, self.private_key)
        return client_context(files)

    def password(self) -> Secret | None:
        """From its file, without the line break at the end; raises ``ConfigError`` or ``FilePermissionError``."""
        return None if self.password_file is None else read_password(self.password_file, text=True)


class PeerOptions(Section):
    """What stands under ``peers[].qkd.sources.<name>``: the other end's name at the device."""

    peer: Level = Field(examples=["gateway-b"])
