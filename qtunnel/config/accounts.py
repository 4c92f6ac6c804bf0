"""What a gateway gives account of itself by: the audit log, and metrics for Prometheus."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from qtunnel.config.amounts import Bytes, at_least_amount
from qtunnel.config.document import Problem
from qtunnel.config.types import ConfigPath, ListenAddress, Section, parse_socket_address
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
