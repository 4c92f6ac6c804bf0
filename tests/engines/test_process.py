"""Children of the daemon, with real ones."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qtunnel.engines import process, programs
from qtunnel.engines.process import LAUNCHER, ChildProcess
from qtunnel.errors import EngineError

PYTHON = [sys.executable, "-I", "-S", "-u", "-c"]


def run_to_end(*command: str, environment: dict[str, str] | None = None) -> tuple[str, list[str]]:
    """How the child ended, and its output."""
    lines: list[str] = []

    async def main() -> str:
        child = ChildProcess(command, environment or {}, lines.append)
        await child.start()
        return await child.wait()

    return asyncio.run(main()), lines


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_dead(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def test_both_outputs_are_forwarded_line_by_line() -> None:
    ended, lines = run_to_end(*PYTHON, "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)")
    assert ended == "exited with code 3"
    assert lines == ["one", "two"]


def test_a_line_without_end_is_cut() -> None:
    _, lines = run_to_end(*PYTHON, "print('x' * 100_000)")
    assert max(map(len, lines)) <= process.MAX_LINE
    assert sum(map(len, lines)) <= 100_000


def test_the_child_sees_only_the_environment_it_is_given() -> None:
    # LC_CTYPE is what Python itself puts there under the C locale.
    code = "import os; print(sorted(set(os.environ) - {'LC_CTYPE'}))"
    assert run_to_end(*PYTHON, code, environment={"PATH": "/bin"})[1] == ["['PATH']"]


def test_the_child_leads_its_own_session_and_cannot_dump_core() -> None:
    code = "import os, resource; print(os.getsid(0) == os.getpid(), resource.getrlimit(resource.RLIMIT_CORE))"
    assert run_to_end(*PYTHON, code)[1] == ["True (0, 0)"]


def test_a_program_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    ended, lines = run_to_end(str(tmp_path / "none"))
    assert ended == "exited with code 1"
    assert "no such file" in lines[0]


def test_a_child_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "TERM_BOUND", 0.2)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(100)"

    async def main() -> str:
        ready = asyncio.Event()
        child = ChildProcess([*PYTHON, code], {}, lambda _: ready.set())
        await child.start()
        await asyncio.wait_for(ready.wait(), 20)
        assert child.pid is not None
        await child.stop()
        assert child.pid is None
        await child.stop()  # idempotent
        return await child.wait()

    assert asyncio.run(main()) == "was killed by SIGKILL"


def test_no_child_outlives_its_parent() -> None:
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(100)"
    parent = (
        "import os, subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, '-I', '-S', {str(LAUNCHER)!r}, str(os.getpid()), "
        f"'', '', sys.executable, '-I', '-S', '-c', {child!r}], start_new_session=True)\n"
        "p.wait()"
    )
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert alive(pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert wait_until_dead(pid)


def test_a_child_whose_parent_is_gone_already_does_not_start() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(LAUNCHER), "1", "", "", "/bin/echo", "started"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "started" not in done.stdout


def test_programs_get_a_minimal_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/n")
    monkeypatch.setenv("SOME_TOKEN", "secret")
    for program in programs.PROGRAMS.values():
        assert {"NOTIFY_SOCKET", "SOME_TOKEN", "HOME"}.isdisjoint(program.full_environment())


def test_a_missing_program_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="wireguard-go is not found on PATH; install it"):
        programs.find("wireguard-go").command("qt0")


def test_an_unknown_engine_lists_the_known_ones() -> None:
    with pytest.raises(EngineError, match="no engine 'linux'; there are: qtunnel, kernel, wireguard-go, boringtun-cli"):
        programs.find("linux")
