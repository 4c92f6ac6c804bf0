"""What mutmut found, as JSON on standard output: run in a place that was made for a room (place.py)."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

ALIVE = ("survived", "no tests", "suspicious")


def main() -> None:
    # they read the configuration of the directory that they are imported in
    from mutmut.mutation.data import SourceFileMutationData
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.stats import status_by_exit_code
    from mutmut.utils.file_utils import walk_mutatable_files

    found: dict[str, Any] = {}
    for path in walk_mutatable_files():
        data = SourceFileMutationData(path=path)
        data.load()
        statuses = {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items()}
        alive = [
            {
                "name": name,
                "status": status,
                "function": function_of(name),
                **_change(get_diff_for_mutant(name, path=path)),
            }
            for name, status in statuses.items()
            if status in ALIVE
        ]
        if statuses:
            file = str(Path(path).relative_to("qtunnel"))
            found[file] = {"statuses": Counter(statuses.values()), "alive": alive}
    print(json.dumps(found))


def function_of(name: str) -> str:
    """``Class.method`` or ``function`` out of mutmut's name of a mutant."""
    mangled = name.rpartition(".")[2].rpartition("__mutmut_")[0]
    return ".".join(mangled[2:].strip("ǁ").split("ǁ")) if mangled[1] == "ǁ" else mangled.removeprefix("x_")


def _change(diff: str) -> dict[str, str]:
    """The lines before, and after."""
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++", "@@"))]
    old, new = ("\n".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
    return {"old": old, "new": new}


if __name__ == "__main__":
    main()
