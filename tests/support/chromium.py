"""A headless Chromium, driven by its DevTools protocol over a pipe: no port, so it may run in any network namespace."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="chromium is not there: make test gets it")
LIMIT = 60.0
"""Seconds for one call, or for what a page is waited for, on a machine that does other things too."""
_OPTIONS = (
    "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-extensions",
    "--disable-sync", "--hide-scrollbars", "--disable-background-timer-throttling",
    "--force-color-profile=srgb",
)  # fmt: skip
_BEGIN = """
import fcntl, os, sys
reads, writes = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(reads, 3)
os.dup2(writes, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""Chromium has its pipe at descriptors 3 and 4, which in this process are others'."""


class Chromium:
    """One process. inside: what stands before its command, as ``ip netns exec NAME``."""

    def __init__(self, profile: str, inside: Sequence[str] = ()) -> None:
        assert PROGRAM is not None
        reads, self._out = os.pipe()
        self._in, writes = os.pipe()
        command = [*inside, PROGRAM, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        begin = [sys.executable, "-c", _BEGIN, str(reads), str(writes), *command]
        self._log = Path(profile, "said.log").open("w")  # noqa: SIM115  # as long as the process
        self.process = subprocess.Popen(
            begin, pass_fds=(reads, writes), stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        os.close(reads)
        os.close(writes)
        self._number, self._buffer = 0, b""
        self.heard: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> Any:
        """The result of one command; what else is heard meanwhile is kept in ``heard``."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + LIMIT
        while True:
            answer = self._read(deadline, method)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.heard.append(answer)

    def _read(self, deadline: float, what: str) -> Any:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            assert left > 0, f"Chromium gives no answer to {what}"
            if select.select([self._in], [], [], left)[0]:
                data = os.read(self._in, 1 << 20)
                assert data, f"Chromium has ended: {Path(self._log.name).read_text()[-2000:]}"
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def page(self) -> Page:
        """A tab."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, session)

    def close(self) -> None:
        """End it, and all that it started."""
        os.close(self._out)  # it ends by itself then
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.wait(10)
        os.close(self._in)
        self._log.close()


class Page:
    """A tab, with what went wrong in it."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser, self._session = browser, session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        return self._browser.call(method, self._session, **params)

    def look(self, width: int = 1200, height: int = 900, *, dark: bool = False, scale: float = 1.0) -> None:
        """The window, and the scheme that its user prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
                    {"name": "prefers-reduced-motion", "value": "reduce"}]  # fmt: skip
        self.call("Emulation.setEmulatedMedia", features=features)

    def headers(self, **headers: str) -> None:
        """Sent with every request from now on, as a proxy would add them."""
        self.call("Network.setExtraHTTPHeaders", headers=headers)

    def goto(self, url: str) -> None:
        found = self.call("Page.navigate", url=url)
        assert not found.get("errorText"), found
        self.wait("document.readyState === 'complete'", f"{url} is there")

    def evaluate(self, script: str) -> Any:
        """The value of an expression, awaited where it is a promise."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str, what: str, limit: float = LIMIT) -> None:
        """Until the expression is true."""
        deadline = time.monotonic() + limit
        while not self.evaluate(f"Boolean({script})"):
            assert time.monotonic() < deadline, f"not within {limit:g} s: {what}; the page says: {self.text()[:1500]}"
            time.sleep(0.05)

    def text(self, selector: str = "body") -> str:
        """What people read there."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def press(self, key: str) -> None:
        """A key, as Tab or Enter."""
        more = {"Tab": {}, "Enter": {"text": "\r"}, " ": {"text": " "}}[key]
        code = {"Tab": 9, "Enter": 13, " ": 32}[key]
        for kind, extra in (("keyDown", more), ("keyUp", {})):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **extra)

    def screenshot(self, path: Path, most: int) -> None:
        """The page from its top, as PNG. most: CSS pixels of its height."""
        height = min(most, self.evaluate("document.documentElement.scrollHeight"))
        width = self.evaluate("document.documentElement.clientWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        data = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """Errors of scripts, and what the browser refused or could not load."""
        found = []
        for event in self._browser.heard:
            if event.get("sessionId") != self._session:
                continue
            if event["method"] == "Runtime.exceptionThrown":
                details = event["params"]["exceptionDetails"]
                found.append(str(details.get("exception", details).get("description", details)))
            elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                entry = event["params"]["entry"]
                found.append(f"{entry['text']} {entry.get('url', '')}")
        return found


@contextmanager
def chromium(inside: Sequence[str] = ()) -> Iterator[Chromium]:
    """A browser with a profile of its own, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        browser = Chromium(profile, inside)
        try:
            yield browser
        finally:
            browser.close()
