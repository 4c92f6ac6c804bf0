"""The real shared library that ``make liboqs`` built, for the tests that need it (the fixture ``liboqs``)."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from qtunnel.crypto import kem_liboqs
from qtunnel.errors import KemUnavailableError

BUILT = Path(__file__).parents[2] / ".tools" / "liboqs"


@functools.cache
def missing() -> str:
    """Why there is no liboqs; empty where it can be used, from now on by this process and its children."""
    for done in BUILT.glob("prefix-*/done"):
        os.environ["OQS_INSTALL_PATH"] = str(done.parent)
    try:
        kem_liboqs.binding()
    except KemUnavailableError as error:
        return f"make liboqs builds it: {error}"
    return ""
