"""What to change in a source's options where TLS with a KME fails."""

from __future__ import annotations

from pathlib import Path


def remedy(said: str, *, server_hostname: str | None, ca: Path | None, own: Path | None) -> str:
    """What to say behind ``said``, which is of ``qtunnel.tls.explain``; empty where there is nothing to add.

    server_hostname, ca: as in the options; own: the file with our certificate.
    """
    if "another host name" in said or "another IP address" in said:
        wanted = f" (wanted: {server_hostname})" if server_hostname else ""
        return wanted + "; set server_hostname, or check_hostname: false together with kme_id"
    if "signed" in said and "refused" not in said:
        return f" ({ca})"
    if "refused our" in said or "client certificate" in said:
        return f" ({own})"
    return ""
