"""Types for configuration fields: durations with units, percentages, ports, addresses, files, names.

Drivers and the KME use them in their own models. Their messages say what would be right and never quote the value
of a file that holds a secret.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, ValidationInfo

from qtunnel.interface_names import name_problem

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
"""Seconds in each unit of a duration."""

_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)\s*", re.ASCII)
_PERCENTAGE = re.compile(r"(\d+(?:\.\d+)?)\s*%", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_HOST_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", re.ASCII)

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Section(BaseModel):
    """Base of every mapping in a configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def parse_duration(value: object) -> float:
    """Seconds of ``"120s"``, ``"500ms"``, ``"10m"``, ``"1h30m"``, ``"1d"``; raises ``ValueError``."""
    text = str(value).strip() if isinstance(value, str) or is_number(value) else ""
    if is_number(value) or re.fullmatch(r"\d+(\.\d+)?", text):
        raise ValueError(f"a duration needs a unit; write {text}s for seconds, {text}m for minutes, {text}h for hours")
    seconds, position = 0.0, 0
    while match := _DURATION_PART.match(text, position):
        seconds += float(match[1]) * UNITS[match[2]]
        position = match.end()
    if not position or position != len(text) or seconds > 1e10:
        raise ValueError("not a duration; write a number and a unit: 500ms, 120s, 10m, 1h, 1d")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest notation that ``parse_duration`` reads back, down to milliseconds: ``10m``, ``90s``, ``1.5s``."""
    milliseconds = round(seconds * 1000)
    for unit in ("d", "h", "m", "s"):
        size = round(UNITS[unit] * 1000)
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms" if milliseconds < 1000 else f"{milliseconds / 1000:.3f}".rstrip("0") + "s"


Duration = Annotated[float, BeforeValidator(parse_duration)]
"""Seconds, written with a unit."""


def at_least(seconds: float, reason: str) -> AfterValidator:
    """Bound for a ``Duration``."""

    def check(value: float) -> float:
        if value < seconds:
            raise ValueError(f"is shorter than {format_duration(seconds)}, {reason}")
        return value

    return AfterValidator(check)


def _off(value: object) -> object:
    return None if value == "off" else value


Keepalive = Annotated[
    Annotated[Duration, at_least(1, "WireGuard's smallest; the usual is 25s")] | None, BeforeValidator(_off)
]
"""Seconds, or ``off``."""


def parse_percentage(value: object) -> float:
    """The fraction of ``"10%"``: 0.1; raises ``ValueError``."""
    if is_number(value) or (isinstance(value, str) and re.fullmatch(r"\s*\d+(\.\d+)?\s*", value)):
        raise ValueError(f"a percentage needs its sign; write {str(value).strip()}%")
    match = _PERCENTAGE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("not a percentage; write 10%")
    return float(match[1]) / 100


Percentage = Annotated[float, BeforeValidator(parse_percentage)]
"""A fraction, written in percent."""

Port = Annotated[StrictInt, Field(ge=1, le=65535)]


def _whole_bytes(value: int) -> int:
    if value % 8:
        raise ValueError(f"must be a multiple of 8 bits; write {value + 8 - value % 8}")
    return value


MAX_KEY_SIZE = 1 << 20
"""Bits. 128 KiB: far beyond any real KME, and a request's keys still fit in memory."""

KeySize = Annotated[StrictInt, Field(ge=8, le=MAX_KEY_SIZE), AfterValidator(_whole_bytes)]
"""Bits of a KME's key, a multiple of 8."""


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            "not a usable name; take letters, digits, '.', '_' and '-', at most 63, the first a letter or digit"
        )
    return value


Name = Annotated[str, AfterValidator(_name)]
"""A name that is safe in paths, logs and metrics."""


def _interface(value: str) -> str:
    problem = name_problem(value)
    if problem is not None:
        raise ValueError(problem)
    return value


InterfaceName = Annotated[str, AfterValidator(_interface)]


def _text(value: object, example: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text such as {example}")
    return value.strip()


def _ip_interface(value: object) -> IpInterface:
    if isinstance(value, ipaddress.IPv4Interface | ipaddress.IPv6Interface):
        return value
    text = _text(value, "10.77.0.1/24")
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError("not an IP address with a prefix length; write 10.77.0.1/24 or fd77::1/64") from None
    network = interface.network
    if network.num_addresses > 2 and interface.ip == network.network_address:  # RFC 3021 and RFC 6164: not in /31, /127
        raise ValueError(f"is the network itself; write the address of this gateway in it, such as {_first(network)}")
    if network.version == 4 and network.num_addresses > 2 and interface.ip == network.broadcast_address:
        raise ValueError(f"is the broadcast address; write this gateway's own, such as {_first(network)}")
    return interface


def _first(network: IpNetwork) -> str:
    return f"{network.network_address + 1}/{network.prefixlen}"


def _ip_network(value: object) -> IpNetwork:
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    text = _text(value, "10.77.0.2/32")
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        try:
            interface = ipaddress.ip_interface(text)
        except ValueError:
            raise ValueError("not an IP network; write 10.77.0.2/32, 192.168.7.0/24 or fd77::2/128") from None
        host = f"{interface.ip}/{interface.max_prefixlen}"
        raise ValueError(
            f"has host bits set; write {interface.network} for the network or {host} for the one host"
        ) from None


InterfaceAddress = Annotated[IpInterface, BeforeValidator(_ip_interface)]
AllowedNetwork = Annotated[IpNetwork, BeforeValidator(_ip_network)]


def _host(value: str) -> str:
    bare = value.strip()
    if bare.startswith("[") and bare.endswith("]"):
        bare = bare[1:-1]
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        if re.fullmatch(r"\[.*\]:\d+|[^:]*:\d+", bare):
            raise ValueError(
                "has a port; give the address alone, the ports go to wireguard_port and handshake_port"
            ) from None
        labels = bare.removesuffix(".").split(".")
        numeric = re.fullmatch(r"[\d.]*", bare)
        if len(bare) > 253 or numeric or not all(_HOST_LABEL.fullmatch(label) for label in labels):
            raise ValueError(
                "not an IP address or host name; write 192.0.2.7, 2001:db8::7 or vpn.example.org"
            ) from None
        return bare
    if address.is_unspecified or address.is_multicast:
        raise ValueError("not the address of one host; write the peer's address, or leave it out behind NAT")
    return str(address)


Host = Annotated[str, AfterValidator(_host)]
"""An IP address in its canonical notation or a host name, without a port."""


class SocketAddress(NamedTuple):
    """Where to listen."""

    address: IpAddress
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


def parse_socket_address(value: object) -> SocketAddress:
    """``"0.0.0.0:51821"`` or ``"[::]:51821"``; raises ``ValueError``."""
    if isinstance(value, SocketAddress):
        return value
    example = "write 0.0.0.0:51821 or [::]:51821"
    text = _text(value, "0.0.0.0:51821")
    match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+)):(\d{1,5})", text, re.ASCII)
    if match is None:
        if ":" in text and "[" not in text and text.count(":") > 1:
            raise ValueError(f"an IPv6 address needs brackets; {example}")
        raise ValueError(f"not an address and a port; {example}")
    try:
        address = ipaddress.IPv6Address(match[1]) if match[1] else ipaddress.IPv4Address(match[2])
    except ValueError:
        raise ValueError(f"not an IP address to listen on; {example}") from None
    port = int(match[3])
    if not 1 <= port <= 65535:
        raise ValueError("the port must be from 1 to 65535")
    return SocketAddress(address, port)


ListenAddress = Annotated[SocketAddress, BeforeValidator(parse_socket_address)]


@dataclass(frozen=True, slots=True)
class FileKind:
    """Marks a path field whose file must exist: ``readable``, or ``secret`` (nobody else may use it).

    remedy: what to do where it is missing.
    """

    kind: Literal["readable", "secret"]
    remedy: str = "make it, or correct the path"


@dataclass(frozen=True, slots=True)
class InPlace:
    """Marks a field whose content stands in the file beside the model's other keys, not under a key of its own."""


def _resolve(value: Path, info: ValidationInfo) -> Path:
    return resolve(value, info.context)


def resolve(path: Path, context: Any) -> Path:
    """``path`` from the configuration file's directory; ``~/`` is the home directory."""
    if not str(path).strip() or "\0" in str(path):
        raise ValueError("not a path")
    if path.parts and path.parts[0] == "~":
        path = path.expanduser()
    directory = context.get("directory") if isinstance(context, dict) else None
    return Path(directory) / path if directory is not None else path


ConfigPath = Annotated[Path, AfterValidator(_resolve)]
"""A path; relative ones start at the configuration file's directory. Need not exist."""

InputFile = Annotated[Path, AfterValidator(_resolve), FileKind("readable")]
"""A file that must exist and be readable."""

SecretFile = Annotated[Path, AfterValidator(_resolve), FileKind("secret")]
"""A file that must exist, belong to qtunnel's user or root, and be closed to everybody else."""
