"""What servers say over HTTP: whatever they write, it takes no time, holds no key, and an alarm is not overheard."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from qtunnel.drivers import answers
from qtunnel.drivers.etsi014_answers import source_status
from qtunnel.drivers.program_answers import status_in
from qtunnel.errors import KeySourceProtocolError, KeySourceStatusError
from qtunnel.keys.source import SourceStatus

KEY = bytes.fromhex("fbff0c5a7be2469342f1b8a90e37d56c21c4fa8873915ed0ab64029c1f7de8fb")

PAGES = {
    "titles that do not end": b"<title>" * 9362,
    "titles without their bracket": b"<title" * 10_922,
    "a title of brackets": b"<title>" + b"<" * 65_000 + b"</title",
    "headings": b"<h1" * 21_845,
}


def test_no_page_holds_the_loop_up() -> None:
    """Each took up to three seconds, in which no peer's call went on. All together, many times over, in a process of
    its own with a bound on its processor time, so that a busy machine makes no difference."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_CPU, (20, 20))\n"
        "from qtunnel.drivers.answers import words\n"
        "from tests.drivers.test_answers import PAGES\n"
        "for _ in range(20):\n    [words('text/html', page) for page in PAGES.values()]\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("<html><head><TITLE lang=en>401 Authorization\nRequired</TITLE></head>", "401 Authorization Required"),
        ("<h1>Error &amp; <b>more</b></h1>", "Error & more"),
        ("<title>cut off", "untitled"),
        ("<titles>no title</titles><h1>502</h1>", "502"),
    ],
)
def test_the_title_of_a_page_is_said(page: str, said: str) -> None:
    assert answers.words("text/html", page.encode()) == f"an HTML page, {said}"


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode, bytes.hex])
@pytest.mark.parametrize("padded", [True, False])
def test_a_key_in_a_servers_words_is_not_repeated(encode: object, padded: bool) -> None:
    text = encode(KEY)  # type: ignore[operator]
    text = text if isinstance(text, str) else text.decode()
    text = text if padded else text.rstrip("=")
    said = answers.words("text/plain", f"cannot store key {text} of c42fe0b3-dfa7-4872-b170-9d3b63b1f841".encode())
    assert said == "cannot store key [removed] of c42fe0b3-dfa7-4872-b170-9d3b63b1f841"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("intercept-resend", "intercept-resend"),
        (True, "it does not say of what"),
        (3, "3"),
        (["eavesdropper", "tamper"], "eavesdropper, tamper"),
        ({"code": "tamper"}, "code=tamper"),
        (None, None),
        (False, None),
        (0, None),
        (" ", None),
        ([], None),
        ({}, None),
    ],
)
def test_an_alarm_of_any_form_is_one(value: object, said: str | None) -> None:
    kme = source_status("metro", {"status_extension": {"alarm": value}})
    program = status_in(bytearray(json.dumps({"alarm": value}).encode()), _fail, _garbled)
    assert (kme.alarm, program.alarm) == (said, said)
    assert kme.healthy is (said is None)


def _fail(what: str) -> KeySourceProtocolError:
    return KeySourceProtocolError("metro", "status", what)


def _garbled(what: str) -> KeySourceStatusError:
    return KeySourceStatusError("metro", "status", what)


def _kme(qber: str, name: str = "qber") -> SourceStatus:
    return source_status("metro", json.loads(f'{{"status_extension": {{"{name}": {qber}}}}}'))


def _program(qber: str) -> SourceStatus:
    return status_in(bytearray(f'{{"qber": {qber}}}'.encode()), _fail, _garbled)


@pytest.mark.parametrize("read", [_kme, _program], ids=["etsi014", "exec"])
@pytest.mark.parametrize(
    "qber", ["NaN", "Infinity", "-Infinity", "-0.01", "1.01", "3.2", '"0.03"', '""', "true", "false", "[0.03]", "{}"]
)
def test_a_qber_that_cannot_be_read_is_no_silence(read: Callable[[str], SourceStatus], qber: str) -> None:
    """It counted as not told, and the keys of a link under attack went on."""
    with pytest.raises(KeySourceStatusError, match=r"its qber is .* no key is used"):
        read(qber)


@pytest.mark.parametrize("read", [_kme, _program], ids=["etsi014", "exec"])
@pytest.mark.parametrize(("qber", "told"), [("null", None), ("0", 0.0), ("1", 1.0), ("0.033", 0.033)])
def test_a_qber_that_can_be_read(read: Callable[[str], SourceStatus], qber: str, told: float | None) -> None:
    assert read(qber).qber == told


def test_a_qber_of_any_case_is_one_and_two_are_none() -> None:
    assert _kme("0.2", "QBER").qber == 0.2
    with pytest.raises(KeySourceStatusError, match="twice"):
        source_status("metro", {"status_extension": {"QBER": 0.2, "qber": 0.01}})


def test_an_alarm_is_heard_beside_a_qber_that_cannot_be_read() -> None:
    said = source_status("metro", {"status_extension": {"qber": "lots", "alarm": "Eve"}})
    assert (said.alarm, said.qber, said.for_all) == ("Eve", None, False)
