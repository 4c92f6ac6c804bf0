"""``qtunnel install-service``: what it puts where, again, and away."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from qtunnel.cli.install_service import install_service
from qtunnel.service import install
from qtunnel.service.places import HEADER, PLACES, files

PROGRAM = "/opt/qtunnel/bin/qtunnel"


def run(root: Path, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(install_service, ["--root", str(root), "--program", PROGRAM, *options])
    return done.exit_code, done.output if done.exception is None else f"{done.output}{done.exception}"


def content(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("vendor", [False, True])
def test_files_go_where_systemd_looks_for_them(tmp_path: Path, vendor: bool) -> None:
    code, said = run(tmp_path, *(["--vendor"] if vendor else []))
    assert code == 0
    assert said.count("write ") == len(PLACES)
    found = content(tmp_path)
    units = "lib/systemd/system" if vendor else "etc/systemd/system"
    prefix = "usr/lib" if vendor else "etc"
    expected = [f"{units}/{name}" for name in ("qtunnel@.service", "qtunnel-engine@.service", "qtunnel.target")]
    assert sorted(found) == sorted(
        [*expected, f"{prefix}/sysusers.d/qtunnel.conf", f"{prefix}/tmpfiles.d/qtunnel.conf"]
    )
    assert all(text.startswith(HEADER) for text in found.values())
    assert f"ExecStart={PROGRAM} run " in found[f"{units}/qtunnel@.service"]
    assert "/usr/bin/qtunnel" not in "".join(found.values())


def test_a_second_time_changes_nothing_and_a_changed_file_is_replaced(tmp_path: Path) -> None:
    run(tmp_path)
    before = content(tmp_path)
    assert run(tmp_path) == (0, "nothing to do\n")
    unit = tmp_path / "etc/systemd/system/qtunnel.target"
    unit.write_text(HEADER + "of an older release")
    code, said = run(tmp_path)
    assert (code, said) == (0, f"write {unit}\n")
    assert content(tmp_path) == before


def test_a_dry_run_does_nothing(tmp_path: Path) -> None:
    code, said = run(tmp_path, "--dry-run")
    assert (code, said.count("would write"), content(tmp_path)) == (0, len(PLACES), {})
    run(tmp_path)
    before = content(tmp_path)
    code, said = run(tmp_path, "--dry-run", "--uninstall")
    assert (code, said.count("would remove"), content(tmp_path)) == (0, len(PLACES), before)


def test_what_is_somebody_elses_is_neither_replaced_nor_removed(tmp_path: Path) -> None:
    theirs = tmp_path / "etc/tmpfiles.d/qtunnel.conf"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("of somebody else\n")
    code, said = run(tmp_path)
    assert code != 0
    assert str(theirs) in said
    assert "was not put there by qtunnel" in said
    assert list(content(tmp_path)) == ["etc/tmpfiles.d/qtunnel.conf"], "nothing was begun"
    theirs.unlink()
    run(tmp_path)
    theirs.write_text("of somebody else\n")
    code, said = run(tmp_path, "--uninstall")
    assert (code, list(content(tmp_path))) == (0, ["etc/tmpfiles.d/qtunnel.conf"])
    assert f"leave {theirs}" in said


def test_all_of_it_can_be_taken_away(tmp_path: Path) -> None:
    run(tmp_path, "--units", "/srv/units", "--etc", "/srv/etc")
    assert "ConditionPathExists=/srv/etc/%i.yaml" in content(tmp_path)["srv/units/qtunnel@.service"]
    assert run(tmp_path, "--uninstall", "--units", "/srv/units")[0] == 0
    assert content(tmp_path) == {}
    assert run(tmp_path, "--uninstall", "--units", "/srv/units") == (0, "nothing to do\n")


def test_a_program_that_the_service_cannot_see_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no program" in (install.program_problem(tmp_path / "nothing") or "")
    assert install.program_problem(Path("/bin/true")) is None
    hidden = tmp_path / "home"
    hidden.mkdir()
    (hidden / "qtunnel").write_text("#!/bin/sh\n")
    (hidden / "qtunnel").chmod(0o755)
    link = tmp_path / "link"
    link.symlink_to(hidden / "qtunnel")
    monkeypatch.setattr(install, "HIDDEN", (str(hidden),))
    for program in (link, hidden / "qtunnel"):
        assert "the service does not see" in (install.program_problem(program) or "")


def test_every_unit_of_the_tree_has_its_place() -> None:
    there = {path.name for path in (Path(__file__).parents[2] / "systemd").iterdir()}
    assert {place.source for place in PLACES} == there
    assert len(files(Path("/"))) == len(there)
