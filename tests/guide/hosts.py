"""The guide's two hosts: network namespaces joined by a veth pair, each with its own /etc, /run, /srv and /var/lib.

Two programs of the guide cannot run there and have stand-ins, first on PATH: ``systemctl``, which runs and ends
``qtunnel run`` for qtunnel@NAME, as root and with an engine of its own, and ``scp``, which copies below the other
host's /etc.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.netns import Namespace, gone, join, namespaces, wait_until

ADDRESSES = {"alice": "192.0.2.1", "bob": "198.51.100.2"}
BLOCK_TIMEOUT = 200.0
READY = 60
END = 10.0
"""Seconds for a command, a daemon, and the end of all of a host's programs; only a fault takes them."""

SYSTEMCTL = f"""\
#!/bin/bash
set -eu
verb=$1; shift
for unit in "$@"; do
    case $unit in
        qtunnel@*) name=${{unit#qtunnel@}} ;;
        qtunnel.target|--now|qtunnel-engine@*) continue ;;  # the engine here ends with its daemon
        *) echo "no such unit here: $unit" >&2; exit 1 ;;
    esac
    log=/run/$name.log pid=/run/$name.pid
    if [ "$verb" = reload ]; then qtunnel reload --config "/etc/qtunnel/$name.yaml" > /dev/null; continue; fi
    case $verb in stop|restart)
        kill "$(cat $pid)"; tail --pid="$(cat $pid)" -f /dev/null ;;
    esac
    case $verb in enable|start|restart)
        : > $log
        qtunnel run --config "/etc/qtunnel/$name.yaml" > $log 2>&1 < /dev/null &
        echo $! > $pid
        timeout {READY} sh -c "until grep -q event=daemon.ready $log; do kill -0 $! || exit 1; sleep 0.05; done" ||
            {{ cat $log >&2; exit 1; }} ;;
    esac
done
"""
SCP = """\
#!/bin/bash
set -eu
to=${!#}
case $to in "root@$OTHER_ADDRESS:/etc/"*) ;; *) echo "scp: $to is not below /etc of the other host" >&2; exit 1 ;; esac
exec cp "${@:1:$#-1}" "$OTHER_ROOT${to#*:}"
"""


class Host:
    """One of them. ``run`` is what a user types as root."""

    def __init__(self, name: str, other: str, directory: Path, namespace: Namespace) -> None:
        self.name, self._namespace = name, namespace
        self._root, programs = directory / name, directory / "bin"
        shutil.copytree("/etc", self._root / "etc", symlinks=True, ignore=shutil.ignore_patterns("qtunnel*", "shadow*"))
        self._environ = {
            **os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC", "COLUMNS": "110", "NO_COLOR": "1",
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OTHER_ADDRESS": ADDRESSES[other], "OTHER_ROOT": str(directory / other),
        }  # fmt: skip
        ready = self._root / "ready"
        mounts = "".join(f"mount -t tmpfs -o mode=0755 tmpfs {place}; " for place in ("/run", "/srv", "/var/lib"))
        self._holder = namespace.start(
            "unshare", "--mount", "--propagation", "private", "sh", "-ec",
            f"mount --bind {self._root}/etc /etc; {mounts} touch {ready}; exec sleep infinity",
        )  # fmt: skip
        wait_until(lambda: ready.exists() or self._holder.poll() is not None, f"{name}'s file system")
        assert self._holder.poll() is None, self._holder.communicate()[0]

    def run(self, command: str) -> tuple[int, str]:
        """Exit code, and all that was printed; a program that goes on behind it keeps nobody waiting."""
        with (self._root / "output").open("w+") as output:
            done = subprocess.run(
                ["nsenter", "-t", str(self._holder.pid), "-m", "-n", "nice", "-n", "5", "bash", "-euc", command],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", env=self._environ, check=False,
                timeout=BLOCK_TIMEOUT,
            )  # fmt: skip
            output.seek(0)
            return done.returncode, output.read()

    def end(self) -> None:
        """Whatever runs in this namespace, which are this host's programs and no others."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            pids = [int(pid) for pid in self._namespace.run("ip", "netns", "pids", self._namespace.name).stdout.split()]
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            deadline = time.monotonic() + END
            while not all(gone(pid) for pid in pids) and time.monotonic() < deadline:
                time.sleep(0.02)


@contextmanager
def guide_hosts(directory: Path) -> Iterator[dict[str, Host]]:
    """alice at 192.0.2.1 and bob at 198.51.100.2, who reach each other, with nothing of qtunnel's on them."""
    (directory / "bin").mkdir()
    for name, text in (("systemctl", SYSTEMCTL), ("scp", SCP)):
        program = directory / "bin" / name
        program.write_text(text)
        program.chmod(0o755)
    with namespaces(2) as (left, right):
        join(left, right)
        hosts: dict[str, Host] = {}
        for namespace, name, other in ((left, "alice", "bob"), (right, "bob", "alice")):
            namespace.address("eth0", f"{ADDRESSES[name]}/32")
            namespace.ip("route", "add", f"{ADDRESSES[other]}/32", "dev", "eth0", "src", ADDRESSES[name])
        try:
            for namespace, name, other in ((left, "alice", "bob"), (right, "bob", "alice")):
                hosts[name] = Host(name, other, directory, namespace)
            yield hosts
        finally:
            for host in hosts.values():
                host.end()
