"""A configuration together with what stood in the files that it names, so that a change of these shows too."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qtunnel.config.loader import marked_paths
from qtunnel.config.model import Config
from qtunnel.errors import ConfigError, QtunnelError
from qtunnel.files import read_secret_file
from qtunnel.identity import Identity, PublicIdentity

MAX_FILE = 1 << 20
"""Bytes of a file that are looked at: a bundle of 200 certificates has 400 kB."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A configuration as it was loaded.

    public: every peer's identity by the peer's name. contents: what tells one content of a file from another, by path:
    an identity's id, else a digest under a key of the process, from which nobody learns a secret.
    """

    config: Config
    public: Mapping[str, PublicIdentity]
    contents: Mapping[Path, bytes]


def take_snapshot(config: Config, key: bytes) -> Snapshot:
    """Read the files of a configuration that was found to be good. key: 32 random bytes, the same in one process.

    Raises a ``QtunnelError`` for a file that has become unfit since.
    """
    public = {peer.name: PublicIdentity.load(peer.public) for peer in config.peers}
    contents = {path: _digest(path, key, secret=kind.kind == "secret") for path, kind, _ in marked_paths(config, ())}
    contents[config.node.identity] = Identity.load(config.node.identity).public.id
    contents |= {peer.public: public[peer.name].id for peer in config.peers}
    return Snapshot(config, public, contents)


def _digest(path: Path, key: bytes, *, secret: bool) -> bytes:
    try:
        if secret:
            with read_secret_file(path) as content:
                return hmac.digest(key, content.reveal(), "sha512")
        with path.open("rb") as file:
            return hmac.digest(key, file.read(MAX_FILE), "sha512")
    except QtunnelError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
