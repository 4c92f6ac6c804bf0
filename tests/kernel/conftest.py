"""Tests of the kernel's own WireGuard, which not every machine has: ``make test-kernel`` runs them, if need be in a
virtual machine, and no other target."""

from __future__ import annotations

import os

from tests.engines.conftest import interface as interface
from tests.engines.conftest import namespace as namespace

collect_ignore_glob = [] if os.environ.get("QTUNNEL_TEST_KERNEL") else ["test_*.py"]
