"""Who may use a pad and its ledger: one process, of one user, on a medium that can be written."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from qtunnel.errors import (
    ConfigError,
    FilePermissionError,
    KeySourceUnauthorizedError,
    KeySourceUnavailableError,
    KeySourceUnreachableError,
)
from tests.support.kme import run
from tests.support.pads import Site


def test_a_second_process_is_refused(site: Site) -> None:
    """Also while this one has it, and with a ledger of its own; afterwards it gets it."""
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from qtunnel.drivers.file_open import OpenPad
        from qtunnel.errors import PadError
        try:
            OpenPad(Path(sys.argv[1]), "a", Path(sys.argv[2]), bytes(range(16))).close()
        except PadError as error:
            sys.exit(str(error))
        """
    )

    def elsewhere(pad: Path, ledger: Path) -> str:
        command = [sys.executable, "-c", code, str(pad), str(ledger)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stderr.strip()

    async def test() -> None:
        alice = site.source("alice", "a")
        await alice.get_key(32)
        assert elsewhere(site.pad("alice"), site.ledger("alice")).startswith("another process has this pad open")
        assert elsewhere(site.pad("alice"), site.directory / "mine").startswith("another process has this pad open")
        assert elsewhere(site.pad("bob"), site.ledger("alice")).startswith("another process uses a copy of this pad")
        await alice.get_key(32)
        del alice
        await site.close()
        assert elsewhere(site.pad("alice"), site.ledger("alice")) == ""

    run(test)


def test_a_lock_of_another_process_is_told_and_ends_with_it(site: Site) -> None:
    import fcntl

    async def test() -> None:
        alice = site.source("alice", "a")
        with site.pad("alice").open("r+b") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(KeySourceUnavailableError, match="another process has this pad open; end it") as caught:
                await alice.get_key(32)
            assert caught.value.lost == 0
            with pytest.raises(KeySourceUnavailableError, match="another process"):
                await alice.status()
        await alice.get_key(32)

    run(test)


def test_a_reload_shares_the_pad_with_the_source_before_it(site: Site) -> None:
    """The daemon opens the new source while calls at the old one are under way."""

    async def test() -> None:
        before = site.source("alice", "a")
        await before.get_key(32)
        after = site.source("alice", "a")
        refs = [(await source.get_key(32))[0].key_id.partition(":")[2] for source in (after, before, after)]
        assert refs == ["32", "64", "96"]
        before.close()
        await after.get_key(32)
        with pytest.raises(KeySourceUnreachableError, match="the source is closed"):
            await before.get_key(32)

    run(test)


def test_files_that_others_may_use_are_refused(site: Site) -> None:
    site.pad("alice").chmod(0o640)
    with pytest.raises(FilePermissionError, match="chmod 600"):
        site.source("alice", "a")
    site.pad("alice").chmod(0o600)

    async def test() -> None:
        alice = site.source("alice", "a")
        site.ledger("alice").mkdir(mode=0o700)
        site.ledger("alice").chmod(0o777)
        with pytest.raises(KeySourceUnauthorizedError, match="others may write there"):
            await alice.get_key(32)
        site.ledger("alice").chmod(0o700)
        await alice.get_key(32)
        site.pad("alice").chmod(0o604)
        await site.close()
        with pytest.raises(FilePermissionError):
            site.source("alice", "a")

    run(test)


def test_what_is_no_pad_is_told_when_it_is_opened(site: Site) -> None:
    site.pad("alice").write_bytes(b"hello")
    with pytest.raises(ConfigError, match=r"alice/link\.pad: is not a pad; make one with: qtunnel pad new"):
        site.source("alice", "a")
    site.pad("alice").write_bytes(site.pad("bob").read_bytes()[:-1])
    with pytest.raises(ConfigError, match="was it copied as a whole"):
        site.source("alice", "a")
    site.pad("alice").unlink()
    with pytest.raises(ConfigError, match="no such file; make one with: qtunnel pad new"):
        site.source("alice", "a")


@pytest.mark.root
def test_a_read_only_medium_is_told_when_it_is_opened(site: Site) -> None:
    """In a mount namespace of its own."""
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from qtunnel.drivers.file_open import check_pad
        from qtunnel.errors import ConfigError
        try:
            check_pad(Path(sys.argv[1]))
        except ConfigError as error:
            print(error)
        """
    )
    place = site.directory / "alice"
    script = f'mount -t tmpfs none {place} && cp {site.pad("bob")} {place} && mount -o remount,ro {place} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", code, str(site.pad("alice"))],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "cannot be written: Read-only file system; used bytes have to be overwritten, so copy the pad" in done.stdout
