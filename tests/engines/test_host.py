"""What is asked of the host, also by a process that has no descriptor left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from qtunnel.engines.host import index_of, is_other

HERE = Path(__file__).parents[2]
SHORT = """
import resource
from qtunnel.engines.host import index_of, is_other
from qtunnel.errors import InterfaceError
loopback = index_of("lo")
resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
assert not is_other("lo", loopback), "it is there, only nobody can ask"
try:
    index_of("lo")
except InterfaceError as error:
    print(error)
"""


def test_interfaces_are_known_by_number() -> None:
    number = index_of("lo")
    assert number is not None
    assert not is_other("lo", number)
    assert is_other("lo", number + 1)
    assert index_of("none-such") is None
    assert is_other("none-such", number)


def test_without_a_descriptor_no_interface_counts_as_gone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHORT], cwd=HERE, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "interface lo cannot be looked at: too many open files\n"
