"""``qtunnel kme serve`` as a process: two KMEs as an operator runs them, and what they say when they cannot start."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from qtunnel.drivers import etsi014
from tests.support.kme import driver_options, pair_configs, run
from tests.support.kme_process import KME, kme_process


def write(path: Path, config: dict[str, Any]) -> Path:
    with path.open("w") as file:
        YAML(typ="safe").dump(config, file)
    return path


def serving(config: Path, *options: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """A KME process that serves."""
    return kme_process("kme.ready", "serve", config, *options)


def failure(config: Path) -> tuple[int, list[str]]:
    """Exit code and the lines on stderr of a KME that cannot start."""
    done = subprocess.run([*KME, "serve", str(config)], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    return done.returncode, done.stderr.splitlines()


def test_its_keys_get_into_no_core_dump(pki: Path, tmp_path: Path) -> None:
    config, _ = pair_configs(pki)
    with serving(write(tmp_path / "a.yaml", config)) as process:
        limits = Path(f"/proc/{process.pid}/limits").read_text()
    assert "Max core file size        0                    0" in limits


def test_two_processes_share_keys_and_stop_on_sigterm(pki: Path, tmp_path: Path) -> None:
    a, b = pair_configs(pki)

    async def exchange() -> None:
        hubs = [
            etsi014.Hub("metro", driver_options(pki, sae, f"https://{config['listen']}"))
            for sae, config in (("sae-alice", a), ("sae-bob", b))
        ]
        try:
            alice = hubs[0].for_peer(etsi014.PeerOptions(peer_sae_id="sae-bob"))
            bob = hubs[1].for_peer(etsi014.PeerOptions(peer_sae_id="sae-alice"))
            for one, other in ((alice, bob), (bob, alice)):
                ref, key = await one.get_key(32)
                assert await other.get_key_by_id(ref) == key
        finally:
            for hub in hubs:
                await hub.close()

    with (
        serving(write(tmp_path / "a.yaml", a)) as first,
        serving(write(tmp_path / "b.yaml", b), "--log-format", "json") as second,
    ):
        run(exchange)
        for process, number in ((first, signal.SIGTERM), (second, signal.SIGINT)):
            process.send_signal(number)
            assert process.wait(timeout=30) == 0
        assert first.stderr is not None
        assert "event=kme.stopping" in first.stderr.read()


@pytest.mark.parametrize("place", ["listen", "partner"])
def test_a_port_that_is_taken(pki: Path, tmp_path: Path, place: str) -> None:
    config, _ = pair_configs(pki)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        if place == "listen":
            config["listen"] = address
        else:
            config["partner"]["listen"] = address
        code, lines = failure(write(tmp_path / "a.yaml", config))
    said = f"qtunnel: cannot listen on {address}: another program has this port; stop it, or change listen"
    assert (code, lines[-1]) == (1, said)
    assert len(lines) == 1


def test_an_address_that_is_not_ours(pki: Path, tmp_path: Path) -> None:
    config, _ = pair_configs(pki)
    config["listen"] = "192.0.2.1:8443"  # TEST-NET-1, on nobody's interface
    code, lines = failure(write(tmp_path / "a.yaml", config))
    assert code == 1
    assert lines == [
        "qtunnel: cannot listen on 192.0.2.1:8443: no interface of this machine has this address; change listen"
    ]


def test_a_missing_certificate_and_a_missing_file(pki: Path, tmp_path: Path) -> None:
    config, _ = pair_configs(pki)
    code, lines = failure(write(tmp_path / "a.yaml", {**config, "certificate": "nothing.pem"}))
    assert code == 2
    (line,) = lines
    assert "certificate: no such file" in line
    code, lines = failure(tmp_path / "nothing.yaml")
    assert code == 2
    assert len(lines) == 1
    assert "nothing.yaml" in lines[0]
