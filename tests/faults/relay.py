"""Stands between a gateway and its real KME, mutual TLS on both sides, and does to the answers what it is told.

``python -m tests.faults.relay PORT PKI KME SAE [tell]``: serves 127.0.0.1:PORT with the certificate of KME, asks the
real one on 127.0.0.1:8443 with that of SAE. Commands come by standard input, a line each:

    pass                      as if it were not there
    refuse                    nobody listens
    slow SECONDS              every answer is late
    hang                      there is no answer
    status CODE               every answer is that HTTP error
    break                     half of each answer, and the connection is lost
    stranger                  shows the certificate of an SAE
    hold enc_keys|dec_keys    such a call gets no answer; says "held CALL"
    lie wrong-key             the key is another one
    lie other-sae SAE         get a key as that SAE, and give its key_ID away as one for our own
    lie malformed             each answer is broken in another way

With ``tell`` it says "gave CALL KEY_ID" of every key that it hands on, but of none that it made up.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from itertools import cycle
from pathlib import Path

import aiohttp
from aiohttp import web

from qtunnel.tls import TlsFiles, client_context, server_context

UPSTREAM = "https://127.0.0.1:8443"
BROKEN = (
    b"<html>Bad Gateway</html>",
    b"{}",
    b'{"keys": [{"key_ID": "1", "key": "!!!"}]}',
    b'{"keys": [{"key_ID": "1", "key": "AAAA"}]}',
    b'{"keys": []}',
    b'{"keys": [{"key_ID": "1"',
)


def say(text: str) -> None:
    print(text, flush=True)


def key_ids(answer: bytes) -> list[str]:
    """Of the keys in an answer; none of one that is malformed."""
    try:
        return [str(key["key_ID"]) for key in json.loads(answer)["keys"]]
    except (ValueError, KeyError, TypeError):
        return []


class Relay:
    """One SAE's way to its KME."""

    def __init__(self, port: int, pki: Path, kme: str, sae: str, *, tell: bool = False) -> None:
        self._port, self._pki, self._tell = port, pki, tell
        self._servers = {mode: server_context(self._files(name), say) for mode, name in (("", kme), ("stranger", sae))}
        self._client = self._context(sae)
        self._mode: list[str] = ["pass"]
        self._broken = cycle(BROKEN)
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None

    def _files(self, name: str) -> TlsFiles:
        return TlsFiles(self._pki / "ca.pem", self._pki / f"{name}.pem", self._pki / f"{name}.key")

    def _context(self, sae: str) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(ssl=client_context(self._files(sae)), force_close=True)

    async def serve(self, certificate: str = "") -> None:
        """certificate: of whom, a key of ``_servers``."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        context = self._servers[certificate]
        self._site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=context, reuse_address=True)
        await self._site.start()

    async def _end(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def command(self, words: list[str]) -> None:
        was, self._mode = self._mode, words
        at_the_door = (["refuse"], ["stranger"])
        if words in at_the_door or was in at_the_door:
            await self._end()
            if words != ["refuse"]:
                await self.serve(*(words if words in at_the_door else ()))
        say(f"is {' '.join(words)}")

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = request.path.rsplit("/", 1)[-1]
        mode, body = self._mode, await request.read()
        if mode in (["hold", call], ["hang"]):
            say(f"held {call}")
            while self._mode == mode:  # noqa: ASYNC110  # until another command comes
                await asyncio.sleep(0.02)
            return self._drop(request)
        if mode[0] == "slow":
            await asyncio.sleep(float(mode[1]))
        try:
            status, answer = await self._ask(self._client, request.method, request.path_qs, body)
        except aiohttp.ClientError:
            return self._drop(request)
        if mode[0] == "status":
            return web.json_response({"message": "told to say so"}, status=int(mode[1]))
        if mode[0] == "break":
            return await self._broken_off(request, answer)
        if mode[0] == "lie" and status == 200 and call in ("enc_keys", "dec_keys"):
            answer = await self._lie(mode[1:], call, request, body, answer)
        if self._tell and status == 200 and call in ("enc_keys", "dec_keys") and mode[-1] != "malformed":
            for key_id in key_ids(answer):
                say(f"gave {call} {key_id}")
        return web.Response(body=answer, status=status, content_type="application/json")

    async def _broken_off(self, request: web.Request, answer: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(answer))})
        await response.prepare(request)
        await response.write(answer[: len(answer) // 2])
        return self._drop(request)

    def _drop(self, request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=503)

    async def _ask(self, connector: aiohttp.TCPConnector, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        async with (
            aiohttp.ClientSession(connector=connector, connector_owner=False) as session,
            session.request(
                method, UPSTREAM + path, data=body or None, headers={"Content-Type": "application/json"}
            ) as response,
        ):
            return response.status, await response.read()

    async def _lie(self, how: list[str], call: str, request: web.Request, body: bytes, answer: bytes) -> bytes:
        if how[0] == "malformed":
            say(f"lied {call}")
            return next(self._broken)
        document = json.loads(answer)
        if how[0] == "wrong-key":
            document["keys"][0]["key"] = base64.b64encode(os.urandom(32)).decode()
            say(f"lied {call}")
        elif how[0] == "other-sae" and call == "enc_keys":
            connector = self._context(how[1])
            _, theirs = await self._ask(connector, request.method, request.path_qs, body)
            await connector.close()
            document["keys"][0]["key_ID"] = json.loads(theirs)["keys"][0]["key_ID"]
            say(f"lied {call}")
        return json.dumps(document).encode()


async def main() -> None:
    relay = Relay(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], tell=sys.argv[5:] == ["tell"])
    await relay.serve()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    say("ready")
    while line := await reader.readline():
        await relay.command(line.decode().split())


if __name__ == "__main__":
    asyncio.run(main())
