"""``python -m tests.guide``: follow the page as root, and write what its commands print where it has something else."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.guide.hosts import guide_hosts
from tests.guide.page import PAGE, blocks, same


def main() -> int:
    text = PAGE.read_text()
    replaced = []
    with tempfile.TemporaryDirectory() as directory, guide_hosts(Path(directory)) as hosts:
        for block in blocks(text):
            began = time.monotonic()
            code, said = hosts[block.host].run(block.command)
            print(f"line {block.line}: {time.monotonic() - began:.1f} s", file=sys.stderr)
            if code != block.exit_code:
                print(f"line {block.line}: exit code {code}\n{said}", file=sys.stderr)
                break
            if block.span and block.expected is not None and not same(block.expected, said):
                replaced.append((block.span, said))
    for (start, end), said in reversed(replaced):
        text = text[:start] + "".join(f"{line.rstrip()}\n" for line in said.splitlines()) + text[end:]
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
