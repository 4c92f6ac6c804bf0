"""What the package's units let happen and what takes a drop-in, in a systemd of its own: vendors' programs, a new
identity, keys for an interface of somebody else's."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.booted.machine import Machine, booted
from tests.booted.test_package import IDENTITY, NETWORK, PACKAGE, TREE, engine_of, pings
from tests.support.netns import run, wait_until

ROOT = Path(__file__).parents[2]
WIREGUARD_GO = ROOT / ".tools" / "wireguard-go"
DROP_IN = ROOT / "configs" / "systemd" / "userspace-interface.conf"

CONFIG = """\
node: {{name: {name}, identity: {name}.secrets/{name}.identity}}
tunnel: {{interface: qt-{name}, addresses: [10.77.0.{here}/24]}}
key_sources:
  vendor: {{driver: exec, command: [/usr/local/lib/vendor/getkey, "{{call}}", "{{size_bytes}}", "{{key_id}}", {name}]}}
peers:
  - name: {peer}
    public: {peer}.public
    endpoint: 10.99.0.{there}
    allowed_ips: [10.77.0.{there}/32]
    rekey: {{interval: 5s}}
    qkd: {{policy: required, sources: {{vendor: {{peer: x}}}}}}
"""
PROGRAM = """\
#!/usr/bin/python3
import base64, hashlib, json, pathlib, sys, uuid
call, size, key_id, name = sys.argv[1:5]
own = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
if call == "status":
    told = {its: own[its].strip() for its in ("CapBnd", "CapEff", "NoNewPrivs", "Seccomp")}
    try:
        pathlib.Path("/etc/written").write_text("x")
        told["wrote"] = True
    except OSError:
        told["wrote"] = False
    pathlib.Path("/var/lib/qtunnel", name, "vendor").write_text(json.dumps(told))
    print(json.dumps({"healthy": True}))
    sys.exit()
key_id = key_id or str(uuid.uuid4())
secret = pathlib.Path("/usr/local/lib/vendor/device").read_bytes()
key = hashlib.shake_256(secret + key_id.encode()).digest(int(size))
print(json.dumps({"key_ID": key_id, "key": base64.b64encode(key).decode()}))
"""
KEYS_ONLY = """\
node: {name: alice, identity: alice.secrets/alice.identity}
tunnel: {interface: wg0, manage: psk}
peers:
  - {name: bob, public: bob.public, endpoint: 10.99.0.2, rekey: {interval: 5s}, qkd: {policy: off}}
"""
TO_KEYS_ONLY = """\
node: {{name: bob, identity: bob.secrets/bob.identity}}
tunnel: {{interface: qt-bob, addresses: [10.77.0.2/24]}}
peers:
  - name: alice
    public: alice.public
    wireguard_key: {key}
    endpoint: 10.99.0.1
    allowed_ips: [10.77.0.1/32]
    rekey: {{interval: 5s}}
    qkd: {{policy: off}}
"""
INTERFACE = """\
[Service]
NetworkNamespacePath=/run/netns/alice
User=qtunnel
AmbientCapabilities=CAP_NET_ADMIN
CapabilityBoundingSet=CAP_NET_ADMIN
ExecStart=/usr/local/bin/wireguard-go -f wg0
ExecStartPost=+timeout 60 sh -ec 'until test -S /run/wireguard/wg0.sock && wg show wg0 > /dev/null; do sleep 0.5; done'
ExecStartPost=+wg set wg0 private-key /root/wg0.key listen-port 51820 peer {peer} endpoint 10.99.0.2:51820 \
    allowed-ips 10.77.0.2/32 persistent-keepalive 1
ExecStartPost=+ip addr add 10.77.0.1/24 dev wg0
ExecStartPost=+ip link set wg0 up
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    directory = tmp_path_factory.mktemp("package")
    run("cp", str(PACKAGE), str(directory / "first.deb"))
    if WIREGUARD_GO.exists():
        run("cp", str(WIREGUARD_GO), str(directory / "wireguard-go"))
    with booted(TREE, directory, directory / "console") as made:
        try:
            prepare(made)
            yield made
        finally:
            if os.environ.get("QTUNNEL_TEST_JOURNAL"):
                print(made.journal())


def prepare(machine: Machine) -> None:
    """The package, two namespaces, two identities, a vendor's program."""
    machine.run("dpkg", "-i", "/package/first.deb")
    machine.run("sh", "-ec", NETWORK)
    machine.write("/root/pairing", base64.b64encode(os.urandom(32)).decode(), "0600")
    machine.write("/usr/local/lib/vendor/getkey", PROGRAM, "0755")
    machine.write("/usr/local/lib/vendor/device", "what the device knows", "0644")
    for name, peer, here, there in (("alice", "bob", 1, 2), ("bob", "alice", 2, 1)):
        machine.run("sh", "-ec", IDENTITY, "sh", name)
        machine.write(f"/etc/qtunnel/{name}.yaml", CONFIG.format(name=name, peer=peer, here=here, there=there))
        for unit in ("qtunnel@", "qtunnel-engine@"):
            drop_in = f"/etc/systemd/system/{unit}{name}.service.d/namespace.conf"
            machine.write(drop_in, f"[Service]\nNetworkNamespacePath=/run/netns/{name}\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "qtunnel@alice", "qtunnel@bob")
    wait_until(lambda: pings(machine), "a ping across", 60)


def status(machine: Machine, name: str) -> dict[str, Any]:
    """Whatever it is."""
    said = machine.run("qtunnel", "status", "--json", "--node", name, check=False)
    with contextlib.suppress(ValueError):
        found: dict[str, Any] = json.loads(said)
        return found
    return {}


def protected(machine: Machine, name: str) -> bool:
    return any(peer["protected"] for peer in status(machine, name).get("peers", []))


def in_force(machine: Machine, name: str) -> int:
    """The epoch of its only peer; 0 for none."""
    return int(status(machine, name)["peers"][0]["epoch_in_force"] or 0)


def test_a_vendors_program_runs_in_the_unit_with_no_more_rights_than_that_has(machine: Machine) -> None:
    wait_until(lambda: protected(machine, "alice") and protected(machine, "bob"), "both are protected", 60)
    found = status(machine, "alice")
    assert found["peers"][0]["sources"][-1] == "exec:vendor"
    assert found["peers"][0]["protection"] == "qkd+pqc"
    told = json.loads(machine.read("/var/lib/qtunnel/alice/vendor"))
    assert told == {"CapBnd": "0" * 16, "CapEff": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2", "wrote": False}
    assert found["key_sources"][0]["faults"] == {}


def test_a_shell_completes_what_the_package_put_there(machine: Machine) -> None:
    script = """. /usr/share/bash-completion/completions/qtunnel
    COMP_WORDS=(qtunnel rekey --node alice ""); COMP_CWORD=4; _qtunnel_completion qtunnel; echo "${COMPREPLY[@]}"
    """
    assert machine.run("bash", "-c", script).strip() == "bob"
    for file in ("man/man1/qtunnel-status.1.gz", "man/man5/qtunnel.yaml.5.gz", "zsh/vendor-completions/_qtunnel",
                 "fish/vendor_completions.d/qtunnel.fish", "doc/qtunnel/sources/exec.md"):  # fmt: skip
        assert machine.succeeds("test", "-s", f"/usr/share/{file}"), file


def test_a_new_identity_is_in_force_after_a_restart_alone_and_never_in_silence(machine: Machine) -> None:
    before, engine = status(machine, "alice")["node"]["fingerprint"], engine_of(machine, "alice")
    machine.run(
        "sh",
        "-ec",
        """umask 077; cd /etc/qtunnel
    qtunnel identity new alice.secrets/next.identity; mv alice.secrets/next.identity alice.secrets/alice.identity
    qtunnel identity show alice.secrets/alice.identity > alice.public; chmod 0644 alice.public""",
    )
    new = machine.run("qtunnel", "identity", "fingerprint", "/etc/qtunnel/alice.public").strip()
    assert new != before

    # a reload cannot take it, and says so
    said = machine.run("qtunnel", "reload", "--node", "alice")
    assert "files in /etc/qtunnel/alice.secrets have changed since the start of the service" in said
    assert "systemctl restart qtunnel@alice" in said
    machine.run("systemctl", "reload", "qtunnel@alice")
    assert "event=secrets.changed" in machine.journal()
    assert status(machine, "alice")["node"]["fingerprint"] == before
    machine.run("qtunnel", "reload", "--node", "bob")
    assert "secrets" not in machine.run("qtunnel", "reload", "--node", "bob"), "bob has a new public file alone"

    doctor = ["ip", "netns", "exec", "alice", "qtunnel", "doctor", "--json", "/etc/qtunnel/alice.yaml"]
    assert "has changed since the start of qtunnel@alice" in machine.run(*doctor, check=False)

    # a restart takes it, with another engine, as the one that runs has the old key
    machine.run("systemctl", "restart", "qtunnel@alice")
    wait_until(lambda: pings(machine), "a ping across", 60)
    wait_until(lambda: protected(machine, "alice") and protected(machine, "bob"), "both are protected", 60)
    assert status(machine, "alice")["node"]["fingerprint"] == new
    assert engine_of(machine, "alice") != engine
    told = [line for line in machine.journal().splitlines() if "event=engine.replaced" in line]
    assert len(told) == 1, told
    assert "another identity" in told[0]
    assert "have changed" not in machine.run("qtunnel", "reload", "--node", "alice")
    assert "has changed since" not in machine.run(*doctor, check=False)


@pytest.mark.skipif(not WIREGUARD_GO.exists(), reason="needs .tools/wireguard-go (scripts/build-wireguard-go .tools)")
def test_keys_for_an_interface_of_somebody_elses_without_any_capability(machine: Machine) -> None:
    peer = machine.run("ip", "netns", "exec", "bob", "wg", "show", "qt-bob", "public-key").strip()
    machine.run("systemctl", "stop", "qtunnel@alice")
    key = machine.run("sh", "-ec", "umask 077; wg genkey > /root/wg0.key; wg pubkey < /root/wg0.key").strip()
    machine.run("install", "-m", "0755", "/package/wireguard-go", "/usr/local/bin/")
    machine.write("/etc/systemd/system/wg0.service", INTERFACE.format(peer=peer))
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "wg0")
    machine.write("/etc/systemd/system/qtunnel@alice.service.d/override.conf", DROP_IN.read_text())
    machine.run("systemctl", "mask", "--runtime", "qtunnel-engine@alice")
    machine.write("/etc/qtunnel/alice.yaml", KEYS_ONLY)
    machine.write("/etc/qtunnel/bob.yaml", TO_KEYS_ONLY.format(key=key))
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "qtunnel@bob")
    machine.run("systemctl", "start", "qtunnel@alice")
    wait_until(lambda: protected(machine, "alice"), "alice is protected", 60)
    wait_until(lambda: pings(machine), "a ping across", 60)
    daemon = machine.show("qtunnel@alice", "MainPID")
    lines = machine.read(f"/proc/{daemon}/status").splitlines()
    assert [line.split()[1] for line in lines if line.startswith(("CapBnd", "CapEff"))] == ["0" * 16] * 2
    assert status(machine, "alice")["node"]["engine"] == "existing (userspace)"
    wait_until(lambda: in_force(machine, "bob") > 0, "an epoch", 60)
    epoch = in_force(machine, "bob")  # which its engine tells at once, and wireguard-go minutes later
    wait_until(lambda: in_force(machine, "bob") > epoch, "another epoch", 60)
    assert machine.show("qtunnel-engine@alice", "ActiveState") == "inactive"

    # the socket of a program that root runs is root's, and that is said
    machine.run("sed", "-i", "/User=/d", "/etc/systemd/system/wg0.service")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "wg0")
    assert not machine.succeeds("systemctl", "restart", "qtunnel@alice")
    said = [line for line in machine.journal().splitlines() if "/run/wireguard/wg0.sock" in line]
    assert "permission denied" in said[-1].lower(), said[-3:]
