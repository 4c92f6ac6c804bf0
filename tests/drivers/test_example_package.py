"""The example of docs/drivers.md is a package that pip installs, whose own tests pass, and that the daemon uses."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from qtunnel.identity import Identity
from tests.drivers.faults import FAULTS

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "drivers.md"
PACKAGE = ROOT / "docs" / "examples" / "qtunnel-driver-keybox"
BLOCK = re.compile(r"(?:<!-- of: (\S+) -->\n)?```(\w*)\n(.*?)```", re.DOTALL)

CONFIG = """\
node: {{name: {me}, identity: {me}.identity}}
tunnel: {{interface: qt0, addresses: [10.77.0.{own}/24]}}
key_sources:
  vault: {{driver: keybox, socket: {me}.sock}}
peers:
  - name: {peer}
    public: {peer}.public
    allowed_ips: [10.77.0.{other}/32]
    qkd: {{sources: {{vault: {{peer: box-{peer}}}}}}}
"""

DAEMONS = """
import asyncio, sys
from pathlib import Path
from agent import two_sites
from qtunnel.config import load_config
from qtunnel.daemon.sources import KeySources
from qtunnel.events import EventStream
from qtunnel.rekey.model import FetchAhead, FetchById, FetchNew

class Nobody:
    def vouch(self, peer, source, at):
        pass

    def distrust(self, peer, source, why):
        pass

async def main(directory):
    async with asyncio.timeout(60), two_sites(directory):
        configs = [load_config(directory / f"{name}.yaml", environ={}) for name in ("alice", "bob")]
        alice, bob = (KeySources(config, EventStream(), Nobody()) for config in configs)
        for request in (FetchNew("bob", 1, ("vault",), 32, 1), FetchAhead("bob", 2, "vault", 5, 32)):
            made = await alice.fetch(request)
            given = await bob.fetch(FetchById("alice", 3, tuple(ref for ref, _ in made.keys)))
            assert not made.failures and not given.failures
            assert dict(given.keys) == dict(made.keys)
            print(len(made.keys), "keys")
        await alice.close()
        await bob.close()

asyncio.run(main(Path(sys.argv[1])))
"""


class Home:
    """A virtual environment of its own with the example in it; qtunnel and what it needs are those of the tests."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.package = directory, directory / PACKAGE.name
        shutil.copytree(PACKAGE, self.package, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
        venv.create(directory / "venv", with_pip=False, symlinks=True)
        self.python = directory / "venv" / "bin" / "python"
        places = [place for place in (*site.getsitepackages(), site.getusersitepackages()) if Path(place).is_dir()]
        target = next((directory / "venv" / "lib").glob("python*")) / "site-packages"
        lines = (f"import site; site.addsitedir({place!r})\n" for place in places)
        (target / "of-the-tests.pth").write_text("".join(lines))
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(self.python)]
        how = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
        done = subprocess.run(
            [*pip, "install", *how, str(self.package)], capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(self.package / "tests")}
        return subprocess.run(
            [str(self.python), *map(str, arguments)],
            cwd=cwd or self.directory, env=environment, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    directory = tmp_path_factory.mktemp("home")
    for name in ("alice", "bob"):
        identity = Identity.create(os.urandom)
        identity.save(directory / f"{name}.identity")
        (directory / f"{name}.public").write_text(identity.public.to_text())
    for me, peer, own in (("alice", "bob", 1), ("bob", "alice", 2)):
        text = CONFIG.format(me=me, peer=peer, own=own, other=3 - own)
        (directory / f"{me}.yaml").write_text(text)
    return Home(directory)


def test_its_own_tests_pass_where_it_is_installed(home: Home) -> None:
    shown = home.run("-c", "import qtunnel_keybox; print(qtunnel_keybox.__file__)").stdout
    assert shown.startswith(str(home.directory / "venv")), "not the installed one is tested"
    done = home.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "60", cwd=home.package)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


def test_check_takes_its_options_and_names_what_is_wrong_with_them(home: Home) -> None:
    done = home.run("-m", "qtunnel", "check", "alice.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "key source vault: keybox" in done.stdout
    assert f"socket: nobody listens at {home.directory}/alice.sock now; is the agent running?" in done.stdout
    text = (home.directory / "alice.yaml").read_text()
    for right, wrong, said in (
        ("socket:", "sokcet:", "key_sources.vault.sokcet: "),
        ("box-bob", "box bob", "peers[0].qkd.sources.vault.peer: not a Keybox's name; take 1 to 32 letters"),
        ("driver: keybox", "driver: keybocks", "did you mean 'keybox'?"),
    ):
        (home.directory / "wrong.yaml").write_text(text.replace(right, wrong))
        done = home.run("-m", "qtunnel", "check", "wrong.yaml")
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_both_ends_daemons_get_the_same_keys_from_it(home: Home) -> None:
    done = home.run("-c", DAEMONS, home.directory)
    assert done.stdout.split() == ["1", "keys", "5", "keys"], done.stderr


def blocks() -> list[tuple[str, str, str]]:
    """The guide's blocks: file that it is of, language, content."""
    return [(found[1] or "", found[2], found[3]) for found in BLOCK.finditer(GUIDE.read_text())]


def test_the_guide_shows_what_is_in_the_package() -> None:
    of_files = [(name, content) for name, _, content in blocks() if name]
    assert {Path(name).name for name, _ in of_files} >= {"pyproject.toml", "driver.py", "options.py", "test_faults.py"}
    for name, content in of_files:
        assert content in (ROOT / name).read_text(), f"{name} has no such lines: {content}"
    assert [content for name, language, content in blocks() if language in ("python", "toml") and not name] == []


def test_the_package_has_the_faults_of_all_drivers() -> None:
    assert runpy.run_path(str(PACKAGE / "tests" / "faults.py"))["FAULTS"] == FAULTS
