"""Every Python process that the tests start is measured, also one whose environment was cleared but for PYTHONPATH.

The usual ways to measure subprocesses pass a variable in the environment, which the daemon does not hand to its engine.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = ROOT / ".coverage-data"
"""What processes measured, a file each, and what has them measure."""
SETTINGS = """\
[run]
branch = true
parallel = true
source = {root}/qtunnel
data_file = {data}/measured
# workers and what goes into the background are forked, and end by os._exit
patch = _exit, fork
disable_warnings = no-data-collected, module-not-measured
sigterm = true

[report]
# what cannot run in a test, by what it is: text for the type checker, and a method's body that is only its docstring
exclude_also =
    if TYPE_CHECKING:
    @overload
    @abstractmethod
    ^\\s*\\.\\.\\.$
    if __name__ == .__main__.:
"""
HOOK = """\
import os

os.environ["COVERAGE_PROCESS_START"] = {settings!r}
try:
    import coverage
    coverage.process_startup()
except ImportError:  # another Python than the one of the tests
    pass
del os.environ["COVERAGE_PROCESS_START"]  # tests look at what is in the environment
"""


def environment(data: Path = DATA) -> dict[str, str]:
    """The environment in which Python measures itself, and hands that on."""
    data.mkdir(exist_ok=True)
    settings = data / "settings"
    settings.write_text(SETTINGS.format(root=ROOT, data=data))
    (data / "sitecustomize.py").write_text(HOOK.format(settings=str(settings)))
    path = os.pathsep.join(filter(None, [str(data), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}
