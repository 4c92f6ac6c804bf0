"""An application beside a gateway that takes keys from the same KME, such as encryptors do.

Run by ``python -m qtunnel.scenario.taker URL CA CERTIFICATE PRIVATE_KEY PEER_SAE KEYS EVERY``: asks for KEYS keys every
EVERY seconds (ETSI GS QKD 014, clause 5.2), for half as many after each refusal, and drops them unread.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from qtunnel.tls import TlsFiles, client_context

TIMEOUT = 5.0
"""Seconds for an answer; a KME on a busy machine needs some tenths."""

SIZE = 256
"""Bits."""


def ask(connection: http.client.HTTPSConnection, peer: str, number: int) -> bool:
    """Whether the KME gave so many keys."""
    body = json.dumps({"number": number, "size": SIZE})
    headers = {"Content-Type": "application/json"}
    connection.request("POST", f"/api/v1/keys/{peer}/enc_keys", body, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status == 200


def run(host: str, port: int, context: ssl.SSLContext, peer: str, keys: int, every: float) -> None:
    """Until a signal ends it."""
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=context)
    number, due = keys, time.monotonic()
    while True:
        try:
            given = ask(connection, peer, number)
        except (OSError, http.client.HTTPException):
            connection.close()  # it connects again by itself
            given = False
        number = min(keys, 2 * number) if given else max(1, number // 2)
        due = max(due + every, time.monotonic())
        time.sleep(due - time.monotonic() if due > time.monotonic() else 0)


if __name__ == "__main__":
    url, ca, certificate, private_key, sae, many, pause = sys.argv[1:]
    place = urlsplit(url)
    tls = client_context(TlsFiles(Path(ca), Path(certificate), Path(private_key)))
    run(place.hostname or "", place.port or 443, tls, sae, int(many), float(pause))
