"""Which files make the service, and where each of them goes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

HEADER = (
    "# Put here by 'qtunnel install-service'. Changes belong into drop-ins (systemctl edit): this file is replaced.\n"
)
"""First line of every file: what has it is ours to replace and to remove, and nothing else is."""

PROGRAM = Path("/usr/bin/qtunnel")
CONFIGURATIONS = Path("/etc/qtunnel")
"""As the files name them, for which others may be given."""


@dataclass(frozen=True, slots=True)
class Place:
    """A file of ``units``, its name on the host, and the directory: a local one and a package's (file-hierarchy(7))."""

    source: str
    name: str
    local: str
    vendor: str


PLACES = (
    Place("qtunnel@.service", "qtunnel@.service", "/etc/systemd/system", "/lib/systemd/system"),
    Place("qtunnel-engine@.service", "qtunnel-engine@.service", "/etc/systemd/system", "/lib/systemd/system"),
    Place("qtunnel.target", "qtunnel.target", "/etc/systemd/system", "/lib/systemd/system"),
    Place("qtunnel.sysusers", "qtunnel.conf", "/etc/sysusers.d", "/usr/lib/sysusers.d"),
    Place("qtunnel.tmpfiles", "qtunnel.conf", "/etc/tmpfiles.d", "/usr/lib/tmpfiles.d"),
)


@dataclass(frozen=True, slots=True)
class File:
    """What is to stand at ``path``."""

    path: Path
    text: str


def files(
    root: Path, *, program: Path = PROGRAM, etc: Path = CONFIGURATIONS, vendor: bool = False, units: Path | None = None
) -> list[File]:
    """All of them, below ``root``. vendor: in a package's directories. units: instead of the directory of units."""
    found = []
    for place in PLACES:
        directory = Path(place.vendor if vendor else place.local)
        if units is not None and directory.name == "system":
            directory = units
        text = resources.files("qtunnel.service").joinpath("units", place.source).read_text()
        text = text.replace(str(PROGRAM), str(program)).replace(str(CONFIGURATIONS), str(etc))
        found.append(File(root / directory.relative_to("/") / place.name, HEADER + text))
    return found
