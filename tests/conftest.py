"""Fixtures for all tests. Where CI is set, a skipped test fails the run: nothing may be left out there."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from qtunnel.telemetry import log
from tests.support.liboqs import missing

# The same examples in every run, and however busy the machine is, so that a red run means a change; a look at others:
# HYPOTHESIS_PROFILE=explore
settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def missing_for_root_tests() -> str:
    """Why tests with TUN devices and namespaces cannot run here; empty where they can."""
    if os.geteuid() != 0:
        return "needs root (network namespaces and TUN devices); run as root or in CI"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun (modprobe tun)"
    return ""


@pytest.fixture(scope="session")
def liboqs() -> None:
    """For tests of the KEMs that only liboqs has; skipped where it is not there."""
    reason = missing()
    if reason:
        pytest.skip(reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing_for_root_tests()
    if reason:
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_runtest_setup() -> None:
    """Commands set the levels of logging for their whole process, which here is that of the next test, too."""
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger(log.ROOT).setLevel(logging.NOTSET)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get("CI") and terminalreporter.stats.get("skipped"):
        terminalreporter.write_line("skipped tests count as failures in CI", red=True)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped") and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
