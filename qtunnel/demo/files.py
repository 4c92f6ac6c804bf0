"""The files of a run: those of configs/, with the demo's changes, and the identities and certificates they name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from qtunnel.config.types import format_duration
from qtunnel.demo.options import DemoOptions
from qtunnel.identity import Identity
from qtunnel.kme.pki import create_pki

GATEWAYS = ("alice", "bob")
KMES = ("kme-a", "kme-b")


def examples() -> Path:
    """The directory configs/, from the source tree or from the installed package."""
    place = resources.files("qtunnel.demo") / "configs"
    assert isinstance(place, Path)
    return place


def write_files(directory: Path, options: DemoOptions) -> None:
    """Everything that two KMEs and two gateways need, in an existing private directory."""
    for name in GATEWAYS:
        identity = Identity.create(os.urandom)
        identity.save(directory / f"{name}.identity")
        (directory / f"{name}.public").write_text(identity.public.to_text())
        edit(examples() / f"{name}.yaml", directory / f"{name}.yaml", lambda tree: adapt(tree, options))
    create_pki(directory / "pki", now=datetime.now(UTC))
    for name in KMES:
        shutil.copyfile(examples() / f"{name}.yaml", directory / f"{name}.yaml")


def adapt(tree: Any, options: DemoOptions) -> None:
    """What the demo changes in a gateway's configuration: the pace, and the policy by option."""
    for peer in tree["peers"]:
        rekey, qkd = peer["rekey"], peer["qkd"]
        rekey["interval"] = format_duration(options.interval)
        rekey["jitter"] = "0%"
        qkd["max_age"] = format_duration(options.max_age)
        qkd["policy"] = options.policy


def edit(source: Path, target: Path, change: Callable[[Any], None]) -> None:
    """Copy a YAML file with a change to its tree; comments and order stay."""
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = 4096  # lines stay as they are
    tree = yaml.load(source.read_text())
    change(tree)
    with target.open("w") as file:
        yaml.dump(tree, file)
