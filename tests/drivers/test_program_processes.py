"""How a vendor's program is started, bounded and ended."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from qtunnel.drivers import program
from qtunnel.drivers.program_run import check_program
from qtunnel.errors import (
    ConfigError,
    FilePermissionError,
    KeySourceTimeoutError,
    KeySourceUnauthorizedError,
    KeySourceUnreachableError,
)
from tests.support.kme import run, until
from tests.support.vendor import ALL, GOOD, KEY, PEER, failure, hub_of, of_script, script


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("stubborn", [False, True], ids=["plain", "ignores SIGTERM"])
def test_a_program_that_takes_too_long_is_ended_with_its_children(tmp_path: Path, stubborn: bool) -> None:
    trap = "trap '' TERM;" if stubborn else ""
    text = f"{trap} sleep 600 & echo $! >> {tmp_path}/pids; echo $$ >> {tmp_path}/pids; wait; sleep 600"

    async def test() -> None:
        source = of_script(tmp_path, text, timeout="1500ms")
        error = await failure(source)
        assert isinstance(error, KeySourceTimeoutError)
        assert (error.detail, error.lost) == ("no answer within 1.5 s; it was ended", 1)
        pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
        assert len(pids) == 2

        async def gone() -> bool:
            return not any(alive(pid) for pid in pids)

        await until(gone)

    run(test)


def test_a_child_that_keeps_the_output_open_is_ended(tmp_path: Path) -> None:
    async def test() -> None:
        source = of_script(tmp_path, f"echo '{GOOD}'; sleep 600 & echo $! > {tmp_path}/pid")
        _, key = await source.get_key(32)
        assert bytes(key.reveal()) == KEY
        pid = int((tmp_path / "pid").read_text())

        async def gone() -> bool:
            return not alive(pid)

        await until(gone)

    run(test)


def test_closing_ends_what_runs(tmp_path: Path) -> None:
    async def test() -> None:
        hub = hub_of(script(tmp_path / "getkey", f"echo $$ > {tmp_path}/pid; exec sleep 600"), *ALL)
        source = hub.for_peer(PEER)
        call = asyncio.create_task(failure(source))

        async def started() -> bool:
            return (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text().strip())

        await until(started)
        await hub.close()
        error = await call
        assert (type(error), error.lost) == (KeySourceUnreachableError, 1)
        pid = int((tmp_path / "pid").read_text())

        async def gone() -> bool:
            return not alive(pid)

        await until(gone)
        assert (await failure(source)).lost == 0

    run(test)


def test_it_ends_with_the_daemon(tmp_path: Path) -> None:
    """Also with one that is killed."""
    script(tmp_path / "getkey", f"echo $$ > {tmp_path}/pid; exec sleep 600")
    code = f"""
import asyncio
from qtunnel.drivers import program
options = program.Options.model_validate(dict(command=["{tmp_path}/getkey", "{{call}}", "{{key_id}}"], timeout="14s"))
asyncio.run(program.Hub("vendor", options).for_peer(program.PeerOptions(peer="bob")).get_key(32))
"""

    async def test() -> None:
        daemon = await asyncio.create_subprocess_exec(sys.executable, "-c", code)

        async def started() -> bool:
            return (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text().strip())

        await until(started)
        pid = int((tmp_path / "pid").read_text())
        assert alive(pid)
        daemon.send_signal(signal.SIGKILL)
        await daemon.wait()

        async def gone() -> bool:
            return not alive(pid)

        await until(gone)

    run(test)


def test_so_many_at_once_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = tmp_path / "running"
    running.mkdir()
    text = f"touch {running}/$$; ls {running} | wc -l >> {tmp_path}/counts; sleep 0.1; rm {running}/$$; echo '{GOOD}'"

    async def test() -> None:
        hub = hub_of(script(tmp_path / "getkey", text), *ALL, at_once=2)
        source = hub.for_peer(PEER)
        await asyncio.gather(*(source.get_key(32) for _ in range(8)))
        counts = [int(line) for line in (tmp_path / "counts").read_text().split()]
        assert len(counts) == 8
        assert max(counts) <= 2
        monkeypatch.setattr(program, "TURN_LIMIT", 0.05)
        script(tmp_path / "getkey", f"sleep 1; echo '{GOOD}'")
        ended = await asyncio.gather(*(source.get_key(32) for _ in range(4)), return_exceptions=True)
        late = [error for error in ended if isinstance(error, KeySourceTimeoutError)]
        assert len(late) == 2
        assert "not asked: 2 other calls of ours took longer" in str(late[0])
        assert late[0].lost == 0

    run(test)


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    path = script(tmp_path / "getkey", f"echo '{GOOD}'")

    async def test() -> None:
        source = hub_of(path, *ALL).for_peer(PEER)
        await source.get_key(32)
        path.write_text("#!/no/such/shell\n")
        error = await failure(source)
        assert (type(error), error.lost) == (KeySourceUnreachableError, 0)
        assert error.detail == "cannot be started: no such file or directory"
        path.write_bytes(b"\x7fELF junk")
        assert "exec format error" in (await failure(source)).detail
        path.unlink()
        error = await failure(source)
        assert error.detail == "not started: no such program"
        script(path, f"echo '{GOOD}'")
        await source.get_key(32)
        path.chmod(0o757)
        error = await failure(source)
        assert isinstance(error, KeySourceUnauthorizedError)
        assert error.detail == f"not started: can be written by others; chmod go-w {path}"

    run(test)


def test_programs_that_others_could_replace_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "vendor"
    place.mkdir()
    path = script(place / "getkey", "true")
    assert check_program(path) == path.resolve()
    (tmp_path / "link").symlink_to(path)
    assert check_program(tmp_path / "link") == path.resolve()
    path.chmod(0o755 | 0o002)
    with pytest.raises(FilePermissionError, match=f"{path}: can be written by others; chmod go-w {path}"):
        check_program(path)
    with pytest.raises(FilePermissionError, match=f"link: {path} can be written by others"):
        check_program(tmp_path / "link")
    path.chmod(0o755)
    place.chmod(0o777)
    with pytest.raises(FilePermissionError, match=f"{path}: {place} can be written by others"):
        check_program(path)
    place.chmod(0o1777)
    check_program(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="cannot be run; chmod"):
        check_program(path)
    with pytest.raises(ConfigError, match="no such program"):
        check_program(place / "none")
    with pytest.raises(ConfigError, match="is no program"):
        check_program(place)
    if os.geteuid() == 0:
        path.chmod(0o755)
        os.chown(path, 12345, 0)
        with pytest.raises(FilePermissionError, match="belongs to user 12345, who could put another program there"):
            check_program(path)
        os.chown(path, 0, 12345)
        path.chmod(0o775)
        with pytest.raises(FilePermissionError, match="can be written by others"):
            check_program(path)
