"""What daemons give account of themselves by, as it is read: audit log, metrics, and reports at a broker."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.daemon.kmes import QTUNNEL
from tests.daemon.lab import Gateway, qtunnel
from tests.support.mosquitto import MOSQUITTO
from tests.support.netns import Namespace, run, stop
from tests.support.promtool import PROMTOOL, promtool

BROKER = """
user root
listener 8883 127.0.0.1
cafile {0}/pki/ca.pem
certfile {0}/pki/kme-a.pem
keyfile {0}/pki/kme-a.key
require_certificate true
use_identity_as_username true
allow_anonymous false
acl_file {0}/acl
persistence false
"""
RULES = "user kme-b\ntopic read #\nuser sae-alice\ntopic write #\n"
URL = "mqtts://127.0.0.1:8883"


def sections(name: str, on_failure: str) -> dict[str, Any]:
    """Of a configuration: an audit log in a directory of its own, and metrics."""
    return {
        "audit": {"path": f"log-{name}/audit.jsonl", "rotate": "100kB", "on_failure": on_failure},
        "metrics": {"listen": "127.0.0.1:9586"},
    }


REPORTS = {"mqtt": {
    "broker": URL, "ca": "pki/ca.pem", "certificate": "pki/sae-alice.pem", "private_key": "pki/sae-alice.key",
    "interval": "2s",
}}  # fmt: skip
"""Of alice's configuration."""


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A directory on a file system of 4 MB."""
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(place))
    try:
        yield place
    finally:
        run("umount", "-l", str(place))


def fill(place: Path) -> None:
    """Take all the room there is."""
    with suppress(OSError), (place / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def start_broker(directory: Path, host: Namespace) -> subprocess.Popen[str] | None:
    """A Mosquitto with TLS on the host's loopback, by the certificates in ``directory``; ``None`` without one."""
    if MOSQUITTO is None:
        return None
    (directory / "acl").write_text(RULES)
    (directory / "broker.conf").write_text(BROKER.format(directory))
    for name in ("acl", "broker.conf"):
        (directory / name).chmod(0o600)
    return host.start(MOSQUITTO, "-c", str(directory / "broker.conf"))


def stop_broker(broker: subprocess.Popen[str] | None) -> None:
    if broker is not None:
        stop(broker)


def present() -> str:
    return datetime.now(UTC).isoformat()


def audit(gateway: Gateway, command: str, *arguments: str) -> dict[str, Any]:
    """What ``qtunnel audit`` says as JSON."""
    done = qtunnel("audit", command, "--config", gateway.file, "--json", *arguments)
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def recorded(gateway: Gateway) -> str:
    """All that its audit log holds."""
    return "".join(path.read_text() for path in (gateway.directory / f"log-{gateway.name}").iterdir())


def metrics(gateway: Gateway) -> dict[str, float]:
    """By name and labels, these in the order of their names."""
    code = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9586/metrics', timeout=20).read().decode())"
    text = gateway.namespace.run(sys.executable, "-c", code).stdout
    if PROMTOOL is not None:
        promtool("check", "metrics", text=text)
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def fleet(gateway: Gateway) -> dict[str, Any] | None:
    """What the fleet's view has of a gateway that is well, once there is one."""
    pki = gateway.directory / "pki"
    command = [*QTUNNEL, "fleet", "status", "--json", "--broker", URL, "--ca", str(pki / "ca.pem")]
    command += ["--certificate", str(pki / "kme-b.pem"), "--private-key", str(pki / "kme-b.key")]
    done = gateway.namespace.run(*command, check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    return next((its for its in found["gateways"] if its["well"]), None)
