"""Driver ``mqtt``: a QKD device that hands keys over through an MQTT 5 broker (docs/sources/mqtt.md)."""

from __future__ import annotations

from collections.abc import Iterable

from qtunnel.drivers.mqtt_options import Options, PeerOptions
from qtunnel.drivers.registry import Driver, SourceHub
from qtunnel.errors import ConfigError


def _open(name: str, options: Options) -> SourceHub:
    try:
        # Here, as only who has such a source needs its library.
        from qtunnel.drivers.mqtt_hub import Hub
    except ImportError as error:
        raise ConfigError(
            f"key_sources.{name}: driver mqtt needs {error.name or 'a library'}: pip install 'qtunnel[mqtt]'"
        ) from None
    return Hub(name, options)


def _doubts(options: Options) -> Iterable[str]:
    if not options.tls and options.username is None:
        yield "the broker takes anyone on this machine for this gateway; give username and password_file"


DRIVER = Driver(name="mqtt", options=Options, peer_options=PeerOptions, open=_open, doubts=_doubts)
