"""Types for configuration fields: the base address of an HTTPS server, addresses of a host and a port.

No error repeats what was written, as it may hold a password.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator
from yarl import URL

EXAMPLE = "write https://kme.example.org:8443"
CERTIFICATE = "the client certificate authenticates"


def _parse(value: object, schemes: Collection[str], what: str, login: str, example: str) -> tuple[str, URL]:
    """Text and URL, which has one of ``schemes`` and a host, and neither user nor password."""
    if not isinstance(value, str):
        raise ValueError(f"must be text; {example}")
    text = value.strip()
    try:
        url = URL(text)
        port = url.explicit_port
    except ValueError:
        raise ValueError(f"not a URL; {example}") from None
    if url.scheme == "http" and "https" in schemes:
        raise ValueError(f"is http; keys need mutual TLS; {example}")
    if url.scheme not in schemes or not url.host or any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError(f"not {what}; {example}")
    if url.user is not None or url.password is not None:
        raise ValueError(f"has a user or password; {login}; {example}")
    if port == 0:
        raise ValueError("the port must be from 1 to 65535")
    return text, url


def parse_https_url(value: object) -> str:
    """``value`` without a trailing slash; raises ``ValueError``."""
    text, url = _parse(value, ("https",), "an https URL", CERTIFICATE, EXAMPLE)
    if url.query_string or url.fragment or "?" in text or "#" in text:
        raise ValueError(f"has a query or fragment; {EXAMPLE}")
    return str(url).rstrip("/")


HttpsUrl = Annotated[str, BeforeValidator(parse_https_url)]
"""``https://host:port``, with a path before the API's own where there is one."""


@dataclass(frozen=True, slots=True)
class HostAndPort:
    """An address of a host and a port, and no more: called with what was written it gives ``scheme://host:port``, or
    raises ``ValueError``.

    what: it is the address of; tls, plain: the schemes with and without TLS, the latter for addresses of this machine
    alone; ports: where none is written, by scheme; login: how one is known there, in words.
    """

    what: str
    tls: str
    plain: str
    login: str
    example: str
    ports: tuple[int, int] | None = None

    def __call__(self, value: object) -> str:
        what = f"the address of {self.what}"
        text, url = _parse(value, (self.tls, self.plain), what, self.login, self.example)
        if url.path not in ("", "/") or "?" in text or "#" in text:
            raise ValueError(f"has more than a host and a port; {self.example}")
        port, host = url.explicit_port, url.host or ""
        if port is None and self.ports is None:
            raise ValueError(f"needs a port from 1 to 65535, the standard has none; {self.example}")
        if url.scheme == self.plain and not is_loopback(host):
            raise ValueError(
                "is without TLS, and not an address of this machine such as 127.0.0.1, which alone may do without; "
                + self.example
            )
        if port is None and self.ports is not None:
            port = self.ports[url.scheme == self.plain]
        return f"{url.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether it is an address of this machine alone. A name is not: who resolves it may say otherwise."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


parse_mqtt_url = HostAndPort(
    what="an MQTT broker",
    tls="mqtts",
    plain="mqtt",
    login="they go to username and password_file",
    example="write mqtts://broker.example.org:8883",
    ports=(8883, 1883),  # the registered ones
)
MqttUrl = Annotated[str, BeforeValidator(parse_mqtt_url)]
"""``mqtts://host:port``, or ``mqtt://127.0.0.1:port`` for a broker on this machine."""

parse_etsi004_url = HostAndPort(
    what="a KME of ETSI GS QKD 004",
    tls="tls",
    plain="tcp",
    login=CERTIFICATE,
    example="write tls://kme.example.org:25575",
)
Etsi004Url = Annotated[str, BeforeValidator(parse_etsi004_url)]
"""``tls://host:port``, or ``tcp://127.0.0.1:port`` for a KME on this machine."""
