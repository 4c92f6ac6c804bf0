"""What the configuration of an mqtt source may be, and what docs/sources/mqtt.md shows of it and of payloads."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from qtunnel.drivers import mqtt
from qtunnel.drivers import mqtt_wire as wire
from qtunnel.drivers.mqtt_options import Options, PeerOptions
from qtunnel.errors import ConfigError, FilePermissionError

DOCUMENT = Path(__file__).parents[2] / "docs" / "sources" / "mqtt.md"

TLS = {"url": "mqtts://broker.example.org", "device": "qkd-a", "client_id": "gateway-a", "ca": "ca.pem"}
CERTIFICATE = {"certificate": "a.pem", "private_key": "a.key"}
PASSWORD = {"username": "gateway-a", "password_file": "a.password"}
LOCAL = {"url": "mqtt://127.0.0.1", "device": "qkd-a", "client_id": "gateway-a"}


@pytest.mark.parametrize(
    "url,meant",
    [
        ("mqtts://broker.example.org", ("broker.example.org", 8883)),
        ("mqtts://broker.example.org:1234/", ("broker.example.org", 1234)),
        ("mqtts://[2001:db8::7]:8883", ("2001:db8::7", 8883)),
    ],
)
def test_addresses(url: str, meant: tuple[str, int]) -> None:
    assert Options.model_validate(TLS | CERTIFICATE | {"url": url}).address() == meant


@pytest.mark.parametrize("url,port", [("mqtt://127.0.0.1", 1883), ("mqtt://127.8.8.8:7", 7), ("mqtt://[::1]", 1883)])
def test_without_tls_on_this_machine_alone(url: str, port: int) -> None:
    made = Options.model_validate(LOCAL | {"url": url})
    assert (made.address()[1], made.tls, made.context()) == (port, False, None)


@pytest.mark.parametrize(
    "given,words",
    [
        (LOCAL | {"url": "mqtt://192.0.2.7"}, "is without TLS"),
        (LOCAL | {"url": "mqtt://localhost"}, "is without TLS"),
        (LOCAL | {"url": "mqtt://broker.example.org"}, "is without TLS"),
        (LOCAL | {"url": "https://127.0.0.1"}, "not the address of an MQTT broker"),
        (LOCAL | {"url": "mqtt://127.0.0.1/path"}, "more than a host and a port"),
        (LOCAL | {"url": "mqtt://127.0.0.1:0"}, "the port must be"),
        (LOCAL | {"url": "mqtt://127.0.0.1:77777"}, "not a URL"),
        (LOCAL | {"url": 7}, "must be text"),
        (LOCAL | {"url": "mqtt://me:hunter2@127.0.0.1"}, "they go to username and password_file"),
        (LOCAL | {"ca": "ca.pem"}, "the url has none"),
        (LOCAL | {"username": "me"}, "belong together"),
        (LOCAL | {"device": "a/b"}, "not a level of a topic"),
        (LOCAL | {"client_id": "+"}, "not a level of a topic"),
        (LOCAL | {"client_id": ""}, "not a level of a topic"),
        (LOCAL | {"prefix": "qkd//v1"}, "not a level of a topic"),
        (LOCAL | {"prefix": "/".join("x" * 60 for _ in range(4))}, "more than 200"),
        (LOCAL | {"timeout": "5"}, "needs a unit"),
        (LOCAL | {"timeout": "10ms"}, "shorter than 100ms"),
        (LOCAL | {"check_hostname": False}, "Extra inputs"),
        (TLS, "has to know who asks"),
        (TLS | {"certificate": "a.pem"}, "belong together"),
        ({name: value for name, value in (TLS | CERTIFICATE).items() if name != "ca"}, "needs ca"),
    ],
)
def test_what_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        Options.model_validate(given)
    assert "hunter2" not in "".join(error["msg"] for error in caught.value.errors())


def test_who_we_are_may_be_shown_in_both_ways() -> None:
    Options.model_validate(TLS | CERTIFICATE | PASSWORD)
    Options.model_validate(TLS | PASSWORD)


@pytest.mark.parametrize("text", ["", "\n", "\udcff\n"])
def test_a_file_with_no_password(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.password"
    path.touch(0o600)
    path.write_bytes(text.encode(errors="surrogateescape"))
    options = Options.model_validate(LOCAL | PASSWORD | {"password_file": path})
    with pytest.raises(ConfigError, match=f"{path}: not one password") as caught:
        mqtt.DRIVER.open("fibre", options)
    assert caught.value.__context__ is None


def test_files_are_checked_when_it_is_opened(pki: Path, tmp_path: Path) -> None:
    key = tmp_path / "a.key"
    key.write_bytes((pki / "sae-alice.key").read_bytes())
    key.chmod(0o644)
    given = TLS | {"ca": pki / "ca.pem", "certificate": pki / "sae-alice.pem", "private_key": key}
    with pytest.raises(FilePermissionError, match="chmod 600"):
        mqtt.DRIVER.open("fibre", Options.model_validate(given))
    key.chmod(0o600)
    hub = mqtt.DRIVER.open("fibre", Options.model_validate(given))  # no loop runs here, as in qtunnel check
    asyncio.run(hub.close())
    for wrong, words in ((key, "no certificate in PEM"), (tmp_path / "none", "no such file; check the path")):
        password = tmp_path / "a.password"
        password.touch(0o600)
        password.write_text("word")
        made = Options.model_validate(TLS | PASSWORD | {"ca": wrong, "password_file": password})
        with pytest.raises(ConfigError, match=f"{wrong}: .*{words}"):
            mqtt.DRIVER.open("fibre", made)


@pytest.mark.parametrize("who", [CERTIFICATE, PASSWORD])
def test_the_brokers_name_is_always_checked(pki: Path, tmp_path: Path, who: dict[str, str]) -> None:
    (tmp_path / "a.password").touch(0o600)
    places = {"certificate": pki / "sae-alice.pem", "private_key": pki / "sae-alice.key", "ca": pki / "ca.pem"}
    made = Options.model_validate({**TLS, **who, **{name: places[name] for name in {**who, "ca": 0} if name in places}})
    context = made.context()
    assert context is not None
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("aiomqtt", "qtunnel.drivers.mqtt_hub", "qtunnel.drivers.mqtt_connection"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "aiomqtt", None)
    with pytest.raises(ConfigError, match=re.escape("driver mqtt needs aiomqtt: pip install 'qtunnel[mqtt]'")):
        mqtt.DRIVER.open("fibre", Options.model_validate(LOCAL))


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def test_the_document_shows_a_configuration_that_loads() -> None:
    (text,) = blocks("yaml")
    shown = YAML(typ="safe").load(text)
    source = shown["key_sources"]["fibre"]
    assert source.pop("driver") == "mqtt"
    Options.model_validate(source)
    PeerOptions.model_validate(shown["peers"][0]["qkd"]["sources"]["fibre"])


def test_the_document_names_every_option_and_every_code() -> None:
    text = DOCUMENT.read_text()
    assert [name for name in Options.model_fields if f"`{name}`" not in text] == []
    assert [code for code in wire.REFUSALS if f"`{code}`" not in text] == []
    for number in (wire.MAX_PAYLOAD, wire.MAX_KEY * 8):
        assert f"{number:,}" in text


def test_the_payloads_of_the_document_are_those_of_the_code() -> None:
    fresh, known, answer, refusal, present, link = (json.loads(text) for text in blocks("json"))
    assert json.loads(wire.request(fresh["request_id"], "gateway-b", 32)) == fresh
    assert json.loads(wire.request(known["request_id"], "gateway-a", 32, known["key_ID"])) == known
    read = wire.response(json.dumps(answer).encode(), fresh["request_id"].encode(), 32)
    assert isinstance(read, wire.Answer)
    assert read.key_id == known["key_ID"]
    refused = wire.response(json.dumps(refusal).encode(), fresh["request_id"].encode(), 32)
    assert isinstance(refused, wire.Refusal)
    assert refused.detail == "no-keys: store is empty"
    assert wire.presence(json.dumps(present).encode()) == wire.Presence(True, None)
    report = wire.link_report(json.dumps(link).encode())
    assert (report.stored_keys, report.qber, report.key_size) == (1200, 0.021, 32)
