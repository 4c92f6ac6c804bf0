"""Clauses 5.2, 6.1 and 6.5: the status. Takes no keys."""

from __future__ import annotations

from typing import Any

from qtunnel.drivers.answers import clean
from qtunnel.probe.model import Finding, deviates, passed, untestable
from qtunnel.probe.session import TUNNEL_BITS, Session
from qtunnel.probe.wire import Answer

FIELDS: dict[str, type] = {
    "source_KME_ID": str,
    "target_KME_ID": str,
    "master_SAE_ID": str,
    "slave_SAE_ID": str,
    "key_size": int,
    "stored_key_count": int,
    "max_key_count": int,
    "max_key_per_request": int,
    "max_key_size": int,
    "min_key_size": int,
    "max_SAE_ID_count": int,
}
"""Of the status data format, table in clause 6.1; ``status_extension`` is optional."""

UNKNOWN_SAE = "qtunnel-probe-no-such-sae"

WORDS_DECIDE = "the driver goes by the words of an error; no option is needed"


async def status_answer(session: Session) -> Finding:
    """Also finds out whether the paths want a slash, and reads the limits."""
    peer, wire = session.target.slave_sae, session.master
    answer = await wire.ask("GET", "status", peer)
    if answer.status in (301, 302, 307, 308, 404):
        wire.slash = True
        other = await wire.ask("GET", "status", peer)
        if other.status == 200:
            if session.slave is not None:
                session.slave.slash = True
            session.status = other
            _read_limits(session)
            return deviates(
                f"the path without a slash at its end: HTTP {answer.status}; with one: HTTP 200",
                "calls to the standard's own paths fail",
                "trailing_slash: true",
            )
        wire.slash = False
    session.status = answer
    if answer.status in (401, 403):
        remedy = "nothing: the vendor has to know the SAE of the certificate, or the certificate is not the right one"
        return deviates(answer.words, "the KME does not know this gateway, and gives it no keys", remedy)
    if answer.status != 200:
        return deviates(
            answer.words, "the status is not to be had: is the url right?", "url, with the path before /api/v1/keys"
        )
    if not isinstance(answer.document(), dict):
        return deviates(
            "HTTP 200 without a JSON object", "the source counts as down", "nothing: is the url that of a KME?"
        )
    _read_limits(session)
    if not answer.is_json:
        return deviates(
            f"content type {clean(answer.kind) or 'none'} in the place of application/json",
            "strict clients refuse it",
            "the driver reads the body whatever the content type; no option is needed",
        )
    return passed("HTTP 200, application/json")


def _read_limits(session: Session) -> None:
    fields = _fields(session)
    if fields is not None:
        session.read_limits(_folded(fields))


def _fields(session: Session) -> dict[str, Any] | None:
    document = session.status.document() if session.status is not None and session.status.status == 200 else None
    return document if isinstance(document, dict) else None


def _folded(fields: dict[str, Any]) -> dict[str, Any]:
    lower = {name.lower(): value for name, value in fields.items()}
    return {name: lower[name.lower()] for name in FIELDS if name.lower() in lower}


async def status_fields(session: Session) -> Finding:
    fields = _fields(session)
    if fields is None:
        return untestable("there is no status")
    lower = {name.lower(): name for name in fields}
    missing, spelt, wrong = [], [], []
    for name, kind in FIELDS.items():
        found = lower.get(name.lower()) if name not in fields else name
        if found is None:
            missing.append(name)
            continue
        if found != name:
            spelt.append(f"{clean(found)} in the place of {name}")
        if not isinstance(fields[found], kind) or isinstance(fields[found], bool):
            wrong.append(f"{name} is no {'integer' if kind is int else 'text'}")
    if "status_extension" in fields and not isinstance(fields["status_extension"], dict):
        wrong.append("status_extension is no object")
    if not (missing or spelt or wrong):
        return passed("all eleven fields, of the right types")
    seen = [f"missing: {', '.join(missing)}"] if missing else []
    means = "what is not told is not shown"
    if "max_key_per_request" in missing or any(part.startswith("max_key_per_request") for part in wrong):
        means += ", and keys are asked for one at a time"
    return deviates("; ".join(seen + spelt + wrong), means, "the driver reads a status with gaps; no option is needed")


async def status_saes(session: Session) -> Finding:
    fields = _fields(session)
    if fields is None:
        return untestable("there is no status")
    told, target = _folded(fields), session.target
    wanted = {"master_SAE_ID": target.master_sae, "slave_SAE_ID": target.slave_sae}
    wrong = [
        f"{name} is {clean(str(told.get(name, 'missing')))}, not {sae}"
        for name, sae in wanted.items()
        if told.get(name) != sae
    ]
    if not wrong:
        return passed(f"{target.master_sae} and {target.slave_sae}")
    return deviates(
        "; ".join(wrong),
        "the KME may take this gateway, or its peer, for another one; then the peer cannot fetch the keys",
        "sae_id, peer_sae_id: as the vendor has them",
    )


async def status_sizes(session: Session) -> Finding:
    limits = session.limits
    low, size, high = limits.min_size, limits.size, limits.max_size
    if low is None or size is None or high is None:
        return untestable("the status does not tell all of key_size, min_key_size, max_key_size")
    told = f"{low} to {high} bits, {size} by default"
    if not low <= size <= high or size % 8:
        return deviates(
            told,
            "the sizes contradict each other, so a request for any size may be refused",
            f"key_size: {size} at both gateways, if requests for {TUNNEL_BITS} bits fail",
        )
    return passed(told, "" if limits.allow(TUNNEL_BITS) else f"key_size: {size} at both gateways")


async def status_unknown_sae(session: Session) -> Finding:
    answer = await session.master.ask("GET", "status", UNKNOWN_SAE)
    if answer.status == 200:
        return deviates(
            "HTTP 200 for an SAE that does not exist",
            "a wrong peer_sae_id is seen only when the peer does not find the keys",
            "nothing: compare peer_sae_id with what the vendor has",
        )
    return error_finding(answer, (400, 401), "a wrong peer_sae_id is told less clearly")


def error_finding(answer: Answer, due: tuple[int, ...], means: str) -> Finding:
    """Of a refusal that was wanted: the right status, and the error object of clause 6.5."""
    document, wrong = answer.document(), []
    if answer.status not in due:
        wrong.append(f"HTTP {answer.status} where {' or '.join(map(str, due))} is due")
    if not isinstance(document, dict):
        wrong.append("no JSON object")
    elif not isinstance(document.get("message"), str):
        wrong.append("no message in it")
    elif not isinstance(document.get("details", []), list):
        wrong.append("details is no array")
    if not wrong:
        return passed(answer.words)
    return deviates(f"{', '.join(wrong)} (it says: {answer.words.partition(': ')[2]})", means, WORDS_DECIDE)
