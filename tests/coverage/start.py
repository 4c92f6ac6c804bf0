"""Every Python process that the tests start is measured, also one whose environment was cleared but for PYTHONPATH.

The usual ways to measure subprocesses pass a variable in the environment, which the daemon does not hand to its engine.
"""

from __future__ import annotations

import ast
import os
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = ROOT / ".coverage-data"
"""What processes measured, a file each, and what has them measure."""
PLUGIN = "coverage_plugin"
"""plugin.py by the name that pytest finds it under, beside the settings: the tree itself is not where it looks."""
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
omit = {programs}

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
import _thread, os, sys, threading

start = _thread.start_new_thread

def started(function, arguments, named={{}}):
    # as threading does it for its own threads; qtunnel.aside makes others
    def measured(*arguments, **named):
        sys.settrace(threading.gettrace())
        function(*arguments, **named)

    return start(measured, arguments, named)

_thread.start_new_thread = started
os.environ["COVERAGE_PROCESS_START"] = {settings!r}
try:
    import coverage
    coverage.process_startup()
except ImportError:  # another Python than the one of the tests
    pass
del os.environ["COVERAGE_PROCESS_START"]  # tests look at what is in the environment
"""


def programs() -> list[Path]:
    """Files that are run as programs by ``python -I -S``, as they say: without sitecustomize nothing measures them."""
    texts = {file: file.read_text() for file in sorted((ROOT / "qtunnel").rglob("*.py"))}
    named = [file for file, text in texts.items() if "-I -S" in text]
    return [file for file in named if "-I -S" in (ast.get_docstring(ast.parse(texts[file])) or "")]


def environment(data: Path = DATA) -> dict[str, str]:
    """The environment in which Python measures itself, and hands that on."""
    data.mkdir(exist_ok=True)
    settings = data / "settings"
    left_out = "".join(f"\n    {file}" for file in programs())
    settings.write_text(SETTINGS.format(root=ROOT, data=data, programs=left_out))
    (data / "sitecustomize.py").write_text(HOOK.format(settings=str(settings)))
    shutil.copyfile(Path(__file__).with_name("plugin.py"), data / f"{PLUGIN}.py")
    path = os.pathsep.join(filter(None, [str(data), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}
