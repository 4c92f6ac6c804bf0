"""Audit log, metrics and reports in a configuration: what is right, and what would be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from qtunnel.cli.check import summary
from qtunnel.config import load_config
from qtunnel.errors import QtunnelError
from tests.config.conftest import MINIMAL, write_secret

EXAMPLES = Path(__file__).parents[2] / "configs"


def test_all_are_off_where_the_file_does_not_name_them(write: Callable[[str], Path]) -> None:
    config = load_config(write(MINIMAL), environ={})
    assert (config.audit, config.metrics, config.page) == (None, None, None)


def test_what_is_left_out_is_the_usual(write: Callable[[str], Path]) -> None:
    path = write(MINIMAL + "audit: {path: log/audit.jsonl, on_failure: stop}\nmetrics: {}\n")
    config = load_config(path, environ={})
    assert config.audit is not None
    assert config.metrics is not None
    assert (config.audit.path, config.audit.rotate) == (path.parent / "log" / "audit.jsonl", 64_000_000)
    assert str(config.metrics.listen) == "127.0.0.1:9586"


@pytest.mark.parametrize("listen", ["127.0.0.2:9000", "[::1]:9586"])
def test_addresses_of_loopback_need_nothing_else(write: Callable[[str], Path], listen: str) -> None:
    config = load_config(write(MINIMAL + f'metrics: {{listen: "{listen}"}}\n'), environ={})
    assert config.metrics is not None
    assert str(config.metrics.listen) == listen


def test_other_addresses_are_for_who_says_so(write: Callable[[str], Path]) -> None:
    config = load_config(write(MINIMAL + 'metrics: {listen: "10.0.0.1:9586", expose: true}\n'), environ={})
    assert config.metrics is not None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("audit: {path: log}", "audit.on_failure: is missing"),
        ("audit: {on_failure: stop}", "audit.path: is missing"),
        ("audit: {path: log, on_failure: ignore}", "audit.on_failure: "),
        ("audit: {path: log, on_failure: stop, rotate: 64}", "an amount of bytes needs a unit"),
        ("audit: {path: log, on_failure: stop, rotate: 1k}", "is less than 100kB, which would be mostly keys"),
        ("audit: on", "audit: "),
        ('metrics: {listen: "0.0.0.0:9586"}', "metrics.listen: others may reach this address"),
        ('metrics: {listen: "[::]:9586"}', "set expose: true beside it"),
        ("metrics: {port: 9586}", "unknown key 'port'"),
        ('page: {listen: "0.0.0.0:9587"}', "page.listen: others may reach this address, and the page is without TLS"),
        ('page: {listen: "10.0.0.1:9587"}', "put a proxy of yours in front of it"),
        ("page: {hosts: [status.example.org]}", "page.hosts: is for a proxy that others reach, and these need a token"),
        ('page: {hosts: ["https://status.example.org"]}', "not a host's name"),
        ("page: {token_file: pki/sae-alice.key}", "page.token_file: "),
        ("page: {token: abc}", "unknown key 'token'"),
        ('metrics: {}\npage: {listen: "127.0.0.1:9586"}', "page.listen: is also metrics.listen; take another port"),
        ('mqtt: {broker: "mqtts://b:8883"}', "mqtts needs ca"),
        ('mqtt: {broker: "mqtt://b:1883"}', "is without TLS"),
        ('mqtt: {broker: "mqtt://127.0.0.1:1883", ca: bob.public}', "ca and certificate are for TLS"),
        ('mqtt: {broker: "mqtt://127.0.0.1:1883", username: a}', "username and password_file belong together"),
        ('mqtt: {broker: "mqtt://127.0.0.1:1883", prefix: "a/+"}', "mqtt.prefix: not the beginning of a topic"),
        ('mqtt: {broker: "mqtt://127.0.0.1:1883", interval: 10ms}', "mqtt.interval: is shorter than 1s"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(errors_of: Callable[[str], list[str]], text: str, words: str) -> None:
    (line,) = errors_of(MINIMAL + text + "\n")
    assert words in line, line


def test_check_says_what_the_gateway_gives_account_by(site: Path) -> None:
    shutil.copy(EXAMPLES / "audited.yaml", site)
    lines = summary(load_config(site / "audited.yaml", environ={}))
    assert f"audit log {site}/audit/audited.jsonl: the daemon ends where it cannot be written" in lines
    assert "metrics on 127.0.0.1:9586" in lines
    assert "page at http://127.0.0.1:9587/, without a token" in lines
    assert "reports to mqtts://broker.example.org:8883, under qtunnel/audited" in lines


def test_a_token_takes_a_file_that_others_cannot_read(site: Path, write: Callable[[str], Path]) -> None:
    write_secret(site / "page.token", "k" * 44)
    text = "page: {token_file: page.token, hosts: [Status.Example.org.]}\n"
    config = load_config(write(MINIMAL + text), environ={})
    assert config.page is not None
    assert (config.page.token_file, config.page.hosts) == (site / "page.token", ("status.example.org",))
    assert str(config.page.listen) == "127.0.0.1:9587"
    (site / "page.token").chmod(0o644)
    with pytest.raises(QtunnelError, match=r"page.token_file: .*chmod 600"):
        load_config(write(MINIMAL + text), environ={})
