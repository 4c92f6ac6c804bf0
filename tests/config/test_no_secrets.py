"""A configuration names secrets and holds none: who gets hold of one learns where keys lie, and no key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from qtunnel.config.loader import _kind
from qtunnel.config.model import Config
from qtunnel.drivers.registry import find, names
from qtunnel.kme.config import KmeConfig

SECRET = re.compile(
    r"identity|private|secret|psk|preshared|passw|passphrase|pkcs12|token|^pin$|_pin$|seed|credential|^store_key|^key$|keys?_file"
)
HARMLESS = {
    "KmeConfig.key": "how many keys and of what size",
    "Options.psk_identity": "the name of a PSK in TLS, which crosses the network in the clear",
}


def models(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The model and all that its fields are made of."""
    seen: list[type[BaseModel]] = []

    def look(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            if annotation not in seen:
                seen.append(annotation)
                for field in annotation.model_fields.values():
                    look(field.annotation)
        else:
            for argument in get_args(annotation):
                look(argument)

    look(kind)
    yield from seen


def test_what_has_the_name_of_a_secret_is_a_file_that_nobody_else_may_read() -> None:
    drivers = [find(name) for name in names()]
    roots: list[type[BaseModel]] = [Config, KmeConfig]
    roots += [model for driver in drivers for model in (driver.options, driver.peer_options)]
    found = set()
    for model in {its for root in roots for its in models(root)}:
        for name, field in model.model_fields.items():
            if SECRET.search(name) and f"{model.__name__}.{name}" not in HARMLESS:
                kind = _kind(field.annotation, tuple(field.metadata))
                assert kind is not None, f"{model.__name__}.{name} takes a value"
                assert kind.kind == "secret", f"{model.__name__}.{name} may be read by others"
                found.add(name)
    assert found >= {"identity", "pairing_secret", "private_key", "password_file", "token_file", "preshared_key"}
