"""The manual pages: all there, all said, and nothing that groff or mandoc would complain of."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qtunnel.cli.main import COMMANDS, cli
from qtunnel.config.model import Config
from qtunnel.manual.__main__ import write
from qtunnel.manual.configuration import explained, keys
from qtunnel.manual.roff import filled, page, paragraphs, verbatim
from tests.test_main import leaves

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write(tmp_path_factory.mktemp("man"), "2026-11-26")


def shown(path: Path) -> str:
    """As a terminal of any width has it, without bold and breaks."""
    command = ["groff", "-man", "-Tutf8", "-P-c", "-rLL=2000n", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return re.sub(r".\x08", "", done.stdout)


def test_every_command_has_its_page(pages: list[Path]) -> None:
    names = {path.name for path in pages}
    assert names == {"qtunnel.1", "qtunnel.yaml.5", *(f"qtunnel-{name}.1" for name in COMMANDS)}
    assert {path.parent.name for path in pages} == {"man1", "man5"}


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff (Debian: groff-base)")
def test_pages_say_what_the_help_says(pages: list[Path]) -> None:
    texts = {path.name: shown(path) for path in pages}
    for name, command in leaves(cli):
        text = texts[f"qtunnel-{name.split()[0]}.1"]
        assert f"qtunnel {name} " in text
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else []:
                assert option in text, (name, option)
    assert "--interval SECONDS" in texts["qtunnel-status.1"]
    assert "NODE cut | restore" in texts["qtunnel-kme.1"], "lines that the help keeps as they are"
    for name in COMMANDS:
        assert f"qtunnel-{name}(1)" in texts["qtunnel.1"]


def test_the_example_explains_every_key_of_the_configuration() -> None:
    said = explained((CONFIGS / "alice.yaml").read_text())
    silent = [path for path, _ in keys(Config) if path not in said]
    assert silent == []
    assert said["peers[].rekey.min_interval"].value == "60s"
    assert said["peers[].rekey.min_interval"].words.startswith("Let the supply of QKD keys move the interval")
    assert said["key_sources.NAME.quarantine"].value == "operator"
    assert said["mqtt.discovery"].words == "or home-assistant: messages by which consoles find the values"


def checked(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    return f"{done.stderr}{done.stdout}"


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff (Debian: groff-base)")
def test_groff_has_nothing_to_say(pages: list[Path], tmp_path: Path) -> None:
    assert checked("groff", "-man", "-ww", "-Tutf8", "-z", *pages) == ""
    wrong = tmp_path / "wrong.1"
    wrong.write_text(pages[0].read_text() + ".NOSUCH macro\n")
    assert "NOSUCH" in checked("groff", "-man", "-ww", "-Tutf8", "-z", wrong)


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc")
def test_mandoc_has_nothing_to_say(pages: list[Path], tmp_path: Path) -> None:
    assert checked("mandoc", "-T", "lint", "-W", "warning", *pages) == ""
    wrong = tmp_path / "wrong.1"
    wrong.write_text(pages[0].read_text() + ".NOSUCH macro\n")
    assert "NOSUCH" in checked("mandoc", "-T", "lint", "-W", "warning", wrong)


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff (Debian: groff-base)")
def test_what_roff_would_take_for_its_own_is_shown_as_it_stands(tmp_path: Path) -> None:
    odd = ["'quoted' at the beginning", ".a point", "a \\(em \\fB backslash", "~/x `y` ^z -- ±", '"two" words']
    path = tmp_path / "odd.1"
    path.write_text(
        page([".TH X 1 2026-01-01 x x", ".SH A", *verbatim(odd), ".SH B", *(r for o in odd for r in paragraphs(o))])
    )
    text = shown(path).replace("\x1b[0m", "")
    for line in odd:
        assert text.count(line) == 2, (line, text)
    assert filled("") == []


def test_make_writes_them_and_says_where(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qtunnel.manual", str(tmp_path)], capture_output=True, text=True, timeout=60, check=True,
        env={"SOURCE_DATE_EPOCH": "0", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert str(tmp_path / "man1" / "qtunnel.1") in done.stdout.splitlines()
    assert '"1970-01-01"' in (tmp_path / "man1" / "qtunnel.1").read_text()
