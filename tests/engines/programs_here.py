"""The engines that the tests run with."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

from qtunnel.engines.programs import Program, find

_ALL: dict[str, Program] = {
    "qtunnel": find("qtunnel"),
    "wireguard-go": find("wireguard-go"),
    # Driven as boringtun must be: its peers cannot be changed, only removed and added again.
    "without-updates": replace(find("wireguard-go"), updates=False),
}

PROGRAMS = {name: program for name, program in _ALL.items() if name != "qtunnel" or find_spec("qtunnel.cli.wg")}
