"""``qtunnel doctor`` against real faults of a host, each with what to do about it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from qtunnel.cli.doctor import doctor
from qtunnel.config import load_config
from qtunnel.crypto.kem import Kem
from qtunnel.doctor import file_checks, kernel_checks
from qtunnel.doctor.model import Finding, Host, Verdict
from qtunnel.doctor.table import CHECKS
from qtunnel.errors import KemUnavailableError
from qtunnel.identity import Identity
from qtunnel.kme.pki import Authority, create_pki
from tests.support.kme import free_ports, kme_pair, make_pki, run, write_pair
from tests.support.netns import two_hosts


class Gateway:
    """A directory with a good configuration; ``config`` is what is written of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        Identity.create(os.urandom).save(directory / "alice.identity")
        (directory / "bob.public").write_text(Identity.create(os.urandom).public.to_text())
        make_pki(directory / "pki")
        with free_ports(3) as (wireguard, handshake, self.closed):
            pass
        self.wireguard, self.handshake = wireguard, handshake
        self.config: dict[str, Any] = {
            "node": {
                "name": "alice", "identity": "alice.identity", "state_dir": "state", "control_socket": "alice.sock",
                "wireguard_port": wireguard, "listen": [f"127.0.0.1:{handshake}"],
            },
            "tunnel": {"interface": "qtdoctor", "addresses": ["10.77.0.1/24"]},
            "key_sources": {"metro": {
                "driver": "etsi014", "url": f"https://127.0.0.1:{self.closed}", "sae_id": "sae-alice",
                "ca": "pki/ca.pem", "certificate": "pki/sae-alice.pem", "private_key": "pki/sae-alice.key",
            }},
            "peers": [{
                "name": "bob", "public": "bob.public", "endpoint": "127.0.0.1", "handshake_port": handshake,
                "allowed_ips": ["10.77.0.2/32"], "qkd": {"sources": {"metro": {"peer_sae_id": "sae-bob"}}},
            }],
        }  # fmt: skip

    @property
    def file(self) -> Path:
        path = self.directory / "alice.yaml"
        path.write_text(json.dumps(self.config))
        return path

    async def found(self, check: str, *, running: bool = False, now: datetime | None = None) -> list[Finding]:
        """What one check finds; the files themselves need not be good."""
        moment = now or datetime.now(UTC)
        host = Host(load_config(self.file, check_files=False), running, lambda: moment)
        (one,) = [its for its in CHECKS if its.id == check]
        return [finding async for finding in one.look(host)]

    def finds(self, check: str, **given: Any) -> list[Finding]:
        return asyncio.run(self.found(check, **given))

    def finding(self, check: str, **given: Any) -> Finding:
        """The one that is not good, or the first."""
        found = self.finds(check, **given)
        return next((its for its in found if its.verdict is not Verdict.GOOD), found[0])


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


def test_a_secret_file_that_others_may_read_or_replace(gateway: Gateway) -> None:
    assert {its.verdict for its in gateway.finds("secrets")} == {Verdict.GOOD}
    key = gateway.directory / "pki" / "sae-alice.key"
    key.chmod(0o644)
    finding = gateway.finding("secrets")
    assert (finding.verdict, finding.subject, finding.remedy) == (Verdict.WRONG, str(key), f"run: chmod 600 {key}")
    key.chmod(0o600)
    key.parent.chmod(0o777)
    finding = gateway.finding("secrets")
    assert (finding.verdict, finding.remedy) == (Verdict.WRONG, f"chmod go-w {key.parent}")
    key.parent.chmod(0o1777)  # there nobody may remove what is another's
    assert gateway.finding("secrets").verdict is Verdict.GOOD
    key.unlink()
    assert gateway.finding("secrets").seen == "no such file"


@pytest.mark.parametrize(
    ("left", "verdict", "words"),
    [
        (timedelta(days=-1), Verdict.WRONG, "expired on"),
        (timedelta(days=10), Verdict.DOUBTFUL, "expires on"),
        (timedelta(days=100), Verdict.GOOD, "valid until"),
    ],
)
def test_a_certificate_that_expires(gateway: Gateway, left: timedelta, verdict: Verdict, words: str) -> None:
    pki = gateway.directory / "pki"
    write_pair(pki, "sae-alice", Authority.load(pki), lifetime=left)
    found = {finding.subject: finding for finding in gateway.finds("certificates")}
    finding = found[str(pki / "sae-alice.pem")]
    assert finding.verdict is verdict
    assert finding.seen.startswith(words)
    assert ("without a restart" in finding.remedy) is (verdict is not Verdict.GOOD)
    assert found[str(pki / "ca.pem")].verdict is Verdict.GOOD


def test_a_certificate_of_tomorrow(gateway: Gateway) -> None:
    finding = gateway.finding("certificates", now=datetime.now(UTC) - timedelta(days=2))
    assert (finding.verdict, "clock" in finding.remedy) == (Verdict.WRONG, True)


@pytest.mark.parametrize("which", ["WireGuard", "handshake"])
def test_a_port_that_is_taken(gateway: Gateway, which: str) -> None:
    assert {its.verdict for its in gateway.finds("ports")} == {Verdict.GOOD}
    port = gateway.wireguard if which == "WireGuard" else gateway.handshake
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", port))
        finding = gateway.finding("ports")
        assert (finding.verdict, which in finding.subject) == (Verdict.WRONG, True)
        assert "another" in finding.remedy
        assert gateway.finding("ports", running=True).verdict is Verdict.GOOD, "the daemon's own"


def test_a_kme_that_is_closed_and_one_that_serves(gateway: Gateway) -> None:
    finding = gateway.finding("sources")
    assert (finding.verdict, finding.subject) == (Verdict.WRONG, "metro, towards bob")
    assert "refused" in finding.seen
    assert "is the KME up" in finding.remedy

    async def served() -> tuple[list[Finding], list[Finding], int, int]:
        async with kme_pair(gateway.directory / "pki") as pair:
            source = gateway.config["key_sources"]["metro"]
            source["url"] = f"https://{pair.a.listen}"
            asked = pair.source("sae-alice", "sae-bob")
            before = (await asked.status()).stored_keys
            good = await gateway.found("sources")
            after = (await asked.status()).stored_keys
            source |= {"certificate": "pki/sae-stranger.pem", "private_key": "pki/sae-stranger.key"}
            unknown = await gateway.found("sources")
            return good, unknown, before or 0, after or 0

    good, unknown, before, after = run(served)
    assert [its.verdict for its in good] == [Verdict.GOOD]
    assert after >= before, "no key was taken"
    assert unknown[0].verdict is Verdict.WRONG
    assert unknown[0].remedy


def test_certificates_of_two_authorities(gateway: Gateway) -> None:
    async def served() -> list[Finding]:
        async with kme_pair(gateway.directory / "pki") as pair:
            create_pki(gateway.directory / "other", now=datetime.now(UTC))
            gateway.config["key_sources"]["metro"] |= {"url": f"https://{pair.a.listen}", "ca": "other/ca.pem"}
            return await gateway.found("sources")

    (finding,) = run(served)
    assert (finding.verdict, "certificates" in finding.remedy) == (Verdict.WRONG, True)


def test_a_source_whose_status_would_change_something_is_left_alone(gateway: Gateway) -> None:
    config = load_config(gateway.file, check_files=False)
    source = config.key_sources["metro"].model_copy(update={"driver": "etsi004"})
    host = Host(config.model_copy(update={"key_sources": {"metro": source}}), False, lambda: datetime.now(UTC))
    (check,) = [its for its in CHECKS if its.id == "sources"]

    async def look() -> list[Finding]:
        return [finding async for finding in check.look(host)]

    (finding,) = run(look)
    assert (finding.verdict, "etsi004" in finding.seen) == (Verdict.OPEN, True)


def test_a_peer_that_refuses_and_one_whose_name_nobody_knows(gateway: Gateway) -> None:
    finding = gateway.finding("peers")
    assert (finding.verdict, "refused" in finding.seen) == (Verdict.DOUBTFUL, True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.bind(("127.0.0.1", gateway.handshake))
        assert gateway.finding("peers").verdict is Verdict.GOOD
    gateway.config["peers"][0]["endpoint"] = "no-such-host.invalid"
    finding = gateway.finding("peers")
    assert (finding.verdict, "no-such-host.invalid is not found" in finding.seen) == (Verdict.WRONG, True)
    del gateway.config["peers"][0]["endpoint"]
    assert gateway.finding("peers").verdict is Verdict.OPEN


@pytest.mark.root
def test_a_way_that_does_not_carry_a_full_packet(gateway: Gateway) -> None:
    """And a peer to which there is no way."""
    gateway.config["peers"][0]["endpoint"] = "10.99.0.2"
    with two_hosts() as (here, _):

        def look() -> dict[str, dict[str, Any]]:
            command = (sys.executable, "-m", "qtunnel", "doctor", "--json", str(gateway.file))
            checks = json.loads(here.run(*command, check=False).stdout)["checks"]
            return {check["id"]: check for check in checks}

        assert look()["mtu"]["verdict"] == "good"
        here.ip("link", "set", "eth0", "mtu", "1400")
        seen = look()["mtu"]
        assert (seen["verdict"], seen["remedy"]) == ("wrong", "tunnel.mtu: 1340, at both ends")
        here.ip("addr", "flush", "dev", "eth0")
        assert "unreachable" in look()["peers"]["seen"]


@pytest.mark.parametrize(("year", "verdict"), [(1970, Verdict.WRONG), (2026, None)])
def test_a_clock_of_another_time(gateway: Gateway, year: int, verdict: Verdict | None) -> None:
    finding = gateway.finding("clock", now=datetime(year, 6, 1, tzinfo=UTC))
    assert finding.verdict is verdict or (verdict is None and finding.verdict is not Verdict.WRONG)


def test_swap_is_named_where_memory_may_not_be_locked(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swaps = tmp_path / "swaps"
    swaps.write_text("Filename Type Size Used Priority\n/dev/sdz9 partition 1 0 -2\n")
    monkeypatch.setattr(kernel_checks, "SWAPS", swaps)
    assert "/dev/sdz9" in gateway.finding("swap").seen
    monkeypatch.setattr(kernel_checks, "has_capability", lambda capability: False)
    assert gateway.finding("swap").verdict is Verdict.DOUBTFUL
    swaps.write_text("Filename Type Size Used Priority\n")
    assert gateway.finding("swap").verdict is Verdict.GOOD


def test_kems_that_only_a_library_has(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gateway.finding("kems").verdict is Verdict.GOOD
    config = load_config(gateway.file, check_files=False)
    peer = config.peers[0].model_copy(update={"kem": ("ml-kem-1024", "frodokem-976-shake")})
    host = Host(config.model_copy(update={"peers": (peer,)}), False, lambda: datetime.now(UTC))
    (check,) = [its for its in CHECKS if its.id == "kems"]

    def missing(name: str) -> Kem:
        raise KemUnavailableError(f"{name}: liboqs is not installed")

    async def look() -> list[Finding]:
        return [finding async for finding in check.look(host)]

    monkeypatch.setattr(file_checks, "find_kem", missing)
    (finding,) = run(look)
    assert (finding.verdict, finding.subject) == (Verdict.WRONG, "frodokem-976-shake")


def test_a_state_directory_without_room(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gateway.finding("directories").verdict is Verdict.GOOD
    monkeypatch.setattr("qtunnel.doctor.file_checks.LEAST_FREE", 1 << 60)
    assert gateway.finding("directories").verdict is Verdict.WRONG


def answer(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(doctor, list(arguments))
    return done.exit_code, done.output


def test_the_whole_of_it_for_people_and_for_programs(gateway: Gateway) -> None:
    code, text = answer(str(gateway.file))
    assert code == 1
    assert f"wrong     {'key sources':24}metro, towards bob: " in text
    assert "\n" + " " * 34 + "-> is the KME up" in text
    code, text = answer("--json", str(gateway.file))
    told = json.loads(text)
    assert (code, told["version"], told["well"], told["config"]) == (1, 1, False, str(gateway.file))
    assert {check["id"] for check in told["checks"]} >= {check.id for check in CHECKS}
    assert {check["id"] for check in told["checks"] if check["verdict"] == "wrong"} == {"sources"}
    gateway.config["peers"][0]["qkd"] = "off"
    code, text = answer("--json", str(gateway.file))
    assert (code, json.loads(text)["well"]) == (0, True)


def test_a_configuration_that_is_wrong_is_told_line_by_line(gateway: Gateway) -> None:
    del gateway.config["node"]["identity"]
    gateway.config["tunnel"]["mtu"] = 3
    code, text = answer("--json", str(gateway.file))
    found = [check["seen"] for check in json.loads(text)["checks"] if check["verdict"] == "wrong"]
    assert code == 1
    assert len(found) == 2
    assert any("node.identity" in seen for seen in found)
    assert not [check for check in json.loads(text)["checks"] if check["id"] == "ports"]


def test_only_a_file_that_is_not_fit_keeps_nothing_else_from_being_looked_at(gateway: Gateway) -> None:
    (gateway.directory / "alice.identity").chmod(0o640)
    code, text = answer("--json", str(gateway.file))
    wrong = {check["id"] for check in json.loads(text)["checks"] if check["verdict"] == "wrong"}
    assert code == 1
    assert wrong == {"config", "secrets", "sources"}


def test_without_a_configuration_the_host_alone_is_looked_at() -> None:
    _, text = answer("--json")
    told = json.loads(text)
    assert told["config"] is None
    assert {check["id"] for check in told["checks"]} == {check.id for check in CHECKS if not check.config}


def test_nothing_is_changed_by_it(gateway: Gateway) -> None:
    def content() -> Iterator[tuple[str, int, int]]:
        for path in sorted(gateway.directory.rglob("*")):
            its = path.stat()
            yield str(path), stat.S_IMODE(its.st_mode), its.st_mtime_ns

    gateway.file.exists()
    before, links = list(content()), socket.if_nameindex()
    answer(str(gateway.directory / "alice.yaml"))
    assert (list(content()), socket.if_nameindex()) == (before, links)
