"""How KMEs of several vendors differ from the standard, so that one network can have several.

Each is a deviation that docs/sources/etsi014.md names as seen and tolerated, or that an option of the driver copes
with.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, get_args

from aiohttp import web
from aiohttp.typedefs import Middleware

Quirk = Literal[
    "upper-case-ids",
    "capital-fields",
    "unpadded-base64",
    "base64url",
    "text-errors",
    "errors-as-500",
    "one-key",
    "get-only",
    "silent-status",
]
"""upper-case-ids: key_IDs in capitals. capital-fields: ``Keys``, ``Key_ID``, ``Key``. text-errors: plain text in place
of JSON. errors-as-500: 500 in place of 503. one-key: its status says one key in a request. get-only: 405 for POST.
silent-status: no status_extension, no counts."""

QUIRKS: tuple[str, ...] = get_args(Quirk)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def middleware(quirks: Iterable[Quirk]) -> Middleware:
    """What stands before a KME that is true to the standard, and makes it answer like another one."""
    wanted = frozenset(quirks)

    @web.middleware
    async def odd(request: web.Request, handler: Handler) -> web.StreamResponse:
        if "get-only" in wanted and request.method != "GET":
            return _answer(405, {"message": "Method Not Allowed"}, wanted)
        answer = await handler(request)
        if not isinstance(answer, web.Response) or not isinstance(answer.body, bytes):
            return answer
        body = json.loads(answer.body)
        if request.path.endswith("/status") and answer.status == 200:
            body = _status(body, wanted)
        elif answer.status == 200:
            body = {"keys": [_key(key, wanted) for key in body["keys"]]}
        status = 500 if answer.status == 503 and "errors-as-500" in wanted else answer.status
        return _answer(status, body, wanted)

    return odd


def _key(key: dict[str, Any], wanted: frozenset[str]) -> dict[str, Any]:
    if "upper-case-ids" in wanted:
        key["key_ID"] = key["key_ID"].upper()
    if "base64url" in wanted:
        key["key"] = base64.urlsafe_b64encode(base64.b64decode(key["key"])).decode()
    if "unpadded-base64" in wanted:
        key["key"] = key["key"].rstrip("=")
    return key


def _status(body: dict[str, Any], wanted: frozenset[str]) -> dict[str, Any]:
    if "one-key" in wanted:
        body["max_key_per_request"] = 1
    if "silent-status" in wanted:
        for name in ("status_extension", "stored_key_count", "max_key_count"):
            body.pop(name, None)
    return body


def _answer(status: int, body: dict[str, Any], wanted: frozenset[str]) -> web.Response:
    if status != 200 and "text-errors" in wanted:
        return web.Response(status=status, text=str(body.get("message", "error")))
    if "capital-fields" in wanted:
        body = {name[:1].upper() + name[1:]: value for name, value in body.items()}
        if "Keys" in body:
            body["Keys"] = [{name[:1].upper() + name[1:]: value for name, value in key.items()} for key in body["Keys"]]
    text = json.dumps(body).encode()
    return web.Response(
        status=status, body=text, content_type="application/json", headers={"Cache-Control": "no-store"}
    )
