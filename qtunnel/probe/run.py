"""All checks, one after the other."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from qtunnel.errors import KmeUnreachableError
from qtunnel.probe.model import Check, Finding, Report, Result, deviates, untestable
from qtunnel.probe.session import Session
from qtunnel.probe.table import LOOKING, TAKING
from qtunnel.probe.target import Target
from qtunnel.probe.wire import NoAnswerError, Wire, system_words
from qtunnel.secret import RandomBytes
from qtunnel.tls import explain

Agree = Callable[[int], bool]
"""Whether so many keys may be taken at most."""


async def probe(target: Target, agree: Agree, random_bytes: RandomBytes) -> Report:
    """Look, ask whether keys may be taken, and go on.

    agree: asked once, before the first key is taken. random_bytes: for a key_ID that nobody has, and for the marks by
    which a repeated key is known. Raises ``KmeUnreachableError``, ``ConfigError`` or ``FilePermissionError``.
    """
    session = Session(target, random_bytes)
    await _reach(session.master, target.slave_sae)
    if session.slave is not None:
        await _reach(session.slave, target.master_sae)
    results = [Result(check, await _made(session, check)) for check in LOOKING]
    announced = sum(check.keys(session) for check in TAKING)
    agreed = announced == 0 or agree(announced)
    for check in TAKING:
        if not agreed:
            found = untestable("no keys were to be taken")
        elif check.keys(session) and session.taken + check.keys(session) > announced:
            found = untestable("the KME gives more keys than it is asked for, so no more are taken")
        else:
            found = await _made(session, check)
        results.append(Result(check, found))
    return Report(tuple(results), announced if agreed else 0, session.taken)


async def _made(session: Session, check: Check) -> Finding:
    session.left = check.keys(session)
    try:
        return await check.look(session)
    except NoAnswerError as error:
        what = str(error)
    except TimeoutError:
        what = f"no answer within {session.master.timeout:g} s"
    except (ssl.SSLError, OSError) as error:
        what = explain(error) or system_words(error)
    finally:
        session.drop()
    return deviates(what, "the call fails", "timeout, where the KME is slow; else nothing")


async def _reach(wire: Wire, sae_id: str) -> None:
    """Whether there is somebody at all: any answer will do."""
    try:
        await wire.ask("GET", "status", sae_id, listen=True)
    except NoAnswerError as error:
        raise KmeUnreachableError(f"{wire.url}: {error}") from None
