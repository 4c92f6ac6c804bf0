"""``qtunnel install-service``: what it puts where, again, and away."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from qtunnel.cli.install_service import install_service
from qtunnel.errors import ServiceError
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


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host where systemd runs, as far as its commands: what each was asked goes into this file, and one that is
    named there as failing fails. ``systemctl list-units`` says what is in a file of its pattern's name."""
    place = tmp_path / "bin"
    place.mkdir()
    told = tmp_path / "told"
    for name in ("systemctl", "systemd-sysusers", "systemd-tmpfiles"):
        program = place / name
        program.write_text(
            f'#!/bin/sh\necho "{name} $*" >>{told}\n'
            f'[ -e {tmp_path}/{name}.fails ] && {{ echo "Access denied" >&2; exit 1; }}\n'
            f'for last; do :; done\ncat "{tmp_path}/$last" 2>/dev/null\nexit 0\n'
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    monkeypatch.setattr(install, "RUNNING", tmp_path)
    return told


def test_systemd_makes_the_user_before_its_directories_and_reads_the_units_last(systemd: Path) -> None:
    said: list[str] = []
    install.tell_systemd(files(Path("/")), gone=False, say=said.append)
    users, directories, reload = systemd.read_text().splitlines()
    assert users == "systemd-sysusers /etc/sysusers.d/qtunnel.conf"
    assert directories == "systemd-tmpfiles --create /etc/tmpfiles.d/qtunnel.conf"
    assert reload == "systemctl daemon-reload"
    systemd.unlink()
    install.tell_systemd(files(Path("/")), gone=True, say=said.append)
    assert systemd.read_text() == "systemctl daemon-reload\n"
    assert said == []


def test_what_systemd_refuses_is_told_with_the_command_and_nothing_follows(systemd: Path) -> None:
    (systemd.parent / "systemd-sysusers.fails").touch()
    with pytest.raises(ServiceError, match=r"^systemd-sysusers /etc/sysusers.d/qtunnel.conf: Access denied$"):
        install.tell_systemd(files(Path("/")), gone=False, say=print)
    assert len(systemd.read_text().splitlines()) == 1


def test_gateways_that_run_are_found_and_else_engines_that_were_left(systemd: Path) -> None:
    assert install.running() == []
    (systemd.parent / "qtunnel-engine@*").write_text("qtunnel-engine@a.service loaded active running engine\n")
    assert install.running() == ["qtunnel-engine@a.service"]
    (systemd.parent / "qtunnel@*").write_text(
        "qtunnel@a.service loaded active running gateway\n\nqtunnel@b.service loaded activating start gateway\n"
    )
    assert install.running() == ["qtunnel@a.service", "qtunnel@b.service"]


def test_without_systemd_nothing_is_started_and_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "RUNNING", tmp_path / "nothing")
    said: list[str] = []
    install.tell_systemd(files(Path("/")), gone=False, say=said.append)
    assert said == ["systemd does not run here: nothing is started"]
    assert install.running() == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("no directory")
    code, said = run(tmp_path)
    assert code != 0
    assert f"{tmp_path}/etc" in said
    assert "run as root" in said


def test_every_unit_of_the_tree_has_its_place() -> None:
    there = {path.name for path in (Path(__file__).parents[2] / "systemd").iterdir()}
    assert {place.source for place in PLACES} == there
    assert len(files(Path("/"))) == len(there)
