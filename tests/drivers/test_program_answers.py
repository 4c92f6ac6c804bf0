"""What a vendor's program may print and say, and what comes of it."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.drivers.program_answers import MAX_TEXT, complaint, key_in, usable_key_id
from qtunnel.errors import (
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceUnauthorizedError,
    KeySourceUnavailableError,
)
from qtunnel.keys.source import KeyRef
from tests.support.kme import run
from tests.support.vendor import ALL, GOOD, KEY, PEER, failure, hub_of, make_device, of_script


@pytest.mark.parametrize(
    ("body", "healthy", "alarm"),
    [
        ("{}", True, None),
        ('{"stored_keys": 0}', False, None),
        ('{"stored_keys": 0, "healthy": true}', True, None),
        ('{"healthy": false, "alarm": "QBER 14 %"}', False, "QBER 14 %"),
        ('{"stored_keys": "many", "qber": -1, "key_size": true, "alarm": 7}', True, "7"),
    ],
)
def test_a_status_with_gaps(tmp_path: Path, body: str, healthy: bool, alarm: str | None) -> None:
    async def test() -> None:
        told = await of_script(tmp_path, f"echo '{body}'").status()
        assert (told.healthy, told.alarm) == (healthy, alarm)

    run(test)


@given(st.text())
def test_usable_key_ids(text: str) -> None:
    plain = text.isascii() and text.isprintable() and " " not in text and not text.startswith("-")
    assert usable_key_id(text) == (plain and 0 < len(text) <= 255)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "it printed nothing"),
        ("hello", "not JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 5000, "not JSON"),
        ('{"key_ID": "k1"}', "the key's value is missing"),
        ('{"key": "AAAA"}', "no usable key_ID"),
        ('{"key_ID": "-k", "key": "AAAA"}', "no usable key_ID"),
        ('{"key_ID": 7, "key": "AAAA"}', "no usable key_ID"),
        ('{"key_ID": "k1", "key": "AAAA"}', "the key has 24 bits where 256 were asked for"),
        ('{"key_ID": "k1", "key": "AA AA"}', "the key is not base64"),
        ('{"key_ID": "k1", "KEY_id": "k1", "key": "AAAA"}', "a field is there twice"),
        ('{"keys": []}', "not have exactly one key"),
        ('{"keys": [{}, {}]}', "not have exactly one key"),
    ],
)
def test_answers_that_leave_a_doubt(tmp_path: Path, body: str, said: str) -> None:
    async def test() -> None:
        source = of_script(tmp_path, f"cat {tmp_path}/body")
        (tmp_path / "body").write_text(body)
        for call in ("get_key", "get_key_by_id"):
            error = await failure(source, call)
            assert isinstance(error, KeySourceProtocolError)
            assert said in error.detail
            assert error.lost == 1

    run(test)


def test_a_key_container_of_etsi_014_is_taken_too(tmp_path: Path) -> None:
    async def test() -> None:
        source = of_script(tmp_path, f"echo '{{\"keys\": [{GOOD}]}}'")
        ref, key = await source.get_key(32)
        assert (ref.key_id, bytes(key.reveal())) == ("k1", KEY)
        assert await source.get_key_by_id(ref) == key
        with pytest.raises(KeySourceProtocolError, match="answered with key_ID k1 where k2 was asked for"):
            await source.get_key_by_id(KeyRef("vendor", "k2", 32))

    run(test)


@given(st.binary(max_size=60), st.sampled_from(["json", "hex", "base64", "raw"]))
def test_no_output_breaks_the_reader(data: bytes, kind: Any) -> None:
    def fail(what: str) -> KeySourceError:
        return KeySourceProtocolError("x", "y", what)

    with contextlib.suppress(KeySourceError):
        _, key = key_in(bytearray(data), kind, "k1", 32, fail)
        assert len(key) == 32


@pytest.mark.parametrize(
    ("code", "kind", "lost"),
    [
        (64, KeyRequestRejectedError, 0),
        (66, KeyNotFoundError, 0),
        (69, KeySourceUnavailableError, 0),
        (75, KeySourceUnavailableError, 0),
        (77, KeySourceUnauthorizedError, 0),
        (1, KeySourceUnavailableError, 1),
        (127, KeySourceUnavailableError, 1),
    ],
)
def test_exit_codes(tmp_path: Path, code: int, kind: type[KeySourceError], lost: int) -> None:
    async def test() -> None:
        source = of_script(tmp_path, f"echo starting >&2; echo 'the link is down' >&2; exit {code}")
        error = await failure(source)
        assert (type(error), error.lost) == (kind, lost)
        assert error.detail.startswith(f"exit code {code}")
        assert error.detail.endswith(": the link is down")
        assert (await failure(source, "status")).lost == 0

    run(test)


def test_no_key_of_its_complaints_gets_into_an_error(tmp_path: Path) -> None:
    path = make_device(tmp_path)

    async def test() -> None:
        source = hub_of(path, tmp_path / "device", *ALL).for_peer(PEER)
        (tmp_path / "device" / "fault").write_text("leaks")
        error = await failure(source)
        (file,) = (tmp_path / "device" / "keys").iterdir()
        key = file.read_bytes()
        assert error.detail == "exit code 3: key [removed] is [removed]"
        assert key.hex() not in str(error)

    run(test)


@pytest.mark.parametrize(
    "text",
    [
        KEY.hex(), KEY.hex().upper(), KEY[:16].hex(), KEY.hex(":"), KEY.hex(" "), base64.b64encode(KEY).decode(),
        f"key={KEY.hex()}", f'{{"key": "{base64.b64encode(KEY).decode()}"}}',
    ],
)  # fmt: skip
def test_what_looks_like_a_key_is_taken_out(text: str) -> None:
    said = complaint(f"bad: {text}\n".encode(), bytearray())
    assert "[removed]" in said
    assert not any(part in said.lower() for part in (KEY.hex()[:16], KEY.hex(":")[:20], KEY.hex(" ")[:20]))
    assert base64.b64encode(KEY).decode()[:12] not in said


def test_what_stands_in_its_output_is_taken_out_of_its_complaints() -> None:
    assert complaint(b"short-key 12-34-56-78-90 failed", bytearray(b"12-34-56-78-90\n")) == "short-key [removed] failed"


def test_a_flood_of_complaints_does_not_hold_it_up(tmp_path: Path) -> None:
    async def test() -> None:
        source = of_script(tmp_path, f"head -c 3000000 /dev/zero | tr '\\0' x >&2; echo '{GOOD}'")
        await source.get_key(32)

    run(test)


@pytest.mark.parametrize("extra", [0, 1])
def test_output_up_to_its_bound(tmp_path: Path, extra: int) -> None:
    limit = MAX_TEXT + 64

    async def test() -> None:
        (tmp_path / "body").write_text(GOOD.ljust(limit + extra))
        source = of_script(tmp_path, f"cat {tmp_path}/body")
        if extra:
            assert f"it printed more than {limit} bytes" in (await failure(source)).detail
        else:
            await source.get_key(32)

    run(test)
