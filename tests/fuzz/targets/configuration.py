"""Configuration: YAML of gateways, KMEs, networks, plans and scenarios; durations, amounts, addresses and URLs in
it; commands."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from qtunnel.config import load_config, warnings
from qtunnel.config.amounts import parse_bytes, parse_count
from qtunnel.config.document import parse
from qtunnel.config.types import format_duration, parse_duration, parse_percentage, parse_socket_address
from qtunnel.config.urls import parse_https_url, parse_mqtt_url
from qtunnel.errors import ConfigError, NetworkError
from qtunnel.kme.config import load_config as load_kme
from qtunnel.scenario.gallery import load_scenario
from qtunnel.simulator.commands import perform
from qtunnel.simulator.plan_file import load_tunnels
from qtunnel.simulator.topology_file import load_topology
from tests.fuzz.draw import Draw, dumps, edited, spoiled
from tests.fuzz.places import SecretFile
from tests.fuzz.target import Target, say

SOURCE = {"driver": "etsi014", "url": "https://127.0.0.1:8443", "sae_id": "sae-a", "ca": "ca.pem",
    "certificate": "a.pem",
          "private_key": "a.key", "qber_limit": "11%", "quarantine": "operator"}  # fmt: skip
GATEWAY: dict[str, Any] = {
    "node": {"name": "alice", "identity": "alice.identity", "listen": ["0.0.0.0:51821", "[::]:51821"],
    "state_dir": "state"},
    "log": {"format": "text", "level": "info"},
    "tunnel": {"interface": "qt0", "addresses": ["10.77.0.1/24", "fd77::1/64"], "mtu": 1420, "engine": "qtunnel",
    "routes": "auto"},
    "key_sources": {"metro": SOURCE},
    "peers": [{
        "name": "bob", "public": "bob.public", "endpoint": "10.99.0.2", "allowed_ips": ["10.77.0.2/32", "fd77::2/128"],
        "rekey": {"interval": "120s", "jitter": "10%", "bytes": "10GB"}, "kem": ["ml-kem-1024"],
        "qkd": {"policy": "required", "max_age": "10min", "sources": {"metro": {"peer_sae_id": "sae-b"}}},
    }],
}  # fmt: skip
KME = {
    "kme_id": "kme-a", "listen": "127.0.0.1:8443", "certificate": "a.pem", "private_key": "a.key", "ca": "ca.pem",
    "partner": {"kme_id": "kme-b", "listen": "127.0.0.1:8444", "url": "https://10.99.0.2:8444"},
    "saes": [{"sae_id": "sae-a", "kme": "local"}], "key": {"size": 256, "rate": "unlimited", "ttl": "1h"},
}  # fmt: skip
NETWORK = {
    "network": "metro", "hardware": {"weak": {"clock": "5 MHz", "efficiency": "10%", "dark": 1e-5,
    "misalignment": "2%"}},
    "nodes": {"alice": {"listen": "127.0.0.1:8443", "saes": ["sae-a"], "at": [0, 0]},
    "bob": {"listen": "127.0.0.1:8445", "saes": ["sae-b"]}},
    "links": {"alice-bob": {"between": ["alice", "bob"], "hardware": "weak", "fibre": {"length": "10 km"},
    "initial": "20 kbit"},
              "sky": {"between": ["alice", "bob"], "free_space": {"distance": "1 km",
              "fading": {"deviation": "2 dB"}}}},
    "pairs": [{"between": ["alice", "bob"], "disjoint": 1}],
}  # fmt: skip
TUNNELS = {"tunnels": [{"name": "office", "between": ["alice", "bob"], "interval": "60s", "size": 256}]}
SCENARIO = {
    "title": "two nodes", "seconds": "26s", "sites": {"here": {"sae": "sae-a"}, "there": {"sae": "sae-b"}},
    "tunnels": {"line": {"between": ["here", "there"], "rekey": {"interval": "1s"}, "qkd": {"policy": "required",
    "max_age": "10s"}}},
    "timeline": [{"at": "2s", "network": "alice cut"}, {"at": "4s", "network": "alice-bob noise 2%"}],
    "assertions": [{"that": "nothing-lost", "says": "x"}, {"that": "rekeys", "least": 1, "since": "2s", "until": "4s",
    "says": "y"}],
}  # fmt: skip
ODD = ("off", "auto", "10s", "0s", "1e9d", "5ms", "10%", "0%", "101%", "999999 km", "1 MHz", "0 dB", "20 kbit",
    "0.0.0.0/0", "::/0",
       "[::1]:1", "10.0.0.1:99999", "https://x", "https://[::1]", "mqtts://h:1", "kernel", "required", "preferred",
       "block", "pqc-only",
       "qkd", "alice", "bob", "metro", "exec", "file", "mqtt", "skip", "etsi004", "nothing", "ml-kem-768", "hqc-256",
       "catkdf", "measured",
       "cv", "bbm92", "alice cut", "alice-bob eavesdrop blind", "nan", "!!int x", ".inf")  # fmt: skip
"""Values that stand in some field."""


def _block(document: Any) -> bytes:
    """As people write YAML."""
    yaml, text = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style = False
    yaml.dump(document, text)
    return text.getvalue().encode()


BLOCKS = {id(template): _block(template) for template in (GATEWAY, KME, NETWORK, TUNNELS, SCENARIO)}
YAML_WORDS = (
    b"&a ",
    b"*a",
    b"<<: *a",
    b"!!",
    b"!<",
    b"---",
    b"...",
    b"|",
    b">",
    b"? ",
    b"- ",
    b": ",
    b"'",
    b'"',
    b"\\x",
    b"%YAML 1.1\n",
)


def _text(data: bytes, template: Any) -> bytes:
    """From an input: itself; the template as JSON, which is YAML, with changes; or in block style, spoiled."""
    if data[:1] < b"\x30":
        return data[1:]
    draw = Draw(data[1:])
    if data[:1] < b"\xb0":
        return dumps(draw, edited(draw, template, ODD))
    text = BLOCKS[id(template)]
    for _ in range(draw.number(0, 2)):
        at = draw.number(0, len(text))
        text = text[:at] + draw.choice(YAML_WORDS) + text[at:]
    return spoiled(draw, text, 2)


_file, _other = SecretFile(), SecretFile()


def _loaded(load: Callable[[Path], object], text: bytes) -> object | None:
    """What it gives; a refusal names the file in each of its lines."""
    path = _file.of(text)
    try:
        return load(path)
    except ConfigError as error:
        lines = str(error).split("\n")
        assert lines
        assert all(line.startswith(str(path)) for line in lines), str(error)[:300]
        assert len(lines) < 500
        say(str(error))
        return None


def tree(data: bytes) -> None:
    """YAML as such: a tree, or what is wrong with it and where."""
    text = data.decode("utf-8", "replace")
    found, findings, _ = parse(text, "file")
    found.plain()
    for finding in findings:
        say(finding.at("file"))


def gateway(data: bytes) -> None:
    def load(path: Path) -> object:
        config = load_config(path, check_files=False, environ={})
        for words in warnings(config):
            say(str(words))
        return config

    _loaded(load, _text(data, GATEWAY))


def kme(data: bytes) -> None:
    _loaded(lambda path: load_kme(path), _text(data, KME))


def network(data: bytes) -> None:
    """A topology that is taken makes a network, which goes on for a while."""

    def load(path: Path) -> object:
        found = load_topology(path)
        core = found.core()
        core.advance(1.0)
        return found

    _loaded(load, _text(data, NETWORK))


_other.of(BLOCKS[id(NETWORK)])
TOPOLOGY = load_topology(_other.path)


def tunnels(data: bytes) -> None:
    _loaded(lambda path: load_tunnels(path, TOPOLOGY), _text(data, TUNNELS))


class _Directory(type(Path())):  # type: ignore[misc]  # the class that a platform has for paths
    """Where a scenario lies: the topology that is good, and the file under test."""

    def __truediv__(self, name: object) -> Path:
        return _file.path if name == "scenario.yaml" else _other.path

    def resolve(self, strict: bool = False) -> Path:
        return Path("/scenario")


def scenario(data: bytes) -> None:
    _loaded(lambda path: load_scenario(_Directory("/scenario")), _text(data, SCENARIO))


READERS: tuple[Callable[[object], object], ...] = (
    parse_duration, parse_percentage, parse_socket_address, parse_bytes, parse_count, parse_https_url, parse_mqtt_url,
)  # fmt: skip
PARTS = ("10", "0.5", "s", "ms", "min", " ", "%", "GB", "kB", ":", "https://", "mqtts://", "[", "]", "::1",
    "127.0.0.1", "a", ".", "/",
         "@", "443", "99999", "-", "²", "٣", "é", "\0", "?", "#", "e9")  # fmt: skip


def value(data: bytes) -> None:
    """One value of a field: what it is worth, or ``ValueError`` in words."""
    draw = Draw(data[1:])
    text: object = data[1:].decode("utf-8", "replace")
    if data[:1] >= b"\x80":
        text = "".join(draw.choice(PARTS) for _ in range(draw.number(0, 6)))
    elif data[:1] >= b"\x70":
        text = draw.choice((None, True, 5, -1, 1.5, float("nan"), float("inf"), 10**400, [], {}))
    for reader in READERS:
        try:
            found = reader(text)
        except ValueError as error:
            assert not isinstance(error, ValidationError | UnicodeError)
            continue
        if reader is parse_duration and isinstance(found, float | int):
            assert abs(parse_duration(format_duration(found)) - found) <= max(1e-3, found * 1e-6)
        if reader is parse_socket_address:
            assert parse_socket_address(str(found)) == found


WORDS = ("cut", "restore", "eavesdrop", "intercept-resend", "blind", "noise", "loss", "distance", "50%", "2 %", "3",
    "dB", "80", "km", "-1",
         "0.05", "9" * 30, "nan", "1e9", "", "alice")  # fmt: skip


def command(data: bytes) -> None:
    """What is done to a network while it runs; what cannot be leaves it as it was."""
    draw = Draw(data)
    core = TOPOLOGY.core()
    for _ in range(4):
        target = draw.choice(("alice-bob", "sky", "alice", "nobody", draw.text(6)))
        words = [draw.choice(WORDS) if not draw.flag(6) else draw.text(8) for _ in range(draw.number(1, 4))]
        try:
            perform(core, target, words[0], words[1:])
        except NetworkError as error:
            assert "\n" not in str(error)
        core.advance(core.now + 1.0)
        if not draw.left:
            break


JSON_NAMES = tuple(
    name.encode() + b": " for name in ("node", "peers", "tunnel", "key_sources", "qkd", "rekey", "nodes", "links")
)
TARGETS = {
    "tree": Target(tree, (ConfigError,), 300, YAML_WORDS),
    "gateway": Target(gateway, (), 300, (*YAML_WORDS, *JSON_NAMES)),
    "kme": Target(kme, (), 300, YAML_WORDS),
    "network": Target(network, (), 300, (*YAML_WORDS, *JSON_NAMES)),
    "tunnels": Target(tunnels, (), 300, YAML_WORDS),
    "scenario": Target(scenario, (), 300, (*YAML_WORDS, *JSON_NAMES)),
    "value": Target(value, (), 60, tuple(part.encode() for part in PARTS)),
    "command": Target(command, (), 100),
}
