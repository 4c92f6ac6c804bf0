"""What tools say."""

from __future__ import annotations

import json

import pytest

from qtunnel.errors import SandboxError
from qtunnel.sandbox.programs import call, check_tools, iperf_received


def test_iperf_reports_and_failures() -> None:
    report = {"end": {"sum_received": {"bytes": 1000, "bits_per_second": 1.5e9}}}
    assert iperf_received(json.dumps(report).encode()) == (1000, 1.5)
    with pytest.raises(SandboxError, match="iperf3: unable to connect"):
        iperf_received(b'{"error": "unable to connect"}')
    for output in (b"", b"<html>", b"[]", b'{"end": null}'):
        with pytest.raises(SandboxError, match="iperf3 gave no report"):
            iperf_received(output)


def test_a_missing_tool_is_named_with_its_package() -> None:
    check_tools({"sh": "dash"})
    with pytest.raises(SandboxError, match=r"no-such-tool not found on PATH; .* apt-get install some-package$"):
        check_tools({"sh": "dash", "no-such-tool": "some-package"})


def test_a_tool_that_fails_is_quoted() -> None:
    call("true")
    with pytest.raises(SandboxError, match=r"^sh -c .*: it hurts$"):
        call("sh", "-c", "echo it hurts >&2; exit 1")
