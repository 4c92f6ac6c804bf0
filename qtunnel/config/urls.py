"""Types for configuration fields: the base address of an HTTPS server, the address of an MQTT broker."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import BeforeValidator
from yarl import URL

EXAMPLE = "write https://kme.example.org:8443"
MQTT_EXAMPLE = "write mqtts://broker.example.org:8883"
MQTT_PORTS = {"mqtts": 8883, "mqtt": 1883}
"""The registered ports of MQTT over TLS, and without."""


def parse_https_url(value: object) -> str:
    """``value`` without a trailing slash; raises ``ValueError``. Never repeats it, as it may hold a password."""
    if not isinstance(value, str):
        raise ValueError(f"must be text; {EXAMPLE}")
    try:
        url = URL(value.strip())
        port = url.explicit_port
    except ValueError:
        raise ValueError(f"not a URL; {EXAMPLE}") from None
    if url.scheme == "http":
        raise ValueError(f"is http; keys need mutual TLS; {EXAMPLE}")
    if url.scheme != "https" or not url.host or any(c.isspace() or not c.isprintable() for c in value.strip()):
        raise ValueError(f"not an https URL; {EXAMPLE}")
    if url.user is not None or url.password is not None:
        raise ValueError(f"has a user or password; the client certificate authenticates; {EXAMPLE}")
    if url.query_string or url.fragment or "?" in value or "#" in value:
        raise ValueError(f"has a query or fragment; {EXAMPLE}")
    if port == 0:
        raise ValueError("the port must be from 1 to 65535")
    return str(url).rstrip("/")


HttpsUrl = Annotated[str, BeforeValidator(parse_https_url)]
"""``https://host:port``, with a path before the API's own where there is one."""


def parse_mqtt_url(value: object) -> str:
    """``mqtts://host:port``, or without TLS an address of this machine; with its port. Raises ``ValueError``.

    Never repeats the value, as it may hold a password.
    """
    if not isinstance(value, str):
        raise ValueError(f"must be text; {MQTT_EXAMPLE}")
    try:
        url = URL(value.strip())
        port = url.explicit_port
    except ValueError:
        raise ValueError(f"not a URL; {MQTT_EXAMPLE}") from None
    if url.scheme not in MQTT_PORTS or not url.host or any(c.isspace() or not c.isprintable() for c in value.strip()):
        raise ValueError(f"not the address of an MQTT broker; {MQTT_EXAMPLE}")
    if url.user is not None or url.password is not None:
        raise ValueError(f"has a user or password; they go to username and password_file; {MQTT_EXAMPLE}")
    if url.path not in ("", "/") or url.query_string or url.fragment or "?" in value or "#" in value:
        raise ValueError(f"has more than a host and a port; {MQTT_EXAMPLE}")
    if port == 0:
        raise ValueError("the port must be from 1 to 65535")
    if url.scheme == "mqtt" and not is_loopback(url.host):
        raise ValueError(
            "is without TLS, and not an address of this machine such as 127.0.0.1, which alone may do without; "
            + MQTT_EXAMPLE
        )
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}:{port or MQTT_PORTS[url.scheme]}"


def is_loopback(host: str) -> bool:
    """Whether it is an address of this machine alone. A name is not: who resolves it may say otherwise."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


MqttUrl = Annotated[str, BeforeValidator(parse_mqtt_url)]
"""``mqtts://host:port``, or ``mqtt://127.0.0.1:port`` for a broker on this machine."""
