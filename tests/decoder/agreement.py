"""Whether what was decoded is what the daemons say of it."""

from __future__ import annotations

import base64
import re
from typing import Any

from tests.decoder.handshake import COMMIT, COMMITTED
from tests.decoder.records import Packet
from tests.decoder.session import Decoded

ICMP_SIZES = {84, 4028}
"""Bytes of the two kinds of echo in the session: as IP packets, the larger one put together."""


def compare(decoded: Decoded, told: dict[str, Any]) -> None:
    """told: the file beside the capture (``tests.decoder.live``)."""
    assert decoded.problems == []
    assert decoded.incomplete == 0
    made = {one.offer.epoch: one for one in decoded.exchanges if one.psk}
    assert sorted(made) == list(range(1, len(told["psks"]) + 1)), "each epoch once"
    for epoch, psk in enumerate(told["psks"], 1):
        exchange = made[epoch]
        assert base64.b64encode(exchange.psk).decode() == psk, "the engine has another PSK"
        assert exchange.confirmed == [COMMIT, COMMITTED]
        words = [str(epoch), str(exchange.suite.number), exchange.transcript.hex()]
        assert told["finished"].count(words) == 2, "both ends have this epoch, suite and transcript"
    for name, said in told["said"].items():
        _daemon(decoded, name, said)
    newest = made[max(made)]
    assert newest.answer is not None
    assert newest.answer.chain == made[max(made) - 1].chain_id
    assert {session.epoch for session in decoded.sessions} >= set(made)
    for epoch in made:
        _traffic(decoded, epoch)


def _daemon(decoded: Decoded, name: str, said: dict[str, Any]) -> None:
    made = {one.offer.epoch: one for one in decoded.exchanges if one.psk}
    status = said["status"]
    newest = made[status["epoch_in_force"]]
    assert [(key["source"], key["key_id"]) for key in status["key_ids"]] == [key[:2] for key in newest.keys]
    assert status["chained"]
    lines = [dict(re.findall(r"(\S+?)=(\S+)", line)) for line in said["done"]]
    assert [int(line["epoch"]) for line in lines] == sorted(made)
    for line in lines:
        exchange = made[int(line["epoch"])]
        assert line["role"] == ("initiator" if exchange.initiator.name == name else "responder")
        assert line["key_ids"] == ",".join(key_id for _, key_id, _ in exchange.keys)


def _traffic(decoded: Decoded, epoch: int) -> None:
    """In the sessions of an epoch: echoes of both ends in records, small and large ones, and large ones in several."""
    sessions = [session for session in decoded.sessions if session.epoch == epoch]
    for name in ("alice", "bob"):
        sent = [record for session in sessions for sender, record in session.delivered if sender.name == name]
        assert {record.aead for record in sent} == {"aes-256-gcm"}
        packets = [item.content for record in sent for item in record.items if isinstance(item, Packet)]
        assert {len(packet) for packet in packets} >= {84}, "small echoes"
        assert sum(len(packet) > 1000 for packet in packets) >= 4, "parts of large echoes"
        assert any(record.fragments > 1 for record in sent)
