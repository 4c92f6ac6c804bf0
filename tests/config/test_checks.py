"""What no single field can tell."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from qtunnel.cli.check import check
from qtunnel.config import load_config, warnings
from qtunnel.config.model import Config
from qtunnel.errors import ConfigError
from qtunnel.identity import PublicIdentity
from qtunnel.terms import ChainPolicy, Policy, QkdPolicy
from tests.config.conftest import MINIMAL, identity, write_secret

Errors = Callable[[str | bytes], list[str]]
OFF = MINIMAL[: MINIMAL.index("key_sources:")] + MINIMAL[MINIMAL.index("peers:") : MINIMAL.index("    qkd:")]


def qkd(text: str) -> str:
    """The minimal file with this in the place of its ``qkd``."""
    return MINIMAL[: MINIMAL.index("    qkd:")] + "    " + text + "\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OFF, ["8:5: peers[0].qkd.sources"]),
        (qkd("qkd: {policy: preferred}"), ["peers[0].qkd.sources: policy is preferred, which needs a key source"]),
        (
            qkd("qkd: {policy: off, sources: {metro: {peer_sae_id: b}}}"),
            ["policy is off, so these would never be"],
        ),
        (qkd("qkd: {sources: {metro: {peer_sae_id: b}}, min_sources: 2}"), ["is 2, but there are 1 sources"]),
        (
            qkd("qkd: {sources: {metro: {peer_sae_id: b}}, max_age: 131s}"),
            ["19:56: peers[0].qkd.max_age: is 131s, but a rekey may come only after 132s"],
        ),
        (qkd("rekey: {jitter: 51%}\n    qkd: off"), ["peers[0].rekey.jitter: is more than 50%"]),
        (
            MINIMAL.replace("    sae_id: sae-alice\n", "    sae_id: sae-alice\n    check_hostname: false\n"),
            ["9:5: key_sources.metro: check_hostname: false needs kme_id"],
        ),
        (
            MINIMAL.replace("tunnel:\n", "tunnel:\n  engine: wireguard-go\n  record_mode: aes-256-gcm\n"),
            ["tunnel.record_mode: needs engine: qtunnel"],
        ),
        (
            MINIMAL.replace("tunnel:\n", "tunnel:\n  engine: wireguard-go\n  processes: 2\n"),
            ["tunnel.processes: needs engine: qtunnel"],
        ),
        (MINIMAL.replace("name: bob", "name: alice"), ["peers[0].name: is this node's own name"]),
        (MINIMAL.replace("bob.public", "alice.public"), ["17:13: peers[0].public: is this node's own public file"]),
        (MINIMAL.replace("bob.public", "bob.identity"), ["this is a secret identity file, not a public one"]),
        (MINIMAL.replace("alice.identity", "alice.public"), ["node.identity: "]),
        (
            MINIMAL.replace("[10.77.0.2/32]", "[10.77.0.2/32, 10.77.0.2]"),
            ["18:33: peers[0].allowed_ips[1]: this peer has this network already"],
        ),
        (
            MINIMAL.replace("  identity", "  wireguard_port: 51821\n  identity"),
            ["node.listen[0]: port 51821 is also node.wireguard_port", "node.listen[1]: port 51821"],
        ),
        (
            MINIMAL.replace("  identity", '  listen: ["0.0.0.0:5", "0.0.0.0:5"]\n  identity'),
            ["3:25: node.listen[1]: stands in the list twice"],
        ),
        (
            MINIMAL.replace("  identity", f"  control_socket: /{'x' * 107}\n  identity"),
            ["3:19: node.control_socket: the path has 108 bytes"],
        ),
    ],
)
def test_a_contradiction_is_named(errors_of: Errors, text: str, expected: list[str]) -> None:
    lines = errors_of(text)
    assert len(lines) == len(expected), lines
    for line, part in zip(lines, expected, strict=True):
        assert part in line


def test_a_public_file_with_an_unusable_key_is_named(site: Path, errors_of: Errors) -> None:
    lines = (site / "bob.public").read_text().splitlines()
    (number,) = [index for index, line in enumerate(lines) if line.startswith("ml-kem-1024: ")]
    lines[number] = f"ml-kem-1024: {base64.b64encode(bytes([255]) * 1568).decode()}"
    (site / "bob.public").write_text("\n".join(lines))
    (line,) = errors_of(MINIMAL)
    assert f"bob.public:{number + 1}: ml-kem-1024 is not a usable public key" in line


def test_qkd_is_given_up_only_where_the_file_says_so(errors_of: Errors, write: Callable[[str], Path]) -> None:
    (line,) = errors_of(OFF)
    assert "peers[0].qkd.sources: policy is required" in line
    assert "set policy: off" in line
    config = load_config(write(OFF + "    qkd: off\n"), environ={})
    assert config.peers[0].qkd.policy == "off"
    assert any("post-quantum only" in line for line in warnings(config))


def test_peers_must_differ(errors_of: Errors, write: Callable[[str], Path]) -> None:
    second = MINIMAL[MINIMAL.index("  - name: bob") :]
    lines = errors_of(MINIMAL + second)
    assert [line.split(": ")[1] for line in lines] == ["peers[1].name", "peers[1].public", "peers[1].allowed_ips[0]"]
    other = second.replace("bob\n", "hub\n").replace("bob.public", "hub.public")
    assert len(errors_of(MINIMAL + other)) == 1
    # A wider network is the longest prefix rule's business.
    assert load_config(write(MINIMAL + other.replace("10.77.0.2/32", "10.77.0.0/24")), environ={}).peer("hub")


MORE = "  - {name: hub, public: hub.public, allowed_ips: [10.77.0.3/32], qkd: off}\n"


def of_bob(site: Path, name: str) -> None:
    """A public file with the WireGuard key of bob's: whoever has bob's secret key can make one."""
    its = identity(name).public
    (site / f"{name}.public").write_text(
        PublicIdentity(identity("bob").public.wireguard, its.x25519, its.kem).to_text()
    )


def test_two_identities_with_one_wireguard_key_are_told(site: Path, errors_of: Errors) -> None:
    of_bob(site, "hub")
    (line,) = errors_of(MINIMAL + MORE)
    assert "peers[1].public: has the same WireGuard key as bob; every peer needs its own" in line


def test_a_peer_with_this_nodes_own_wireguard_key_is_told(site: Path, errors_of: Errors) -> None:
    its = identity("hub").public
    forged = PublicIdentity(identity("alice").public.wireguard, its.x25519, its.kem)
    (site / "hub.public").write_text(forged.to_text())
    (line,) = errors_of(MINIMAL + MORE)
    assert "peers[1].public: has this node's own WireGuard key" in line


def test_a_plain_peer_with_the_key_in_a_public_file_is_told(site: Path, errors_of: Errors) -> None:
    of_bob(site, "hub")
    key = base64.b64encode(identity("bob").public.wireguard).decode()
    plain = (
        f"plain_peers:\n  - {{name: phone, protection: wireguard-only, public_key: {key}, "
        "allowed_ips: [10.77.0.9/32]}\n"
    )
    lines = errors_of(MINIMAL.replace("bob.public", "hub.public") + plain)
    assert len(lines) == 1
    assert "plain_peers[0].public_key: is the WireGuard key of bob" in lines[0]


@pytest.mark.parametrize(
    ("rekey", "max_age", "late"),
    [
        ("{}", "142s", True), ("{}", "143s", False), ("{jitter: 0%}", "131s", False), ("{interval: 5s}", "15s", True),
        ("{interval: 5s, jitter: 0%}", "16s", False),
    ],
)  # fmt: skip
def test_a_max_age_without_time_for_a_retry_is_a_warning(
    write: Callable[[str], Path], rekey: str, max_age: str, late: bool
) -> None:
    text = qkd(f"rekey: {rekey}\n    qkd: {{sources: {{metro: {{peer_sae_id: b}}}}, max_age: {max_age}}}")
    found = [line for line in warnings(load_config(write(text), environ={})) if "max_age" in line]
    assert any("may block traffic although nothing is wrong" in line for line in found) is late
    assert len(found) <= 1, "one word of it is enough"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_an_open_secret_file_is_an_error_with_its_remedy(site: Path, errors_of: Errors, mode: int) -> None:
    for name in ("alice.identity", "pki/sae-alice.key"):
        (site / name).chmod(mode)
        (line,) = errors_of(MINIMAL)
        assert f"run: chmod 600 {site / name}" in line
        (site / name).chmod(0o600)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (base64.b64encode(bytes(31)).decode(), "holds 31 bytes instead of 32"),
        (base64.b64encode(bytes(33)).decode(), "holds 33 bytes instead of 32"),
        ("not base64!", "is not one line of base64; make one with"),
        ("", "holds 0 bytes"),
    ],
)
def test_a_pairing_secret_has_its_size(site: Path, errors_of: Errors, content: str, expected: str) -> None:
    write_secret(site / "p", content)
    (line,) = errors_of(MINIMAL.replace("public: bob.public", "public: bob.public\n    pairing_secret: p"))
    assert expected in line
    assert not content or content not in line


def test_a_good_pairing_secret_is_taken(write: Callable[[str], Path]) -> None:
    path = write(MINIMAL.replace("public: bob.public", "public: bob.public\n    pairing_secret: ministry.pairing"))
    assert load_config(path, environ={}).peers[0].pairing_secret == path.parent / "ministry.pairing"


def test_missing_files_say_how_to_get_them(site: Path, errors_of: Errors) -> None:
    for name, remedy in {
        "alice.identity": "qtunnel identity new FILE",
        "bob.public": "qtunnel identity show FILE",
        "pki/ca.pem": f"{site / 'pki/ca.pem'} (relative paths start at {site})",
    }.items():
        content = (site / name).read_bytes()
        (site / name).unlink()
        (line,) = errors_of(MINIMAL)
        assert "no such file" in line
        assert remedy in line
        write_secret(site / name, content.decode())


def test_a_directory_or_a_pipe_is_no_file(site: Path, errors_of: Errors) -> None:
    (site / "d").mkdir()
    os.mkfifo(site / "f", 0o600)
    for name in ("d", "f"):
        (line,) = errors_of(MINIMAL.replace("pki/ca.pem", name))
        assert "not a regular file" in line
        (line,) = errors_of(MINIMAL.replace("pki/sae-alice.key", name))
        assert "not a regular file" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (qkd("qkd: {sources: {metro: {peer_sae_id: b}}, on_expiry: pqc-only}"), "pqc-only lets traffic go on"),
        (qkd("qkd: off"), "key source metro: no peer uses it"),
        (MINIMAL.replace("10.77.0.2/32", "10.77.0.1/32"), "this gateway's own tunnel address"),
        (qkd("qkd: {sources: {metro: {peer_sae_id: b}}, max_age: 3m}"), "no time for a second try"),
    ],
)
def test_what_may_surprise_is_a_warning(write: Callable[[str], Path], text: str, expected: str) -> None:
    assert any(expected in line for line in warnings(load_config(write(text), environ={})))


@pytest.mark.parametrize(
    ("endpoint", "allowed", "expected"),
    [
        ("gw.example", "0.0.0.0/0", "all IPv4"),
        ("gw.example", "10.77.0.2/32, 0.0.0.0/1, 128.0.0.0/1, '::/0'", "all IPv4 and IPv6"),
        ("gw.example", "'::/0'", "all IPv6"),
        ("gw.example", "10.0.0.0/8, 0.0.0.0/1", ""),
        ("192.0.2.7", "0.0.0.0/0", ""),
        ("2001:db8::7", "'::/0'", ""),
    ],
)
def test_a_name_that_is_looked_up_through_the_tunnel_it_is_for_is_a_warning(
    write: Callable[[str], Path], endpoint: str, allowed: str, expected: str
) -> None:
    text = MINIMAL.replace("[10.77.0.2/32]", f"[{allowed}]\n    endpoint: '{endpoint}'")
    found = [line for line in warnings(load_config(write(text), environ={})) if "is a name" in line]
    assert [expected in line for line in found] == [True] * bool(expected)


def test_the_policy_in_the_handshakes_terms(write: Callable[[str], Path]) -> None:
    text = qkd("qkd: {policy: preferred, chain: required, sources: {metro: {peer_sae_id: b}}}")
    config: Config = load_config(write(text))
    assert config.peer("bob").policy == Policy(QkdPolicy.PREFERRED, 1, ChainPolicy.REQUIRED)


def test_check_prints_every_error_and_exits_with_2(write: Callable[[str], Path]) -> None:
    path = write(MINIMAL.replace("name: alice", "name: a b").replace("qt0", "a/b"))
    result = CliRunner().invoke(check, [str(path)])
    assert result.exit_code == 2
    assert "node.name" in result.stderr
    assert "tunnel.interface" in result.stderr
    assert "key_sources.metro.ca" in result.stderr
    assert "3 errors" in result.stderr
    assert result.stdout == ""


def test_check_opens_the_key_sources(write: Callable[[str], Path]) -> None:
    result = CliRunner().invoke(check, [str(write(MINIMAL))])
    assert result.exit_code == 2
    assert ":12:9: key_sources.metro.ca: " in result.stderr
    assert "ca.pem" in result.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [("", (0.11, None)), ("qber_limit: 6.5%", (0.065, None)), ("quarantine: 30m", (0.11, 1800.0)),
     ("quarantine: operator", (0.11, None))],
)  # fmt: skip
def test_every_source_has_rules_for_its_keys(
    write: Callable[[str], Path], line: str, expected: tuple[float, float | None]
) -> None:
    text = MINIMAL.replace("driver: etsi014", f"driver: etsi014\n    {line}")
    limits = load_config(write(text), check_files=False).key_sources["metro"].rules.limits
    assert (limits.qber, limits.quarantine) == expected


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("qber_limit: 20%", "key_sources.metro.qber_limit: must be above 0% and at most 11%"),
        ("qber_limit: 0%", "key_sources.metro.qber_limit: must be above 0%"),
        ("qber_limit: 0.05", "key_sources.metro.qber_limit: a percentage needs its sign"),
        ("quarantine: never", "key_sources.metro.quarantine: not a duration"),
        ("quarantine: 10ms", "key_sources.metro.quarantine: no alarm is over that fast"),
        ("quarantin: 1h", "did you mean 'quarantine'?"),
        ("qber_limi: 5%", "did you mean 'qber_limit'?"),
    ],
)
def test_rules_that_cannot_be_used(write: Callable[[str], Path], line: str, said: str) -> None:
    text = MINIMAL.replace("driver: etsi014", f"driver: etsi014\n    {line}")
    with pytest.raises(ConfigError) as failure:
        load_config(write(text), check_files=False)
    assert said in str(failure.value)


@pytest.mark.parametrize(("mix", "said"), [(1, "is 1, but min_sources is 2"), (0, "mix")])
def test_a_mix_of_fewer_sources_than_have_to_contribute(write: Callable[[str], Path], mix: int, said: str) -> None:
    sources = "{metro: {peer_sae_id: b}}"
    text = qkd(f"qkd: {{sources: {sources}, min_sources: 2, mix: {mix}}}")
    with pytest.raises(ConfigError) as failure:
        load_config(write(text), check_files=False)
    assert said in str(failure.value)
