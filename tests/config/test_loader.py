"""A file that cannot be used: every finding at once, each in one line with its place."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field

from qtunnel.config import load_config
from qtunnel.config.document import MAX_NODES, MAX_SIZE, Problem, dotted
from qtunnel.config.loader import load
from qtunnel.config.types import ConfigPath, Duration, InputFile, Section
from qtunnel.errors import ConfigError
from tests.config.conftest import MINIMAL

Errors = Callable[[str | bytes], list[str]]

LINE = re.compile(r"[^:]+(:\d+:\d+)?: \S.*")


def test_a_minimal_file_has_the_defaults(write: Callable[[str], Path]) -> None:
    config = load_config(write(MINIMAL), environ={})
    assert [str(address) for address in config.node.listen] == ["0.0.0.0:51821", "[::]:51821"]
    assert config.node.state_dir == Path("/var/lib/qtunnel/alice")
    assert config.node.control_socket == Path("/run/qtunnel/alice.sock")
    assert (config.tunnel.mtu, config.tunnel.engine, config.log.format) == (1420, "qtunnel", "text")
    (peer,) = config.peers
    assert (peer.rekey.interval, peer.rekey.jitter, peer.qkd.max_age) == (120.0, 0.1, 600.0)
    assert (peer.qkd.policy, peer.qkd.on_expiry, peer.endpoint) == ("required", "block", None)


def test_a_keepalive_is_off_or_a_duration(write: Callable[[str], Path]) -> None:
    for text, expected in (("off", None), ("25s", 25.0)):
        path = write(MINIMAL.replace("public: bob.public", f"public: bob.public\n    persistent_keepalive: {text}"))
        assert load_config(path, environ={}).peers[0].persistent_keepalive == expected


def test_systemd_says_where_the_state_goes(write: Callable[[str], Path]) -> None:
    path = write(MINIMAL)
    assert load_config(path, environ={"STATE_DIRECTORY": "/s/one:/s/two"}).node.state_dir == Path("/s/one")
    path.write_text(MINIMAL.replace("name: alice", "name: alice\n  state_dir: here"))
    assert load_config(path, environ={"STATE_DIRECTORY": "/s/one"}).node.state_dir == path.parent / "here"


def test_settings_alone_need_no_files(write: Callable[[str], Path]) -> None:
    path = write(MINIMAL.replace("alice.identity", "nowhere"))
    assert load_config(path, check_files=False, environ={}).node.control_socket.name == "alice.sock"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "node.yaml: is empty"),
        (b"# nothing\n", "node.yaml: is empty"),
        (b"---\n", "node.yaml: is empty"),
        (b"- a\n", "node.yaml:1:1: must be a mapping"),
        (b"hello\n", "node.yaml:1:1: must be a mapping"),
        (b"a: [1\nb: 2\n", "node.yaml:2:2: not valid YAML"),
        (b"a:\n\tb: 1\n", "indent with spaces, not tabs"),
        (b"a: b: c\n", "node.yaml:1:5: not valid YAML"),
        (b"a: 1\n---\nb: 1\n", "remove the '---'"),
        (b"a: *x\n", "node.yaml:1:4: not valid YAML"),
        (b"a: 1\nb: \xff\n", "node.yaml:2:4: not UTF-8"),
        ("näme: ü\n".encode("utf-16"), "not UTF-8"),
        (b"a: 1\nb: x\x01\n", "node.yaml:2:5: a control character"),
        (b"a: '\n", "not valid YAML"),
        (b"[" * 5000, "nested more than"),
        (b"a: " + b"[" * 50 + b"]" * 50, "nested more than"),
        (b"\x00", "control character"),
    ],
)
def test_what_is_not_yaml_is_one_line_with_its_place(errors_of: Errors, text: bytes, expected: str) -> None:
    (line,) = errors_of(text)
    assert expected in line
    assert LINE.fullmatch(line)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_SIZE + 1))
    cases = {"none.yaml": "no such file", ".": "is a directory", "large.yaml": "larger than", "a\0b": "cannot be read"}
    for name, expected in cases.items():
        with pytest.raises(ConfigError, match=expected) as caught:
            load_config(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_aliases_work_and_cannot_fill_the_memory(write: Callable[[str], Path], errors_of: Errors) -> None:
    shared = MINIMAL.replace("{peer_sae_id: sae-bob}", "&bob {peer_sae_id: sae-bob}")
    assert load_config(write(shared), environ={}).peers[0].qkd.sources
    bomb = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 10)}]\n" for i in range(9))
    (line,) = errors_of(bomb)
    assert str(MAX_NODES) in line
    assert "stands for" in "\n".join(errors_of("a: &x {b: *x}\n"))


def test_a_key_given_twice_is_an_error_at_the_second(errors_of: Errors) -> None:
    text = MINIMAL.replace("  identity: alice.identity\n", "  identity: alice.identity\n  name: carol\n")
    assert errors_of(text) == ["node.yaml:4:3: node.name: is given twice (first on line 2); remove one of the two"]


def test_tags_are_refused(errors_of: Errors) -> None:
    (line,) = errors_of(MINIMAL.replace("name: alice", "name: !!python/object:os.system alice"))
    assert line.startswith("node.yaml:2:9: node.name: the tag python/object:os.system")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: alice", "nmae: alice", "2:3: node.nmae: unknown key 'nmae'; did you mean 'name'?"),
        ("name: alice", "name: al ice", "2:9: node.name: not a usable name"),
        ("name: alice", "name:", "2:7: node.name: has no value"),
        ("name: alice", "name: 5", "2:9: node.name: is '5'; must be text"),
        ("name: alice", "name: [a]", "2:9: node.name: is a list; must be text"),
        ("interface: qt0", "interface: " + "q" * 16, "5:14: tunnel.interface: has 16 characters"),
        ("interface: qt0", "interface: qt0\n  mtu: 1279", "6:8: tunnel.mtu: is '1279'; must be at least 1280"),
        ("interface: qt0", "interface: qt0\n  mtu: 65536", "6:8: tunnel.mtu: is '65536'; must be at most 65535"),
        ("interface: qt0", "interface: qt0\n  mtu: true", "6:8: tunnel.mtu: is 'true'; must be a whole number"),
        ("interface: qt0", "interface: qt0\n  engine: wiregard-go", "(did you mean wireguard-go?)"),
        ("interface: qt0", "interface: qt0\n  routes: on", "tunnel.routes: is 'on'; must be one of: auto, off"),
        ("driver: etsi014", "driver: etsi", "9:13: key_sources.metro.driver: no driver of that name; did you mean"),
        ("driver: etsi014", "driver: [a]", "9:13: key_sources.metro.driver: must be the name of a driver"),
        ("driver: etsi014", "timeout: 5s", "9:5: key_sources.metro.driver: is missing; installed drivers: "),
        ("sae_id: sae-alice", "said: x", "key_sources.metro.sae_id: is missing; for example sae_id: sae-alice"),
        ("url: https", "url: http", "10:10: key_sources.metro.url: is http"),
        ("{peer_sae_id: sae-bob}", "{peer_sae: sae-bob}", "unknown key 'peer_sae'; did you mean 'peer_sae_id'?"),
        (
            "metro: {peer",
            "metr: {peer",
            "21:9: peers[0].qkd.sources.metr: unknown key source 'metr'; did you mean",
        ),
        ("[10.77.0.2/32]", "[10.77.0.2/24]", "write 10.77.0.0/24 for the network or 10.77.0.2/32 for the one host"),
        ("[10.77.0.2/32]", "10.77.0.2/32", "18:18: peers[0].allowed_ips: is '10.77.0.2/32'; must be a list"),
        ("[10.77.0.2/32]", "[]", "18:18: peers[0].allowed_ips: needs at least 1 entry"),
        (
            "public: bob.public",
            "rekey: {interval: 2}",
            "17:23: peers[0].rekey.interval: a duration needs a unit",
        ),
        ("public: bob.public", "rekey: {interval: 999ms}", "peers[0].rekey.interval: is shorter than 1s"),
        ("public: bob.public", "endpoint: 192.0.2.1:5", "peers[0].endpoint: has a port"),
        (
            "public: bob.public",
            "kem: ml-kem-513",
            "peers[0].kem: is 'ml-kem-513'; must be one of: ml-kem-1024,",
        ),
        ("      sources:", "      policy: on\n      sources:", "must be one of: required, preferred, off"),
        ("      sources:", "      min_sources: 0\n      sources:", "min_sources: is '0'; must be at least 1"),
    ],
)
def test_one_mistake_gives_its_line_and_remedy(errors_of: Errors, old: str, new: str, expected: str) -> None:
    assert old in MINIMAL
    lines = errors_of(MINIMAL.replace(old, new))
    assert any(expected in line for line in lines), lines
    # Nothing that only follows from it; where a key was overwritten, that key is missing, too.
    assert len([line for line in lines if "for example" not in line or expected in line]) == (
        2 if "said:" in new else 1
    )


def test_all_mistakes_are_reported_at_once(errors_of: Errors) -> None:
    lines = errors_of("""\
nod: {}
node: {name: a b, identity: nowhere.identity, wireguard_port: 51821}
tunnel: {interface: qt0, addresses: [10.77.0.1/240, 10.0.0.1/24, 10.0.0.1/16], mtu: 100}
key_sources:
  metro: {driver: etsi014, url: "http://x", sae_id: a, ca: pki/none.pem, certificate: pki/ca.pem, private_key: ca.key}
peers:
  - name: bob
    public: nowhere.public
    allowed_ips: [10.77.0.3/32, junk]
    rekey: {interval: 120}
    qkd: {policy: required, sources: {metro: {peer_sae_id: b}}, min_sources: 2}
  - name: bob
    allowed_ips: [10.77.0.3/32]
    rekey: {interval: 1h}
    qkd: off
  - 5
""")
    assert [line.split(": ")[1] for line in lines] == [
        "nod",
        "node.listen[0]",
        "node.listen[1]",
        "node.name",
        "node.identity",
        "tunnel.addresses[0]",
        "tunnel.addresses[2]",
        "tunnel.mtu",
        "key_sources.metro.url",
        "key_sources.metro.ca",
        "key_sources.metro.private_key",
        "peers[0].public",
        "peers[0].allowed_ips[1]",
        "peers[0].rekey.interval",
        "peers[0].qkd.min_sources",
        "peers[1].public",
        "peers[1].name",
        "peers[1].allowed_ips[0]",
        "peers[1].qkd.max_age",
        "peers[2]",
    ]


def test_missing_sections_are_named_with_an_example(errors_of: Errors) -> None:
    lines = errors_of("log: {}\n")
    assert lines == [
        "node.yaml:1:1: node: is missing; for example node: {name: alice, identity: alice.identity}",
        "node.yaml:1:1: peers: is missing; for example peers: "
        "[{name: bob, public: bob.public, allowed_ips: [10.77.0.2/32]}]",
        "node.yaml:1:1: tunnel: is missing; for example tunnel: {interface: qt0, addresses: [10.77.0.1/24]}",
    ]


@pytest.mark.parametrize(
    "secret", ["c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0MTI=", "hunter2", "a/secret/with/slashes", "x" * 5000]
)
def test_a_secret_in_the_place_of_its_path_is_not_repeated(errors_of: Errors, secret: str) -> None:
    for key in ("pairing_secret", "pairing_secret_typo", "password"):
        (line,) = errors_of(MINIMAL.replace("public: bob.public", f"public: bob.public\n    {key}: {secret}"))
        assert secret not in line
        assert secret[:12] not in line or len(secret) < 12
    (line,) = errors_of(MINIMAL.replace("pki/sae-alice.key", f"[{secret}]"))
    assert secret not in line


@pytest.mark.parametrize("digits", ["9" * 6000, "0x" + "f" * 6000, ".inf", "1e400"])
def test_a_monstrous_number_is_only_a_wrong_value(errors_of: Errors, digits: str) -> None:
    (line,) = errors_of(MINIMAL.replace("interface: qt0", f"interface: qt0\n  mtu: {digits}"))
    assert "tunnel.mtu" in line
    assert "whole number" in line


def test_what_is_quoted_is_short_and_harmless(errors_of: Errors) -> None:
    (line,) = errors_of(MINIMAL.replace("interface: qt0", f'interface: qt0\n  engine: "a\\e[2J{"b" * 500}"'))
    assert line.isprintable()
    assert len(line) < 300


class Plain(Section):
    path: Path | None = None
    file: InputFile | None = None
    wait: Duration = 1.0
    here: ConfigPath = Path("state")
    many: list[Path] = Field(default_factory=list)
    by_name: dict[str, Path] = Field(default_factory=dict)
    number: int | str | None = None


def test_the_loader_serves_any_model(tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text("path: a\nfile: plain.yaml\nwait: 5m\nmany: [a, /b]\nby_name: {x: y}\nnumber: 0600\n")
    assert load(path, Plain) == Plain(
        path=tmp_path / "a",
        file=tmp_path / "plain.yaml",
        wait="5m",
        here=tmp_path / "state",
        many=[tmp_path / "a", Path("/b")],
        by_name={"x": tmp_path / "y"},
        number=600,
    )
    path.write_text("number: [1]\n")
    with pytest.raises(ConfigError, match=r"1:9: number: is a list; must be a whole number, or must be text"):
        load(path, Plain)


def test_a_check_is_dropped_where_what_it_reads_is_faulty(tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"

    def check(model: Plain) -> list[Problem]:
        return [Problem(("here",), "reads wait", (("wait",),)), Problem(("here",), "reads nothing")]

    path.write_text("wait: 5\n")
    with pytest.raises(ConfigError) as caught:
        load(path, Plain, checks=[check])
    assert "here: reads nothing" in str(caught.value)
    assert "reads wait" not in str(caught.value)


def test_a_relative_file_name_is_enough(write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(MINIMAL)
    monkeypatch.chdir(path.parent)
    assert load_config("node.yaml", environ={}).node.identity == path.parent / "alice.identity"


def test_a_place_is_written_as_users_read_it() -> None:
    assert dotted(("peers", 0, "qkd", "max_age")) == "peers[0].qkd.max_age"


JUNK = ["", "x\n", "- \n", "  a: 1\n", "[\n", "name: {}\n", "  - name: [1]\n", "? a\n", "\u0085\n", "5\n"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_mangled_file_gives_lines_and_never_a_traceback(site: Path, data: st.DataObject) -> None:
    lines = MINIMAL.splitlines(keepends=True)
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, len(lines) - 1))
        lines[index] = data.draw(
            st.sampled_from(JUNK) | st.just(lines[index] * 2) | st.just(lines[index].split(":")[0] + ": null\n")
        )
    path = site / "mangled.yaml"
    path.write_text("".join(lines))
    try:
        load_config(path, environ={})
    except ConfigError as error:
        for line in str(error).splitlines():
            assert line.startswith(os.fspath(path))
            assert LINE.fullmatch(line), line
