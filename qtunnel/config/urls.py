"""A type for configuration fields: the base address of an HTTPS server."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator
from yarl import URL

EXAMPLE = "write https://kme.example.org:8443"


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
