"""A session of two real gateways, captured, with what a decoder has to be told and what the daemons said of it.

``python -m tests.decoder.live``, as root, makes the capture that is kept.
"""

from __future__ import annotations

import base64
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from tests.daemon.lab import Gateway
from tests.support.netns import Namespace, run, stop, two_hosts, wait_until
from tests.support.vendor import make_device

HERE = Path(__file__).parent
KEPT = HERE / "captures"
"""A kept capture and what belongs to it: two-epochs.pcap, two-epochs.json."""
EPOCHS = 2
DONE = re.compile(r"event=rekey\.done .*")


def session(directory: Path, *, pairing: bool = False, **suite: str) -> tuple[Path, Path]:
    """The capture, and a file with what was disclosed and said. pairing: the ends share a secret; suite: kem
    and cipher of both."""
    program = make_device(directory)
    with two_hosts() as hosts:
        alice, bob = (_gateway(directory, host, number, program, suite) for number, host in enumerate(hosts, 1))
        secret = os.urandom(32) if pairing else None
        if secret is not None:
            for gateway in (alice, bob):
                _pair(gateway, secret)
        for host in hosts:  # or the kernel hands a burst to its device, and so to the capture, in one piece
            host.run("ethtool", "-K", "eth0", "tx-udp-segmentation", "off")
        capture = directory / "session.pcap"
        tcpdump = hosts[0].start(
            "tcpdump", "-i", "eth0", "-s", "0", "-U", "--immediate-mode", "-w", str(capture), "udp"
        )
        try:
            wait_until(lambda: capture.exists() and capture.stat().st_size >= 24, "tcpdump listens")
            for gateway in (alice, bob):
                gateway.start()
            alice.ready().protected("bob")
            bob.ready().protected("alice")
            psks = [_traffic(alice, bob)]
            assert alice.ask("rekey", "bob")[0] == 0
            both = (alice, "bob"), (bob, "alice")
            wait_until(lambda: {_in_force(*end) for end in both} == {EPOCHS}, "epoch 2 carries traffic")
            psks.append(_traffic(alice, bob))
            said = {gateway.name: _said(gateway, peer) for gateway, peer in both}
        finally:
            for gateway in (alice, bob):
                if gateway.process is not None:
                    gateway.end()
            stop(tcpdump)
        found = _disclosed(directory, (alice, bob)) | {"said": said, "psks": psks}
        found["pairing"] = _text(secret or b"")
    told = directory / "session.json"
    told.write_text(json.dumps(found, indent=1))
    return capture, told


def _gateway(directory: Path, host: Namespace, number: int, program: Path, suite: dict[str, str]) -> Gateway:
    name, other = ("alice", "bob") if number == 1 else ("bob", "alice")
    gateway = Gateway(directory, host, name, f"10.77.0.{number}")
    gateway.program = (str(HERE / "disclosing.py"), str(directory))
    command = [str(program), str(directory / "device"), "{call}", "{peer}", "{size_bits}", "{key_id}"]
    gateway.config["key_sources"] = {"vendor": {"driver": "exec", "timeout": "14s", "command": command}}
    qkd = {"policy": "required", "sources": {"vendor": {"peer": other}}}
    gateway.peer(other, f"10.77.0.{3 - number}", f"10.99.0.{3 - number}", qkd)
    gateway.config["peers"][0] |= {"rekey": {"interval": "4m"}, **suite}
    gateway.config["tunnel"]["record_mode"] = "aes-256-gcm"
    return gateway


def _pair(gateway: Gateway, secret: bytes) -> None:
    file = gateway.directory / f"{gateway.name}.pairing"
    file.touch(0o600)
    file.write_text(_text(secret) + "\n")
    gateway.config["peers"][0]["pairing_secret"] = file.name


def _in_force(gateway: Gateway, peer: str) -> Any:
    return gateway.status(peer)[1]["epoch_in_force"]


def _in_records(gateway: Gateway, peer: str) -> bool:
    status = gateway.status(peer)[1]
    return bool(status["record_mode"]) and not status["record_mode_reason"]


def _traffic(alice: Gateway, bob: Gateway) -> str:
    """Small packets, and one of 4,000 bytes that comes as several in one go; the PSK that alice's engine has."""
    wait_until(lambda: _in_records(alice, "bob") and _in_records(bob, "alice"), "packets go in records")
    for size in (56, 4000):
        alice.namespace.run("ping", "-c", "2", "-i", "0.05", "-s", str(size), "10.77.0.2")
    return alice.namespace.run("wg", "show", alice.interface, "preshared-keys").stdout.split()[1]


def _said(gateway: Gateway, peer: str) -> dict[str, Any]:
    """The ends' own words: its status, and one line of the log for each exchange."""
    status = gateway.status(peer)[1]
    return {
        "status": {name: status[name] for name in ("epoch_in_force", "key_ids", "chained")},
        "done": [line.group() for line in map(DONE.search, gateway.log.splitlines()) if line],
    }


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _disclosed(directory: Path, gateways: tuple[Gateway, Gateway]) -> dict[str, Any]:
    lines = [line for file in directory.glob("disclosed-*") for line in file.read_text().splitlines()]
    given = sorted((directory / "device/given").iterdir())
    seeds = {one.name: (directory / f"{one.name}.identity").read_text().splitlines()[-1] for one in gateways}
    return {
        "identities": seeds,
        "drawn": sorted(_text(bytes.fromhex(line.split()[1])) for line in lines if line.startswith("drawn")),
        "qkd_keys": [["vendor", file.name, _text(file.read_bytes())] for file in given],
        "finished": sorted(line.split()[1:] for line in lines if line.startswith("finished")),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        capture, told = session(Path(directory))
        for made in (capture, told):
            os.replace(made, KEPT / f"two-epochs{made.suffix}")
    run("chmod", "644", *map(str, KEPT.iterdir()))
