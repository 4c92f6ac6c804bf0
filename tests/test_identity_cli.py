"""``qtunnel identity`` as a user runs it."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from qtunnel.identity import Identity, PublicIdentity


def qtunnel(*arguments: str | Path, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qtunnel", *map(str, arguments)],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with alice.identity and alice.public, made by the commands."""
    directory = tmp_path_factory.mktemp("identity")
    new = qtunnel("identity", "new", "alice.identity", cwd=directory)
    assert new.returncode == 0, new.stderr
    show = qtunnel("identity", "show", "alice.identity", cwd=directory)
    assert show.returncode == 0, show.stderr
    (directory / "alice.public").write_text(show.stdout)
    (directory / "fingerprint").write_text(new.stdout)
    return directory


def test_the_secret_file_is_closed_to_others_and_the_public_file_has_no_secret(made: Path) -> None:
    file = made / "alice.identity"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = file.read_text().splitlines()[-1]
    assert secret not in (made / "alice.public").read_text()
    assert PublicIdentity.load(made / "alice.public") == Identity.load(file).public


def test_all_ways_to_the_fingerprint_agree(made: Path) -> None:
    expected = (made / "fingerprint").read_text()
    assert len(expected.strip().split("-")) == 8
    public = (made / "alice.public").read_text()
    for argument, stdin in (("alice.identity", ""), ("alice.public", ""), ("-", public)):
        result = qtunnel("identity", "fingerprint", argument, cwd=made, stdin=stdin)
        assert (result.returncode, result.stdout, result.stderr) == (0, expected, "")


def test_a_public_file_shows_itself(made: Path) -> None:
    assert qtunnel("identity", "show", "alice.public", cwd=made).stdout == (made / "alice.public").read_text()


def test_an_identity_is_never_overwritten(made: Path) -> None:
    before = (made / "alice.identity").read_bytes()
    result = qtunnel("identity", "new", "alice.identity", cwd=made)
    assert result.returncode == 2
    assert "alice.identity: exists and is not overwritten" in result.stderr
    assert (made / "alice.identity").read_bytes() == before


def test_a_file_that_cannot_be_written_whole_is_not_left_behind(tmp_path: Path) -> None:
    """The file system refuses here as a full disk does: in the middle of the file."""
    for name in ("x.identity", "x.identity"):  # and so the next attempt is not told that the file exists
        result = subprocess.run(
            [sys.executable, "-B", "-m", "qtunnel", "identity", "new", name],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20)),  # bytes
        )
        assert result.returncode == 2
        assert "x.identity: cannot be written: File too large" in result.stderr
        assert list(tmp_path.iterdir()) == []
    assert qtunnel("identity", "new", "x.identity", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("new", "-"), "goes to a file only"),
        (("new", "nowhere/x.identity"), "nowhere/x.identity: cannot be written"),
        (("show", "none.identity"), "none.identity: no such file; make an identity with: qtunnel identity new"),
        (("show", "."), "not a regular file"),
        (("show", "junk"), "neither an identity nor a public file"),
        (("fingerprint", "open.identity"), "run: chmod 600 open.identity"),
        (("fingerprint", "cut.public"), "cut.public"),
        (("fingerprint", "cut.identity"), "cut.identity"),
        (("fingerprint", "-"), "standard input"),
        (("show",), "Missing argument"),
        (("wipe",), "No such command"),
    ],
)
def test_bad_input_is_one_line(made: Path, arguments: tuple[str, ...], expected: str) -> None:
    (made / "junk").write_bytes(os.urandom(100))
    (made / "open.identity").write_text((made / "alice.identity").read_text())
    (made / "open.identity").chmod(0o644)
    (made / "cut.public").write_text((made / "alice.public").read_text()[:200])
    (made / "cut.identity").write_text((made / "alice.identity").read_text()[:-20])
    (made / "cut.identity").chmod(0o600)
    result = qtunnel("identity", *arguments, cwd=made, stdin="junk")
    assert result.returncode == 2
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    if "Usage:" not in result.stderr:
        assert len(result.stderr.splitlines()) == 1


def test_a_secret_identity_on_standard_input_is_refused_without_repeating_it(made: Path) -> None:
    text = (made / "alice.identity").read_text()
    result = qtunnel("identity", "fingerprint", "-", cwd=made, stdin=text)
    assert result.returncode == 2
    assert "secret identity file" in result.stderr
    assert text.splitlines()[-1] not in result.stderr


def test_a_public_file_whose_keys_are_not_those_of_its_fingerprint_is_refused(made: Path) -> None:
    lines = (made / "alice.public").read_text().splitlines()
    x25519 = next(line for line in lines if line.startswith("x25519: "))
    changed = x25519[:12] + ("A" if x25519[12] != "A" else "B") + x25519[13:]
    (made / "changed.public").write_text("\n".join(lines).replace(x25519, changed) + "\n")
    done = qtunnel("identity", "fingerprint", "changed.public", cwd=made)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("qtunnel: changed.public: its keys have the fingerprint ")
    assert done.stderr.endswith("it was changed on the way; get it again\n")
    without = [line for line in lines if not line.startswith("#")]
    (made / "bare.public").write_text("\n".join(without) + "\n")
    assert qtunnel("identity", "fingerprint", "bare.public", cwd=made).returncode == 0


@pytest.mark.parametrize("name", ["", "."])
def test_a_directory_is_no_place_for_an_identity(made: Path, name: str) -> None:
    done = qtunnel("identity", "new", name, cwd=made)
    assert (done.returncode, done.stderr) == (2, "qtunnel: .: is a directory; name a file, e.g. alice.identity\n")
