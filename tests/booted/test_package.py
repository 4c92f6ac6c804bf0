"""The Debian package, from its installation to its removal, in a systemd of its own with two gateways.

One long test, as each step rests on the one before and all of them on the boot.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.booted.machine import Machine, booted
from tests.support.netns import run, wait_until
from tests.support.ping import answered, gaps

TREE, PACKAGE = Path(os.environ["QTUNNEL_TEST_SYSTEMD"]), Path(os.environ["QTUNNEL_TEST_PACKAGE"])
NEWER = "0.1.1"
BACK = 5.0
"""Seconds in which a tunnel has to be back after its engine or its daemon was killed."""

CONFIG = """\
node: {{name: {name}, identity: {name}.secrets/{name}.identity}}
tunnel: {{interface: qt-{name}, addresses: [10.77.0.{here}/24]}}
peers:
  - name: {peer}
    public: {peer}.public
    endpoint: 10.99.0.{there}
    allowed_ips: [10.77.0.{there}/32, 10.8.{there}.0/24]
    rekey: {{interval: 5s}}
    qkd: {{policy: off}}
    pairing_secret: {name}.secrets/pairing
"""
NETWORK = """\
for name in alice bob; do ip netns add $name; ip -n $name link set lo up; done
ip link add eth0 netns alice type veth peer eth0 netns bob
ip -n alice addr add 10.99.0.1/24 dev eth0; ip -n bob addr add 10.99.0.2/24 dev eth0
ip -n alice link set eth0 up; ip -n bob link set eth0 up
"""
IDENTITY = """\
umask 077; cd /etc/qtunnel; mkdir $1.secrets; cp /root/pairing $1.secrets/
qtunnel identity new $1.secrets/$1.identity > /dev/null
qtunnel identity show $1.secrets/$1.identity > $1.public; chmod 0644 $1.public
"""
PAIRS = (("alice", "bob", 1, 2), ("bob", "alice", 2, 1))
SECRETS = "/etc/qtunnel/alice.secrets/alice.identity"


def pings(machine: Machine) -> bool:
    return machine.succeeds("ip", "netns", "exec", "alice", "ping", "-c", "1", "-W", "1", "10.77.0.2")


def engine_of(machine: Machine, name: str) -> int:
    return int(machine.run("pgrep", "-f", f"qtunnel wg --foreground qt-{name}").split()[0])


def ended(machine: Machine, pid: int) -> None:
    """Wait for the end of a process that was killed, or a ping would go through what is left of it."""
    wait_until(lambda: not machine.succeeds("test", "-e", f"/proc/{pid}/exe"), f"the end of {pid}", 10)


def field(machine: Machine, pid: int | str, name: str) -> str:
    """Of a process's /proc/PID/status (proc(5))."""
    found = re.search(rf"^{name}:\s*(.*)$", machine.read(f"/proc/{pid}/status"), re.MULTILINE)
    assert found is not None
    return found[1]


@contextlib.contextmanager
def nothing_lost(machine: Machine) -> Iterator[None]:
    """Fifty packets a second go across meanwhile, and each is answered; the last answer may be under way at the end."""
    with tempfile.TemporaryFile("w+") as output:
        ping = machine.start("ip", "netns", "exec", "alice", "ping", "-n", "-i", "0.02", "10.77.0.2", output=output)
        try:
            yield
        finally:
            machine.run("pkill", "-INT", "-x", "ping")
            ping.wait(60)
            output.seek(0)
            said = output.read()
    assert not gaps(said), said[-2000:]
    print(f"{len(answered(said))} packets, none lost")
    assert len(answered(said)) > 20, said


def newer(package: Path, directory: Path) -> None:
    """The same package as a release after it."""
    files = directory / "files"
    run("dpkg-deb", "-R", str(package), str(files))
    control = files / "DEBIAN" / "control"
    control.write_text(re.sub(r"^Version: .*$", f"Version: {NEWER}", control.read_text(), flags=re.MULTILINE))
    (init,) = files.glob("usr/lib/qtunnel/lib/python3.*/site-packages/qtunnel/__init__.py")
    init.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{NEWER}"', init.read_text()))
    run(
        "dpkg-deb",
        "--root-owner-group",
        "-Zxz",
        "-z0",
        "--build",
        str(files),
        str(directory / "newer.deb"),
        timeout=300,
    )


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    directory = tmp_path_factory.mktemp("package")
    run("cp", str(PACKAGE), str(directory / "first.deb"))
    newer(PACKAGE, directory)
    with booted(TREE, directory, directory / "console") as made:
        try:
            yield made
        finally:
            if os.environ.get("QTUNNEL_TEST_JOURNAL"):
                print(made.journal())


def test_a_life_of_the_package(machine: Machine) -> None:
    # -- installed
    machine.run("dpkg", "-i", "/package/first.deb")
    units = ["qtunnel@alice.service", "qtunnel-engine@alice.service", "qtunnel.target"]
    assert machine.run("systemd-analyze", "verify", "--man=no", *(f"/lib/systemd/system/{unit}" for unit in (
        "qtunnel@.service", "qtunnel-engine@.service", "qtunnel.target"))) == ""  # fmt: skip
    machine.run("sh", "-ec", NETWORK)
    machine.write("/root/pairing", base64.b64encode(os.urandom(32)).decode(), "0600")
    for name, peer, here, there in PAIRS:
        machine.run("sh", "-ec", IDENTITY, "sh", name)
        machine.write(f"/etc/qtunnel/{name}.yaml", CONFIG.format(name=name, peer=peer, here=here, there=there))
        for unit in ("qtunnel@", "qtunnel-engine@"):
            drop_in = f"/etc/systemd/system/{unit}{name}.service.d/namespace.conf"
            machine.write(drop_in, f"[Service]\nNetworkNamespacePath=/run/netns/{name}\n")
    machine.run("systemctl", "daemon-reload")

    # -- the same units by the command, in the place of the package's, and away again
    local = "/etc/systemd/system/qtunnel@.service"
    assert local in machine.run("qtunnel", "install-service", "--dry-run")
    assert not machine.succeeds("test", "-e", local)
    machine.run("qtunnel", "install-service")
    assert local in machine.run("systemctl", "cat", "qtunnel@alice")
    assert machine.run("qtunnel", "install-service").startswith("nothing to do")
    machine.run("qtunnel", "install-service", "--uninstall")
    assert local not in machine.run("systemctl", "cat", "qtunnel@alice")

    # -- started
    machine.run("systemctl", "enable", "--now", "qtunnel.target", "qtunnel@alice", "qtunnel@bob")
    wait_until(lambda: pings(machine), "a ping across", 30)
    assert machine.show("qtunnel@alice", "StatusText") == "1 peers on qt-alice"
    daemon, engine = machine.show("qtunnel@alice", "MainPID"), engine_of(machine, "alice")
    steward = machine.show("qtunnel-engine@alice", "MainPID")
    for unit in units:
        print(unit, machine.show(unit, "ActiveState"))

    # -- who may do what
    for pid in (daemon, steward, str(engine)):
        uid = machine.run("id", "-u", "qtunnel").strip()
        assert field(machine, pid, "Uid").split() == [uid] * 4
        assert (field(machine, pid, "NoNewPrivs"), field(machine, pid, "Seccomp")) == ("1", "2")
        assert "Max core file size        0                    0 " in machine.read(f"/proc/{pid}/limits")
    assert int(field(machine, daemon, "CapEff"), 16) == int(field(machine, daemon, "CapBnd"), 16) == 0
    assert int(field(machine, engine, "CapEff"), 16) == int(field(machine, steward, "CapBnd"), 16) == 1 << 12
    seen = ["nsenter", "--target", str(engine), "--mount", "--"]
    for hidden in (SECRETS, "/etc/qtunnel/alice.yaml", "/run/credentials/qtunnel@alice.service/secrets_alice.identity"):
        assert not machine.succeeds(*seen, "cat", hidden), "the engine's unit sees no file of the daemon's"
    unprivileged = ["setpriv", "--reuid=qtunnel", "--regid=qtunnel", "--clear-groups", "--"]
    assert not machine.succeeds(*unprivileged, "cat", SECRETS), "not by its user, but by systemd's hand"
    assert not machine.succeeds(*unprivileged, "cat", f"/proc/{daemon}/environ"), "not dumpable"

    # -- looked at
    doctor = ["ip", "netns", "exec", "alice", "qtunnel", "doctor", "--json", "/etc/qtunnel/alice.yaml"]
    looked = json.loads(machine.run(*doctor))
    assert looked["well"]
    assert {check["verdict"] for check in looked["checks"] if check["id"] in ("secrets", "ports", "peers")} == {"good"}
    assert not machine.succeeds("qtunnel", "install-service", "--uninstall", "--vendor"), "they run"

    # -- reloaded
    before = machine.read("/etc/qtunnel/alice.yaml")
    machine.run("sed", "-i", "s/interval: 5s/interval: 4s/", "/etc/qtunnel/alice.yaml")
    machine.run("systemctl", "reload", "qtunnel@alice")
    machine.run("sed", "-i", "s/interval: 4s/interval: nonsense/", "/etc/qtunnel/alice.yaml")
    assert not machine.succeeds("systemctl", "reload", "qtunnel@alice"), "refused, and said so"
    machine.write("/etc/qtunnel/alice.yaml", before)
    machine.run("systemctl", "reload", "qtunnel@alice")

    # -- killed: the engine
    machine.run("kill", "-KILL", str(engine))
    killed = time.monotonic()
    ended(machine, engine)
    wait_until(lambda: pings(machine), "the tunnel is back after its engine was killed", BACK)
    print(f"the engine was killed: back after {time.monotonic() - killed:.1f} s")
    assert machine.show("qtunnel@alice", "MainPID") == daemon
    engine = engine_of(machine, "alice")

    # -- the daemon, whose engine goes on
    with nothing_lost(machine):
        machine.run("kill", "-KILL", daemon)
        killed = time.monotonic()
        wait_until(lambda: machine.show("qtunnel@alice", "MainPID") not in ("0", daemon), "another daemon", BACK)
        wait_until(lambda: machine.show("qtunnel@alice", "ActiveState") == "active", "it is ready", 20)
        print(f"the daemon was killed: another one ready after {time.monotonic() - killed:.1f} s")
    assert engine_of(machine, "alice") == engine
    assert "event=engine.adopted" in machine.journal()

    # -- the steward, and with it the engine
    machine.run("kill", "-KILL", steward)
    killed = time.monotonic()
    ended(machine, engine)
    wait_until(lambda: pings(machine), "the tunnel is back after the steward was killed", BACK)
    print(f"the steward was killed: back after {time.monotonic() - killed:.1f} s")

    # -- restarted, and upgraded
    engines = [engine_of(machine, name) for name in ("alice", "bob")]
    with nothing_lost(machine):
        machine.run("systemctl", "restart", "qtunnel@bob")
        machine.run("dpkg", "-i", "/package/newer.deb")
        for name in ("alice", "bob"):
            told = machine.run("qtunnel", "status", "--config", f"/etc/qtunnel/{name}.yaml", "--json", check=False)
            assert f'"{NEWER}"' in told, told
        wait_until(lambda: machine.succeeds("qtunnel", "status", "--config", "/etc/qtunnel/bob.yaml"), "an epoch", 30)
    assert [engine_of(machine, name) for name in ("alice", "bob")] == engines

    # -- stopped: nothing is left of one of them
    machine.run("systemctl", "stop", "qtunnel@bob")
    wait_until(lambda: machine.show("qtunnel-engine@bob", "ActiveState") == "inactive", "nobody needs its engine")
    assert "qt-bob" not in machine.run("ip", "-n", "bob", "link")
    assert "unreachable" not in machine.run("ip", "-n", "bob", "route")
    machine.run("systemctl", "start", "qtunnel@bob")
    wait_until(lambda: pings(machine), "a ping across", 30)

    # -- failed for good, by a restart: the tunnel's packets go nowhere
    machine.write("/etc/qtunnel/alice.yaml", "nonsense: true\n")
    assert not machine.succeeds("systemctl", "restart", "qtunnel@alice")
    assert machine.show("qtunnel@alice", "ActiveState") == "failed"
    wait_until(lambda: machine.show("qtunnel-engine@alice", "ActiveState") == "inactive", "nobody needs its engine", 30)
    assert "unreachable 10.8.2.0/24" in machine.run("ip", "-n", "alice", "route")
    machine.write("/etc/qtunnel/alice.yaml", before)
    machine.run("systemctl", "reset-failed", "qtunnel@alice")
    machine.run("systemctl", "start", "qtunnel@alice")
    wait_until(lambda: pings(machine), "a ping across", 30)

    # -- removed
    machine.run("dpkg", "--remove", "qtunnel")
    assert machine.run("pgrep", "-u", "qtunnel", check=False) == ""
    for name in ("alice", "bob"):
        assert f"qt-{name}" not in machine.run("ip", "-n", name, "link")
        assert "unreachable" not in machine.run("ip", "-n", name, "route")
    assert not machine.succeeds("test", "-e", "/usr/lib/qtunnel")
    assert machine.run("sh", "-c", "ls /lib/systemd/system | grep qtunnel", check=False) == ""
    assert machine.succeeds("test", "-e", SECRETS)
    machine.run("dpkg", "--purge", "qtunnel")
    assert not machine.succeeds("test", "-e", "/var/lib/qtunnel")
    assert machine.succeeds("test", "-e", SECRETS), "nobody's to remove but their owner's"
