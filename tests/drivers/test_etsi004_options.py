"""What the configuration of etsi004 takes, and what it says of the rest."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from qtunnel.drivers import etsi004
from qtunnel.drivers.etsi004_options import Options, PeerOptions
from qtunnel.errors import ConfigError
from tests.support.kme import files

LOCAL = {"url": "tcp://127.0.0.1:25575"}
ENDS = {"source": "qkd://alice", "destination": "qkd://bob"}
ONE, TWO = "c42fe0b3-dfa7-4872-b170-9d3b63b1f841", "d42fe0b3-dfa7-4872-b170-9d3b63b1f842"


def said(model: type[Options] | type[PeerOptions], given: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(given)
    return "; ".join(error["msg"] for error in caught.value.errors())


def test_the_defaults() -> None:
    options = Options.model_validate(LOCAL)
    asked = options.asked
    assert (asked.key_chunk_size, asked.timeout, asked.ttl) == (32, 4000, 3600)
    assert (asked.max_bps, asked.min_bps, asked.metadata_mimetype) == (10_000, 0, "application/json")
    assert list(etsi004.DRIVER.doubts(options)) == []


def test_everything_given(pki: Path) -> None:
    mine = files(pki, "sae-alice")
    options = Options.model_validate(
        {
            "url": "tls://[2001:db8::7]:25575/",
            "framing": "qubip",
            "ca": mine.ca,
            "certificate": mine.certificate,
            "private_key": mine.private_key,
            "server_hostname": "kme.example.org",
            "kme_id": "kme-a",
            "timeout": "2s",
            "chunk_size": 64,
            "metadata_size": 0,
            "qos": {"max_bps": 5, "min_bps": 4, "jitter": 3, "priority": 2, "timeout": "1500ms", "ttl": "10m",
                    "metadata_mimetype": "text/plain"},
        }
    )  # fmt: skip
    assert options.url == "tls://[2001:db8::7]:25575"
    asked = options.asked
    assert (asked.key_chunk_size, asked.max_bps, asked.min_bps, asked.jitter, asked.priority) == (64, 5, 4, 3, 2)
    assert (asked.timeout, asked.ttl, asked.metadata_mimetype) == (1500, 600, "text/plain")
    etsi004.Hub("metro", options)
    (doubt,) = etsi004.DRIVER.doubts(options)
    assert "takes 64 of the stream" in doubt


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (7, "must be text"),
        ("https://kme.example.org:1", "not the address of a KME"),
        ("tls://", "not the address of a KME"),
        ("tls://kme.example.org", "needs a port"),
        ("tls://kme.example.org:0", "the port must be from 1 to 65535"),
        ("tls://kme.example.org:99999", "not a URL"),
        ("tls://me:secret@kme.example.org:1", "has a user or password"),
        ("tls://kme.example.org:1/path", "more than a host and a port"),
        ("tls://kme.example.org:1?x=1", "more than a host and a port"),
        ("tcp://kme.example.org:1", "is without TLS"),
        ("tcp://localhost:1", "is without TLS"),
        ("tcp://192.0.2.7:1", "is without TLS"),
    ],
)
def test_addresses_that_are_refused(url: object, words: str) -> None:
    text = said(Options, {"url": url})
    assert words in text
    assert "secret" not in text


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:1", "tcp://127.9.9.9:1", "tcp://[::1]:1"])
def test_without_tls_on_this_machine_alone(url: str) -> None:
    assert Options.model_validate({"url": url}).url == url


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"url": "tls://127.0.0.1:1", "ca": "ca.pem"}, "certificate, private_key missing"),
        ({**LOCAL, "ca": "ca.pem"}, "tcp:// has no TLS to use ca for"),
        ({**LOCAL, "kme_id": "kme-a"}, "tcp:// has no TLS to use kme_id for"),
        ({**LOCAL, "check_hostname": False}, "tcp:// has no TLS to use check_hostname for"),
        ({**LOCAL, "chunk_size": 15}, "greater than or equal to 16"),
        ({**LOCAL, "chunk_size": 65_537}, "less than or equal to 65536"),
        ({**LOCAL, "timeout": "10ms"}, "no KME answers that fast"),
        ({**LOCAL, "qos": {"timeout": "5s"}}, "qos.timeout must be shorter than timeout"),
        ({**LOCAL, "qos": {"ttl": "5s"}}, "so long an exchange may take"),
        ({**LOCAL, "qos": {"ttl": "60000d"}}, "more than 32 bits"),
        ({**LOCAL, "qos": {"min_bps": 5, "max_bps": 4}}, "min_bps is 5, more than max_bps, 4"),
        ({**LOCAL, "qos": {"priority": -1}}, "greater than or equal to 0"),
        ({**LOCAL, "qos": {"metadata_mimetype": "json"}}, "not a MIME type"),
        ({**LOCAL, "qos": {"bps": 1}}, "Extra inputs"),
        ({**LOCAL, "framing": "json"}, "'qubip'"),
    ],
)
def test_options_that_do_not_go_together(given: dict[str, Any], words: str) -> None:
    assert words in said(Options, given)


def test_host_name_checks_cannot_just_be_left_out(pki: Path) -> None:
    mine = files(pki, "sae-alice")
    tls = {"url": "tls://127.0.0.1:1", "ca": mine.ca, "certificate": mine.certificate, "private_key": mine.private_key}
    assert "needs kme_id" in said(Options, {**tls, "check_hostname": False})
    assert "remove one" in said(Options, {**tls, "check_hostname": False, "server_hostname": "kme", "kme_id": "kme"})
    with pytest.raises(ConfigError, match="no such file"):
        etsi004.Hub("metro", Options.model_validate({**tls, "ca": pki / "none.pem"}))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"source": "alice"}, "not a URI"),
        ({"source": "qkd://a b"}, "not a URI"),
        ({"source": "qkd://\0"}, "not a URI"),
        ({"source": "qkd://" + "a" * 250}, "not a URI"),
        ({"source": "qkd://bob"}, "are the same"),
        ({"key_stream_id": ONE}, "give all three, or none"),
        ({"key_stream_id": ONE, "peer_key_stream_id": TWO}, "give all three, or none"),
        ({"key_stream_id": ONE, "peer_key_stream_id": ONE, "index_file": "index"}, "agree on two"),
        ({"key_stream_id": "17", "peer_key_stream_id": TWO, "index_file": "index"}, "not a UUID"),
        ({"key_stream_id": str(uuid.UUID(int=0)), "peer_key_stream_id": TWO, "index_file": "index"}, "all zeros"),
    ],
)
def test_peer_options_that_are_refused(given: dict[str, Any], words: str) -> None:
    assert words in said(PeerOptions, {**ENDS, **given})


def test_an_index_file_stands_beside_the_configuration(tmp_path: Path) -> None:
    given = {**ENDS, "key_stream_id": ONE, "peer_key_stream_id": TWO, "index_file": "alice.index"}
    options = PeerOptions.model_validate(given, context={"directory": tmp_path})
    assert options.index_file == tmp_path / "alice.index"
