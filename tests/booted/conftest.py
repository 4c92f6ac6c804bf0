"""Tests of the package in a booted systemd: ``make test-systemd`` runs them, and no other target."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("QTUNNEL_TEST_SYSTEMD") else ["test_*.py"]
