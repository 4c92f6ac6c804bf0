"""Who may read the page: names of this host, other web sites, the token."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.config.token import read_token
from qtunnel.errors import ConfigError, FilePermissionError
from qtunnel.page.guard import POLICY, is_known_host, presented, refused_site

TOKEN = "k3Jm1Xv0b9Qw7Zr5Tt2Yy8Uu4Ii6Oo0Pp1Aa3Ss="


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:9587", "127.0.0.1", "127.9.9.9:1", "localhost:9587", "LOCALHOST", "[::1]:9587", "[::1]", "localhost.",
     "status.example.org", "Status.Example.Org:443"],
)  # fmt: skip
def test_names_of_this_host(host: str) -> None:
    assert is_known_host(host, ["status.example.org"])


@pytest.mark.parametrize(
    "host",
    [None, "", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:9587", "10.0.0.1", "0.0.0.0", "[::]",
     "[::1", "[::1]x", "127.0.0.1:9587:1", "127.0.0.1:x", "example.org", "evil.status.example.org", "@localhost",
     "evil.example@127.0.0.1", "2130706433", "0x7f.1"],
)  # fmt: skip
def test_no_other_name_is_this_host(host: str | None) -> None:
    assert not is_known_host(host, ["status.example.org"])


@given(st.text())
def test_whatever_stands_in_host_is_a_yes_or_a_no(host: str) -> None:
    assert is_known_host(host, []) in (True, False)


@given(st.text())
def test_whatever_stands_in_authorization_is_a_token_or_none(header: str) -> None:
    assert presented(header) is None or isinstance(presented(header), bytes)


def test_a_token_comes_as_bearer_or_as_a_password() -> None:
    basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
    assert presented(f"Bearer {TOKEN}") == TOKEN.encode()
    assert presented(f"basic {basic}") == TOKEN.encode()
    assert presented(TOKEN) is None
    assert presented("Basic !") is None
    assert presented(None) is None


@pytest.mark.parametrize(
    ("site", "mode", "refused"),
    [(None, None, False), ("same-origin", "cors", False), ("none", "navigate", False),
     ("cross-site", "navigate", False),
     ("cross-site", "cors", True), ("cross-site", "no-cors", True), ("same-site", "cors", True)],
)  # fmt: skip
def test_other_web_sites_may_link_here_and_nothing_else(site: str | None, mode: str | None, refused: bool) -> None:
    headers = {
        "Sec-Fetch-Site": site,
        "Sec-Fetch-Mode": mode,
        "Sec-Fetch-Dest": "document" if mode == "navigate" else "",
    }
    assert refused_site(headers.get) is refused


def test_a_page_in_a_frame_of_others_is_no_visit() -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
    assert refused_site(headers.get)


def test_a_token_is_read_without_white_space(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(f"{TOKEN}\n")
    assert bytes(read_token(path).reveal()) == TOKEN.encode()


@pytest.mark.parametrize("content", ["", "short", "x" * 31, "x" * 1025, f"{TOKEN}\n{TOKEN}", f"{TOKEN} ä"])
def test_a_token_that_is_not_fit_is_refused_with_a_remedy_and_not_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"make one with: \(umask 077; openssl rand") as error:
        read_token(path)
    assert TOKEN not in str(error.value)


def test_a_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    with pytest.raises(FilePermissionError, match="chmod 600"):
        read_token(path)


def test_the_policy_lets_nothing_in_from_elsewhere_and_nothing_inline() -> None:
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert rules["default-src"] == "'none'"
    assert {rules[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert {rules[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert "unsafe" not in POLICY
