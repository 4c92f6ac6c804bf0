"""The engines that the tests run with."""

from __future__ import annotations

from dataclasses import replace

from qtunnel.engines.programs import Program, find

PROGRAMS: dict[str, Program] = {
    "qtunnel": find("qtunnel"),
    "wireguard-go": find("wireguard-go"),
    # Driven as boringtun must be: its peers cannot be changed, only removed and added again.
    "without-updates": replace(find("wireguard-go"), updates=False),
}
