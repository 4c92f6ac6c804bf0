"""What a program's log says of it."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

from qtunnel.demo.children import Child
from qtunnel.sandbox.namespaces import Network


def test_when_an_event_was_logged_is_its_own_time_not_that_of_reading(tmp_path: Path) -> None:
    child = Child("kme-b", [], Network.__new__(Network), tmp_path)
    stamp = datetime.fromtimestamp(time.time() - 7, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    before = "ts=2020-01-01T00:00:00.000Z level=info event=kme.ready logger=kme\n"
    child.log.write_text(f"{before}ts={stamp} level=info event=kme.ready logger=kme\n")
    assert abs(time.monotonic() - 7 - child.said_at("kme.ready", len(before))) < 1
    assert abs(time.monotonic() - child.said_at("kme.gone")) < 1


def test_stopping_leaves_the_exit_code_to_asyncio(tmp_path: Path) -> None:
    """Popen.send_signal reaps a child that has just ended; the event loop then knows nothing of its end."""

    async def stopped() -> int | None:
        child = Child("short", [], Network.__new__(Network), tmp_path)
        child._process = await asyncio.create_subprocess_exec("sleep", "60")
        reaped: list[bool] = []
        transport = child.process._transport  # type: ignore[attr-defined]
        popen = transport.get_extra_info("subprocess")
        poll = popen.poll

        def counted() -> int | None:
            reaped.append(True)
            return poll()  # type: ignore[no-any-return]  # Popen's

        popen.poll = counted
        await child.stop()
        assert not reaped
        return child.process.returncode

    assert asyncio.run(stopped()) == -15
