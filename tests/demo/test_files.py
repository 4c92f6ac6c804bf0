"""The files that a run is made of."""

from __future__ import annotations

from pathlib import Path

from qtunnel.config import load_config
from qtunnel.demo.files import GATEWAYS, examples, write_files
from qtunnel.demo.options import DemoOptions
from qtunnel.kme.config import load_config as load_kme


def test_the_files_are_those_of_configs_at_the_pace_of_the_demo(tmp_path: Path) -> None:
    write_files(tmp_path, DemoOptions(seconds=30, interval=1.5, policy="preferred"))
    for name in GATEWAYS:
        config = load_config(tmp_path / f"{name}.yaml")
        (peer,) = config.peers
        assert (peer.rekey.interval, peer.rekey.jitter) == (1.5, 0.0)
        assert (peer.qkd.policy, peer.qkd.max_age) == ("preferred", 4.5)
    for name in ("kme-a", "kme-b"):
        assert load_kme(tmp_path / f"{name}.yaml").kme_id == name


def test_everything_else_stays_comments_included(tmp_path: Path) -> None:
    write_files(tmp_path, DemoOptions())
    keys = {"alice": ["interval", "jitter", "max_age"], "bob": ["rekey", "max_age"]}
    for name in GATEWAYS:
        before = (examples() / f"{name}.yaml").read_text().splitlines()
        after = (tmp_path / f"{name}.yaml").read_text().splitlines()
        comments = [line for line in before if line.strip().startswith("#")]
        assert comments == [line for line in after if line.strip().startswith("#")]
        changed = [new for old, new in zip(before, after, strict=True) if old.split() != new.split()]
        assert [line.split(":")[0].strip() for line in changed] == keys[name]


def test_the_examples_are_those_of_the_source_tree() -> None:
    tree = Path(__file__).parents[2] / "configs"
    assert {path.name for path in examples().glob("*.yaml")} == {path.name for path in tree.glob("*.yaml")}
