"""Reports to an MQTT broker, where the configuration has one; the library for that is loaded only then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from qtunnel.config import Config
from qtunnel.config.accounts import MqttConfig
from qtunnel.control.messages import Status
from qtunnel.errors import ConfigError
from qtunnel.events import EventStream

if TYPE_CHECKING:
    from qtunnel.fleet.broker import Broker
    from qtunnel.fleet.publisher import Publisher


def broker_of(its: MqttConfig) -> Broker:
    """Where reports go; raises ``ConfigError`` or ``FilePermissionError`` for files that are not fit, and where the
    library is missing."""
    try:
        from qtunnel.fleet.broker import Broker
    except ModuleNotFoundError as error:
        raise ConfigError(f"mqtt: needs {error.name}: pip install 'qtunnel[mqtt]'") from None
    broker = Broker.at(its.broker, its.ca, its.certificate, its.private_key, its.username, its.password_file)
    broker.context()  # so that a start says what is wrong with these files
    password = broker.password()
    if password is not None:
        password.wipe()
    return broker


def publisher(config: Config, status: Callable[[], Awaitable[Status]], events: EventStream) -> Publisher | None:
    """Whoever reports by this configuration; raises what ``broker_of`` does."""
    its = config.mqtt
    if its is None:
        return None
    broker = broker_of(its)
    from qtunnel.fleet.publisher import Publisher

    discover = its.discovery == "home-assistant"
    return Publisher(
        broker, its.prefix, config.node.name, status, events, interval=its.interval, discover=discover
    )  # fmt: skip
