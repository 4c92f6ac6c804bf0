"""The simulated QKD link: hands the keys that one KME makes to its partner, before any SAE gets them.

A real link grows the same bits at both ends. Here the KME that is asked for a key draws it at random and sends it over
a TLS connection of its own, on which both KMEs show their certificates, to ``POST /link/v1/keys``. Only what the
partner has acknowledged is delivered, so the slave SAE never asks for a key that its KME does not hold yet.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Sequence

import aiohttp

from qtunnel.kme.api import ApiError, DeliveredKey, Json
from qtunnel.kme.config import PartnerConfig
from qtunnel.secret import Secret
from qtunnel.tls import TlsFiles, client_context, explain

PATH = "/link/v1/keys"

BACKOFF = (0.05, 0.2, 0.5)
"""Seconds before each further try: bridges a restarting partner's shortest gaps and still leaves an SAE's usual
timeout of 5 s alone."""

MAX_ANSWER = 4096
"""Bytes of the partner's answer that are read; it only says yes, or why not."""


class PartnerError(Exception):
    """The partner did not take the keys; the text says why."""


class LinkClient:
    """Pushes keys to the partner."""

    def __init__(self, partner: PartnerConfig, files: TlsFiles) -> None:
        self._partner = partner
        # The partner is known by its KME ID, wherever it lives: that is checked instead of a host name.
        self._context = client_context(files, check_hostname=False, peer_id=partner.kme_id)
        self._session: aiohttp.ClientSession | None = None

    async def push(self, keys: Sequence[DeliveredKey], *, master: str, slaves: Sequence[str]) -> None:
        """Returns when the partner holds the keys; raises ``PartnerError`` within the partner's timeout.

        Repeats itself on a lost connection: the partner passes over what it has already.
        """
        body = encode_push(keys, master=master, slaves=slaves)
        try:
            async with asyncio.timeout(self._partner.timeout):
                for pause in BACKOFF:
                    try:
                        return await self._post(body)
                    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
                        if explain(error) is not None:
                            raise
                        await asyncio.sleep(pause)
                return await self._post(body)
        except TimeoutError:
            raise PartnerError(f"no answer within {self._partner.timeout:g} s") from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise PartnerError(explain(error) or "cannot be reached") from None
        except aiohttp.ClientError:
            raise PartnerError("does not answer as a KME") from None

    async def _post(self, body: bytes) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._context), cookie_jar=aiohttp.DummyCookieJar()
            )
        url = self._partner.url + PATH
        headers = {"Content-Type": "application/json"}
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            answer = await response.content.read(MAX_ANSWER)
            if response.status != 200:
                raise PartnerError(f"answered {response.status}: {_message(answer)}")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


def encode_push(keys: Sequence[DeliveredKey], *, master: str, slaves: Sequence[str]) -> bytes:
    """The body of a push."""
    listed = [{"key_ID": key.key_id, "key": base64.b64encode(key.key.reveal()).decode()} for key in keys]
    return json.dumps({"master_SAE_ID": master, "slave_SAE_IDs": list(slaves), "keys": listed}).encode()


def decode_push(fields: Json) -> tuple[list[DeliveredKey], str, list[str]]:
    """Keys, master and slaves of a push; raises ``ApiError`` 400."""
    try:
        if set(fields) != {"master_SAE_ID", "slave_SAE_IDs", "keys"}:
            raise ValueError
        master, slaves = fields["master_SAE_ID"], fields["slave_SAE_IDs"]
        if not isinstance(master, str) or not isinstance(slaves, list) or not slaves:
            raise ValueError
        if not all(isinstance(slave, str) for slave in slaves):
            raise ValueError
        keys = []
        for entry in fields["keys"]:
            if set(entry) != {"key_ID", "key"} or not isinstance(entry["key_ID"], str):
                raise ValueError
            key = base64.b64decode(entry["key"], validate=True)
            if not key:
                raise ValueError
            keys.append(DeliveredKey(entry["key_ID"], Secret(key)))
    except (ValueError, TypeError, binascii.Error):
        raise ApiError(400, "malformed push; do both KMEs run the same version?") from None
    return keys, master, slaves


def _message(answer: bytes) -> str:
    try:
        message = json.loads(answer)["message"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return "no message"
    return "".join(c for c in str(message)[:200] if c.isprintable())
