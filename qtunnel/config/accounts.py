"""What a gateway gives account of itself by: the audit log, metrics for Prometheus, reports by MQTT, a page."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from qtunnel.config.amounts import Bytes, at_least_amount
from qtunnel.config.document import Problem
from qtunnel.config.types import (
    ConfigPath,
    Duration,
    InputFile,
    ListenAddress,
    SecretFile,
    Section,
    at_least,
    parse_socket_address,
)
from qtunnel.config.urls import MqttUrl
from qtunnel.config.words import ProblemsError

DEFAULT_ROTATE = 64 * 10**6
"""Bytes: a month of a gateway with one peer, a day of a hub of a hundred; one file is verified in some seconds."""
LEAST_ROTATE = 100 * 1000
"""Bytes. Each file begins with a public key and ends with a signature, 8 kB together."""


class AuditConfig(Section):
    """The audit log. path: of the file that is written to. rotate: bytes after which another one begins. on_failure:
    what happens where the disk is full or refuses: ``stop`` ends the daemon, ``go-on`` raises an alarm."""

    path: ConfigPath = Field(examples=["audit/audit.jsonl"])
    rotate: Annotated[
        Bytes, at_least_amount(LEAST_ROTATE, "which would be mostly keys and signatures; the usual is 64M", "B")
    ] = DEFAULT_ROTATE
    on_failure: Literal["stop", "go-on"] = Field(examples=["go-on"])


def _topic_prefix(value: str) -> str:
    levels = value.split("/")
    if not all(level and level.isascii() and level.isprintable() and not set(level) & set("+#$ ") for level in levels):
        raise ValueError("not the beginning of a topic; take words of ASCII with '/' between, without '+', '#', '$'")
    return value


TopicPrefix = Annotated[str, Field(max_length=200), AfterValidator(_topic_prefix)]
"""The levels that stand before our topics."""


class BrokerSection(Section):
    """An MQTT 5 broker of the users' own. ca: who signs the broker's certificate. certificate and private_key, or
    username and password_file, or both: who we are there."""

    broker: MqttUrl = Field(examples=["mqtts://broker.example.org:8883"])
    ca: InputFile | None = None
    certificate: InputFile | None = None
    private_key: SecretFile | None = None
    username: str | None = Field(default=None, min_length=1, max_length=255)
    password_file: SecretFile | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        tls = self.broker.startswith("mqtts:")
        if tls and self.ca is None:
            raise ValueError("mqtts needs ca: the certificate of who signs the broker's")
        if not tls and (self.ca is not None or self.certificate is not None):
            raise ValueError("ca and certificate are for TLS, and broker has none; write mqtts://, or leave them out")
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key belong together; give both or neither")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file belong together; give both or neither")
        return self


class MqttConfig(BrokerSection):
    """Reports of a gateway. prefix: what stands before our topics. interval: seconds between reports that do not
    change. discovery: messages by which Home Assistant finds the values."""

    prefix: TopicPrefix = "qtunnel"
    interval: Annotated[Duration, at_least(1, "which tells nobody more; the usual is 30s")] = 30.0
    discovery: Literal["off", "home-assistant"] = "off"


class MetricsConfig(Section):
    """Metrics for Prometheus. expose: where it listens on an address that others reach."""

    listen: ListenAddress = parse_socket_address("127.0.0.1:9586")
    expose: bool = False

    @model_validator(mode="after")
    def _loopback(self) -> MetricsConfig:
        if not self.listen.address.is_loopback and not self.expose:
            words = (
                "others may reach this address, and the metrics need no password: write 127.0.0.1:9586, or set "
                "expose: true beside it where a firewall decides who reads them"
            )
            raise ProblemsError([Problem(("listen",), words)])
        return self


def _host_name(value: str) -> str:
    """As browsers send it in ``Host``: without a scheme, a path or a port."""
    labels = value.lower().rstrip(".").split(".")
    if not all(_LABEL.fullmatch(label) for label in labels) or len(value) > 253:
        raise ValueError("not a host's name; write it as it stands in the browser's address, e.g. status.example.org")
    return ".".join(labels)


_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class PageConfig(Section):
    """The page to look at. token_file: whoever asks has to know what is in it. hosts: names of the proxy by which
    others reach the page; those of this machine alone are known anyway."""

    listen: ListenAddress = parse_socket_address("127.0.0.1:9587")
    token_file: SecretFile | None = None
    hosts: tuple[Annotated[str, AfterValidator(_host_name)], ...] = Field(default=(), max_length=20)

    @model_validator(mode="after")
    def _behind_a_proxy(self) -> PageConfig:
        if not self.listen.address.is_loopback:
            words = (
                "others may reach this address, and the page is without TLS: write 127.0.0.1:9587, and put a proxy of "
                "yours in front of it where others are to read it (docs/operations.md)"
            )
            raise ProblemsError([Problem(("listen",), words)])
        if self.hosts and self.token_file is None:
            words = "is for a proxy that others reach, and these need a token: name its file in token_file"
            raise ProblemsError([Problem(("hosts",), words)])
        return self
