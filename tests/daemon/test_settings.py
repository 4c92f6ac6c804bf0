"""What the engine can do, as the handshake tells it."""

from __future__ import annotations

import pytest

from qtunnel.config import TunnelConfig
from qtunnel.daemon.settings import capabilities_of, has_fast_aes
from qtunnel.terms import RECORD_SUITES, record_suite

AES, CHACHA = RECORD_SUITES["aes-256-gcm"], RECORD_SUITES["chacha20-poly1305"]


def tunnel(**values: str) -> TunnelConfig:
    return TunnelConfig.model_validate({"interface": "qt0", "addresses": ["10.77.0.1/24"], **values})


@pytest.mark.parametrize(
    ("mode", "fast_aes", "bits"),
    [
        ("auto", True, AES | CHACHA),
        ("auto", False, CHACHA),
        ("aes-256-gcm", False, AES),
        ("chacha20-poly1305", True, CHACHA),
        ("off", True, 0),
    ],
)
def test_capabilities_follow_the_configuration_and_the_machine(mode: str, fast_aes: bool, bits: int) -> None:
    assert capabilities_of(tunnel(record_mode=mode), fast_aes=fast_aes) == bits


def test_other_engines_have_no_record_mode() -> None:
    assert capabilities_of(tunnel(engine="wireguard-go"), fast_aes=True) == 0


def test_the_best_of_both_ends_is_used() -> None:
    assert record_suite(AES | CHACHA, AES | CHACHA) == "aes-256-gcm"
    assert record_suite(AES | CHACHA, CHACHA) == "chacha20-poly1305"
    assert record_suite(AES, CHACHA) == ""
    assert record_suite(AES | CHACHA, AES | 1 << 31) == "aes-256-gcm"
    assert record_suite(0, AES) == ""


def test_processors_that_have_instructions_for_aes() -> None:
    assert has_fast_aes("processor\t: 0\nflags\t\t: fpu aes avx\n")
    assert has_fast_aes("Features\t: fp asimd aes pmull\n")
    assert not has_fast_aes("flags\t\t: fpu avx\nmodel name\t: aes\n")
    assert not has_fast_aes("")
