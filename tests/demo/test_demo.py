"""Real runs: namespaces, KMEs, gateways, traffic."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.demo.support import Demo, report, running
from tests.support.netns import wait_until

pytestmark = pytest.mark.root

SOURCES = ["x25519", "ml-kem-1024", "etsi014:metro"]
WITHOUT_SYS_ADMIN = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
"""Root that may not make namespaces has to take an unprivileged user namespace, as any other user."""


def test_a_run_protects_and_loses_nothing() -> None:
    with running("--seconds", "6", "--interval", "1", "--json") as demo:
        code, output, _ = demo.finish()
    told = report(output)
    assert told["errors"] == []
    assert told["ok"] is True
    assert code == 0
    assert told["rekeys"] >= 4
    assert told["pings_sent"] > 400
    assert told["pings_lost"] == 0
    assert told["throughput_gbps"] > 0
    assert (told["protection"], told["sources"]) == ("qkd+pqc", SOURCES)


def test_a_run_in_a_user_namespace() -> None:
    allowed = subprocess.run([*WITHOUT_SYS_ADMIN, "unshare", "--user", "true"], capture_output=True, check=False)
    if allowed.returncode != 0:
        pytest.skip(f"the kernel allows no user namespaces: {allowed.stderr!r}")
    with running("--seconds", "5", "--interval", "1", "--json", prefix=WITHOUT_SYS_ADMIN) as demo:
        assert demo.namespace("user") != os.readlink("/proc/self/ns/user")
        code, output, _ = demo.finish()
    told = report(output)
    assert (told["ok"], told["pings_lost"], code) == (True, 0, 0), told


def test_an_outage_under_both_policies_in_two_runs_at_once() -> None:
    outage = ("--seconds", "15", "--interval", "1", "--kme-outage", "--json")
    with running(*outage) as required:
        preferred = Demo(*outage, "--policy", "preferred")
        try:
            outcomes = [preferred.finish(), required.finish()]
        finally:
            preferred.close()
    for (code, output, _), check in zip(outcomes, (goes_on, blocks), strict=True):
        told = report(output)
        assert (told["ok"], code) == (True, 0), told
        assert (told["protection"], told["sources"]) == ("qkd+pqc", SOURCES)
        assert any(error.startswith("kme-b was stopped from") for error in told["errors"])
        check(told, "\n".join(told["errors"]))


def blocks(told: dict[str, Any], words: str) -> None:
    assert told["pings_lost"] > 50
    assert "policy requires QKD and there is no key" in words
    assert "alice: protection blocked from" in words
    assert "bob: protection blocked from" in words
    assert f"{told['pings_lost']} pings lost while blocked" in words


def goes_on(told: dict[str, Any], words: str) -> None:
    assert told["pings_lost"] == 0
    assert "alice: protection pqc-only from" in words
    assert "bob: protection pqc-only from" in words


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_and_leaves_nothing(number: signal.Signals) -> None:
    with running("--seconds", "60", "--json") as demo:
        demo.process.send_signal(number)
        code, output, said = demo.finish()
    told = report(output)
    assert (told["ok"], told["errors"], code) == (False, ["interrupted"], 1)
    assert "child process" not in said


def test_even_a_killed_run_leaves_nothing() -> None:
    with running("--seconds", "60", "--json") as demo:
        demo.process.kill()
        demo.process.wait()


@pytest.mark.parametrize("name", ["kme-a", "bob"])
def test_a_program_that_ends_is_named_with_its_last_words(name: str) -> None:
    with running("--seconds", "60", "--json") as demo:
        os.kill(demo.program(name), signal.SIGKILL)
        code, output, _ = demo.finish()
    told = report(output)
    assert (told["ok"], code) == (False, 1)
    assert any(
        error.startswith(f"{name} was ended by SIGKILL; its last words: ") and "event=" in error
        for error in told["errors"]
    ), told


def test_a_run_that_is_kept_says_how_to_look_around() -> None:
    with running("--seconds", "5", "--interval", "1", "--keep", "--json") as demo:
        demo.wait_for("End it with Ctrl-C")
        commands = [line for line in demo.told.splitlines() if line.startswith("nsenter") and "tail -f" not in line]
        assert len(commands) == 4
        for command in commands:
            done = subprocess.run(command.split(), capture_output=True, text=True, timeout=30, check=False)
            assert done.returncode == 0, done
            assert "qt0" in done.stdout
        demo.process.send_signal(signal.SIGINT)
        code, output, _ = demo.finish()
    told = report(output)
    assert (told["ok"], code) == (True, 0), told


def test_a_run_whose_gateways_never_started_is_not_kept_and_says_why() -> None:
    demo = Demo("--seconds", "5", "--keep", "--json")
    try:
        demo.wait_for("starting two KMEs")
        os.kill(wait_until(lambda: started(demo, "kme-a"), "kme-a runs"), signal.SIGKILL)
        code, output, said = demo.finish()
    finally:
        demo.close()
    told = report(output)
    assert (told["ok"], code) == (False, 1)
    assert any(error.startswith("kme-a was ended by SIGKILL") for error in told["errors"]), told
    assert "qtunnel: " not in said


def started(demo: Demo, name: str) -> int | None:
    try:
        return demo.program(name)
    except (AssertionError, OSError):
        return None


def test_without_iperf3_one_line_names_the_package(tmp_path: Path) -> None:
    program = shutil.which("ip")
    assert program is not None
    (tmp_path / "ip").symlink_to(program)
    code, output, told = Demo("--json", env={"PATH": str(tmp_path)}).finish()
    assert (code, output) == (1, "")
    assert told == "qtunnel: iperf3 not found on PATH; install (Debian): apt-get install iperf3\n"


def test_a_closed_tun_device_is_found_at_once_with_its_own_remedy() -> None:
    """As any user sees it where the device has mode 0600: here on a private /dev, and without root's override."""
    script = (
        "mount -t tmpfs none /dev/net && mknod -m 0600 /dev/net/tun c 10 200 && chown 1 /dev/net/tun && "
        'exec "$0" "$@" demo'
    )
    plain = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override")
    program = (sys.executable, "-X", "importtime", "-m", "qtunnel")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, *plain, *program],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    loaded = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 1
    assert len(said) == 1
    assert said[0].startswith("qtunnel: /dev/net/tun: permission denied; ")
    assert "chmod 0666 /dev/net/tun" in said[0]
    assert "sysctl" not in said[0]
    assert "qtunnel.sandbox.namespaces" in loaded
    assert not {"qtunnel.demo.lab", "cryptography", "pydantic"} & set(loaded), "found out before all that is loaded"


def test_where_no_namespaces_are_to_be_had_one_line_says_what_to_do() -> None:
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" "$@"'
    prefix = ("unshare", "--user", "--map-root-user", "sh", "-c", script, *WITHOUT_SYS_ADMIN)
    code, output, told = Demo(prefix=prefix).finish()
    assert (code, output) == (1, "")
    assert told.count("\n") == 1, told
    assert "the demo cannot make namespaces of its own" in told
    assert "run it as root" in told
