"""Who may read the page, and what a browser may do with it.

A page on a port of this machine is within reach of every web site that a browser here shows: by a name that its owner
lets lead to 127.0.0.1 (DNS rebinding), and by requests across sites. So only known names count as this host's, and only
our own page may ask for what is live.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Callable, Iterable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from qtunnel.secret import Secret

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Content Security Policy, level 3: nothing from elsewhere, nothing inline, and no text ever becomes HTML."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",
    "Server": "qtunnel",
}
"""Of every answer, errors included. ``no-store``: no browser shows a state of before, not even by its back button."""


def is_known_host(header: str | None, hosts: Iterable[str]) -> bool:
    """Whether ``Host`` (RFC 9110, 7.2) names this host. Any port counts: ports forwarded by SSH differ, and a site that
    means harm has a name of its own, not one of these."""
    if not header:
        return False
    name, port = header.lower(), ""
    if name.startswith("["):
        name, closed, port = name[1:].partition("]")
        if not closed or (port and not port.startswith(":")):
            return False
        port = port[1:] if port else ""
    elif ":" in name:
        name, _, port = name.partition(":")
    if port and not (port.isascii() and port.isdecimal()):
        return False
    if name.rstrip(".") in ("localhost", *hosts):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def presented(header: str | None) -> bytes | None:
    """The token in ``Authorization``: as Bearer (RFC 6750) or as the password of Basic (RFC 7617), of any user."""
    scheme, _, value = (header or "").partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return value.encode("utf-8", "surrogateescape")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2] or None
        except (binascii.Error, ValueError):
            return None
    return None


def refused_site(headers: Callable[[str], str | None]) -> bool:
    """Whether another web site asks, by Fetch Metadata (W3C). To come here by a link is all right."""
    site = headers("Sec-Fetch-Site")
    if site in (None, "same-origin", "none"):
        return False
    return headers("Sec-Fetch-Mode") != "navigate" or headers("Sec-Fetch-Dest") not in ("document", None)


class Guard:
    """The middleware around everything. hosts: further names of this host; token: what has to be known, if anything."""

    def __init__(self, hosts: Iterable[str], token: Secret | None) -> None:
        self._hosts, self._token = tuple(hosts), token

    def middleware(self) -> Middleware:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            refusal = self._refusal(request)
            if refusal is not None:
                return refusal
            try:
                return await handler(request)
            except web.HTTPException as error:
                return answer(error.status, f"{error.reason.lower()}\n", _kept(error))

        return guard

    def _refusal(self, request: web.Request) -> web.Response | None:
        if not is_known_host(request.headers.get("Host"), self._hosts):
            return answer(421, "this is not the host that was asked for; a proxy's name belongs into page.hosts\n")
        if refused_site(request.headers.get):
            return answer(403, "another web site asked for this\n")
        if self._token is not None:
            given = presented(request.headers.get("Authorization"))
            if given is None or Secret(given) != self._token:
                asks = {"WWW-Authenticate": 'Basic realm="qtunnel", charset="UTF-8"'}
                return answer(401, "this page needs the token of page.token_file\n", asks)
        return None


def answer(status: int, text: str, more: dict[str, str] | None = None) -> web.Response:
    """A few words, with the headers of all."""
    return web.Response(status=status, text=text, headers={**HEADERS, **(more or {})})


def _kept(error: web.HTTPException) -> dict[str, str]:
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
