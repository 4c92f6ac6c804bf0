"""Write all pages below a directory, as ``man1`` and ``man5``: ``python -m qtunnel.manual DIRECTORY``."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from qtunnel.manual import commands, configuration


def write(directory: Path, date: str) -> list[Path]:
    """The files that were written."""
    pages = [*commands.pages(date), (f"qtunnel.yaml.{configuration.SECTION}", configuration.text(date))]
    written = []
    for name, text in pages:
        path = directory / f"man{name[-1]}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        written.append(path)
    return written


def main() -> None:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")  # reproducible-builds.org
    day = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    for path in write(Path(sys.argv[1]), f"{day:%Y-%m-%d}"):
        print(path)


if __name__ == "__main__":
    main()
