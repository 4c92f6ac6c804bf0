"""One target under atheris: ``python -m tests.fuzz.worker NAME [options and directories of libFuzzer]``."""

from __future__ import annotations

import logging
import sys

import atheris


def main() -> None:
    from tests.fuzz.table import find
    from tests.fuzz.target import check

    with atheris.instrument_imports(include=["qtunnel"]):
        target = find(sys.argv[1])
    logging.disable()
    atheris.Setup([sys.argv[0], *sys.argv[2:]], lambda data: check(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
