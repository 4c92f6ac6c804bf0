"""Where a service finds its secret files: systemd hands them over (LoadCredential=, systemd.exec(5)).

The unit loads all of ``/etc/qtunnel/NAME.secrets/`` as credentials, so that the daemon reads them without being root
and no other unit of its user does. The configuration names the files where they lie; started by systemd, the daemon
opens what it was handed in their place. A unit of one's own may hand files over under any name, which the configuration
then has in place of a path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationInfo

DIRECTORY = "CREDENTIALS_DIRECTORY"
"""Of systemd's environment: where the credentials of this unit are."""

SUFFIX = ".secrets"
"""Of the directories whose files are handed over."""

HANDED = Path("/run/credentials")
"""Where those of all units are, each in a directory of its own, while the unit runs."""

NAME = "secrets"
"""Before each of them, with ``_`` between the parts of its path: as systemd names what it loads from a directory."""

CREDENTIAL = "credential:"
"""Begins the name of a credential in the place of a path."""
_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}", re.ASCII)


def changed_since(file: Path, environ: Mapping[str, str] | None = None) -> str | None:
    """In words, where secret files of the configuration ``file`` were added, replaced or removed since systemd handed
    them over, so that the service has others; ``None`` where not, or where there is no systemd. A file that was written
    over in its place is not noticed: root alone may look into the directory."""
    given = (os.environ if environ is None else environ).get(DIRECTORY, "")
    directory = file.with_suffix(SUFFIX)
    try:
        if not given or directory.stat().st_mtime_ns <= Path(given).stat().st_mtime_ns:
            return None
    except OSError:
        return None
    return (
        f"files in {directory} have changed since the start of the service, which goes on with those of before; to use "
        f"them: systemctl restart qtunnel@{file.stem}"
    )


def handed_before(path: Path, handed: Path = HANDED) -> str | None:
    """The unit that runs with an older copy of this secret file; ``None`` where none does, or where it cannot be seen,
    which takes root. A change of the file's mode counts as one of the file."""
    for parent in path.parents:
        if parent.name.endswith(SUFFIX):
            unit = f"qtunnel@{parent.name.removesuffix(SUFFIX)}"
            copy = handed / f"{unit}.service" / "_".join((NAME, *path.relative_to(parent).parts))
            try:
                return unit if path.stat().st_ctime_ns > copy.stat().st_mtime_ns else None
            except OSError:
                return None
    return None


def placed(path: Path, environ: Mapping[str, str] | None = None) -> Path:
    """The credential in place of a file below a directory that ends with ``SUFFIX``; any other path as it is."""
    given = (os.environ if environ is None else environ).get(DIRECTORY, "")
    if given:
        for parent in path.parents:
            if parent.name.endswith(SUFFIX):
                found = Path(given, "_".join((NAME, *path.relative_to(parent).parts)))
                return found if found.exists() else path
    return path


def named(value: Any, info: ValidationInfo) -> Any:
    """The path of a credential that is given by its name, ``credential:NAME``; paths are left as they are. A validator,
    whose context has the environment."""
    if not isinstance(value, str) or not value.startswith(CREDENTIAL):
        return value
    name = value.removeprefix(CREDENTIAL)
    if not _CREDENTIAL_NAME.fullmatch(name) or name in (".", ".."):
        raise ValueError("credential: takes a name of letters, digits, '.', '_' and '-'")
    context = info.context if isinstance(info.context, dict) else {}
    directory = context.get("environ", {}).get(DIRECTORY, "")
    if not directory and not context.get("check_files", True):
        directory = str(HANDED)  # of somebody who looks for the daemon's socket, and opens no file
    if not directory:
        raise ValueError(
            f"is a credential of systemd, and ${DIRECTORY} is not set: write LoadCredential={name}:FILE into "
            "the unit; to check by hand, put that directory's path into the variable"
        )
    return Path(directory) / name
