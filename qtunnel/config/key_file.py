"""A file with one key of 32 bytes in base64: a pairing secret, the key of a store, a preshared key of WireGuard."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from qtunnel.errors import ConfigError
from qtunnel.files import read_secret_file
from qtunnel.secret import Secret

KEY_FILE_SIZE = 32
KEY_REMEDY = f"make one with: (umask 077; openssl rand -base64 {KEY_FILE_SIZE} > FILE)"
PSK_REMEDY = "make one with: (umask 077; wg genpsk > FILE)"


def read_key(path: Path, remedy: str = KEY_REMEDY) -> Secret:
    """The key in the file. remedy: how such a file is made. Raises ``ConfigError`` or ``FilePermissionError``."""
    with read_secret_file(path) as content:
        try:
            key = Secret(base64.b64decode(bytes(content.reveal()).strip(), validate=True))
        except (binascii.Error, ValueError):
            raise ConfigError(f"{path}: is not one line of base64; {remedy}") from None
    if len(key) != KEY_FILE_SIZE:
        with key:
            raise ConfigError(f"{path}: holds {len(key)} bytes instead of {KEY_FILE_SIZE}; {remedy}")
    return key
