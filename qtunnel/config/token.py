"""The token of the page: what a file has to hold so that nobody guesses it."""

from __future__ import annotations

from pathlib import Path

from qtunnel.errors import ConfigError
from qtunnel.files import read_secret_file
from qtunnel.secret import Secret

LEAST_TOKEN = 32
"""Characters: a token of 24 random bytes in base64, which nobody guesses however often he asks."""
MOST_TOKEN = 1024
TOKEN_REMEDY = "make one with: (umask 077; openssl rand -base64 32 > FILE)"  # noqa: S105  # a command, no password


def read_token(path: Path) -> Secret:
    """What is in the file, without white space around it. Raises ``ConfigError`` or ``FilePermissionError``."""
    with read_secret_file(path) as content:
        found = Secret(bytes(content.reveal()).strip())
    text = bytes(found.reveal())
    if not LEAST_TOKEN <= len(text) <= MOST_TOKEN or not text.isascii() or any(not 33 <= byte <= 126 for byte in text):
        found.wipe()
        raise ConfigError(
            f"{path}: a token has {LEAST_TOKEN} to {MOST_TOKEN} letters, digits and signs, in one line; {TOKEN_REMEDY}"
        )
    return found
