"""The grammar of WireGuard's cross-platform userspace API (wireguard.com/xplatform).

Besides the standard keys these of our own exist, per peer. wg(8) never sends them and ignores them in answers.

| in ``set``                    | meaning |
| ----------------------------- | ------- |
| ``epoch=N``                   | labels the ``preshared_key`` of the same operation, 0 to 2^64-1 |
| ``previous_preshared_key=HEX``| with ``preshared_key``: as initiator also try this one on a response |
| ``previous_epoch=N``          | labels ``previous_preshared_key`` |
| ``expires_boottime_msec=N``   | the key and all sessions made with it end when CLOCK_BOOTTIME is N ms; the peer is |
|                               | blocked then, unless another key was set; without ``preshared_key``: of that in |
|                               | place |
| ``previous_expires_boottime_msec=N`` | the same of ``previous_preshared_key``; without a ``preshared_key``: the |
|                               | key and the sessions of ``previous_epoch`` end no later |
| ``epoch_note=TEXT``           | with ``epoch``: printable ASCII, given back as it is; 900 bytes at most |
| ``drop_sessions=true``        | forget all sessions, handshakes and staged packets of the peer at once |
| ``handshake=now``             | start a handshake at once if none was started with the present preshared key |
| ``record_mode=SUITE``         | record mode with ``aes-256-gcm`` or ``chacha20-poly1305``, in new sessions; ``off`` |

| behind ``get=1``              | meaning |
| ----------------------------- | ------- |
| ``brief=true``                | leave keys, allowed IPs and what else was configured out of the answer |

| in ``get``                    | meaning |
| ----------------------------- | ------- |
| ``epoch=N``                   | label of the key pair that sends now; absent where there is none or it has no label |
| ``epoch_time_sec=S.NS``       | Unix time at which that key pair was made, nine digits behind the point |
| ``epoch_note=TEXT``           | as set with that epoch; absent where nothing was |
| ``installed_epoch=N``         | label of the preshared key; ``installed_note=TEXT`` is its note |
| ``expires_boottime_msec=N``   | when the preshared key ends; absent where it does not |
| ``ended_epoch=N``             | label of the preshared key that has ended by itself, until another is set |
| ``record_mode=SUITE``         | as set; absent where it is off |
| ``record_mode_state=STATE``   | ``active`` where records are sent, else ``probing`` or ``resting`` |
| ``record_mode_reason=TEXT``   | why records are not sent; absent where they are |
| ``packets=N``                 | sealed and opened, by the counters of all sessions; absent while there are none |
"""

from __future__ import annotations

import binascii
import errno
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from qtunnel.addresses import pack_address, unpack_address
from qtunnel.secret import Secret
from qtunnel.wireguard.allowed_ips import Prefix, network_of, prefix_of
from qtunnel.wireguard.endpoint import Endpoint, parse_endpoint
from qtunnel.wireguard.session import RECORD_SUITES

MAX_LINE = 1024
"""Bytes; the longest line of the standard, a key, has under 100."""

KEY_SIZE = 32

MAX_NOTE = 900
"""Bytes of a note, so that it fits into a line."""


class UapiError(Exception):
    """A request that is answered with ``errno=-code``. The text is for the log and holds no value of a key."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Scope(Enum):
    DEVICE = "device"
    PEER = "peer"


class AllowedIpChange(NamedTuple):
    """A prefix to add, or to remove (``allowed_ip=-...``)."""

    prefix: Prefix
    add: bool


ScopeIndex = Callable[[str], int]


def _invalid(text: str) -> UapiError:
    return UapiError(errno.EINVAL, text)


def _raw_key(value: bytes) -> bytes:
    if len(value) != 2 * KEY_SIZE:
        raise _invalid("a key has 64 hexadecimal digits")
    try:
        return binascii.unhexlify(value)
    except binascii.Error:
        raise _invalid("a key has 64 hexadecimal digits") from None


def _public(value: bytes, _: ScopeIndex) -> bytes:
    return _raw_key(value)


def _secret(value: bytes, _: ScopeIndex) -> Secret:
    return Secret(_raw_key(value))


def _unsigned(bits: int) -> Callable[[bytes, ScopeIndex], int]:
    def parse(value: bytes, _: ScopeIndex) -> int:
        # bytes.isdigit is ASCII only; the length keeps int() from huge numbers
        if not value.isdigit() or len(value) > 20 or int(value) >= 1 << bits:
            raise _invalid(f"a number of 0 to {(1 << bits) - 1} is expected")
        return int(value)

    return parse


def _true(value: bytes, _: ScopeIndex) -> bool:
    if value != b"true":
        raise _invalid("only 'true' is allowed here")
    return True


def _now(value: bytes, _: ScopeIndex) -> bool:
    if value != b"now":
        raise _invalid("only 'now' is allowed here")
    return True


def _record_suite(value: bytes, _: ScopeIndex) -> str:
    name = value.decode("ascii", "replace")
    if name == "off":
        return ""
    if name not in RECORD_SUITES:
        raise _invalid(f"only 'off' and {', '.join(RECORD_SUITES)} are allowed here")
    return name


def _note(value: bytes, _: ScopeIndex) -> str:
    if len(value) > MAX_NOTE or not all(32 <= byte < 127 for byte in value):
        raise _invalid(f"up to {MAX_NOTE} printable ASCII characters are expected")
    return value.decode("ascii")


def _version(value: bytes, _: ScopeIndex) -> int:
    if value != b"1":
        raise _invalid("the only protocol version is 1")
    return 1


def _endpoint(value: bytes, scope_index: ScopeIndex) -> Endpoint:
    try:
        return parse_endpoint(value.decode("ascii"), scope_index)
    except (ValueError, OSError):
        raise _invalid("an endpoint is a.b.c.d:port or [v6]:port, numeric") from None


def _allowed_ip(value: bytes, _: ScopeIndex) -> AllowedIpChange:
    add = not value.startswith(b"-")
    address, slash, length = value.removeprefix(b"-").partition(b"/")
    try:
        if slash and not (length.isdigit() and len(length) <= 3):
            raise ValueError(value)
        packed = pack_address(address.decode("ascii"))
        return AllowedIpChange(prefix_of(packed, int(length) if slash else len(packed) * 8), add)
    except ValueError:
        raise _invalid("an allowed IP is address/length") from None


_U64 = _unsigned(64)

KEYS: dict[str, tuple[Scope, Callable[[bytes, ScopeIndex], Any]]] = {
    "private_key": (Scope.DEVICE, _secret),
    "listen_port": (Scope.DEVICE, _unsigned(16)),
    "fwmark": (Scope.DEVICE, _unsigned(32)),
    "replace_peers": (Scope.DEVICE, _true),
    "public_key": (Scope.PEER, _public),
    "update_only": (Scope.PEER, _true),
    "remove": (Scope.PEER, _true),
    "preshared_key": (Scope.PEER, _secret),
    "endpoint": (Scope.PEER, _endpoint),
    "persistent_keepalive_interval": (Scope.PEER, _unsigned(16)),
    "replace_allowed_ips": (Scope.PEER, _true),
    "allowed_ip": (Scope.PEER, _allowed_ip),
    "protocol_version": (Scope.PEER, _version),
    "epoch": (Scope.PEER, _U64),
    "previous_preshared_key": (Scope.PEER, _secret),
    "previous_epoch": (Scope.PEER, _U64),
    "expires_boottime_msec": (Scope.PEER, _U64),
    "previous_expires_boottime_msec": (Scope.PEER, _U64),
    "epoch_note": (Scope.PEER, _note),
    "drop_sessions": (Scope.PEER, _true),
    "handshake": (Scope.PEER, _now),
    "record_mode": (Scope.PEER, _record_suite),
}
"""Every key of ``set``: where it stands and what its value is."""


def parse_assignment(line: bytes, scope_index: ScopeIndex) -> tuple[str, Scope, Any]:
    """One ``key=value`` line of ``set``: the key, its scope and the typed value. Raises ``UapiError``."""
    name, equals, value = line.partition(b"=")
    if not equals:
        raise UapiError(errno.EPROTO, "a line without '='")
    key = name.decode("ascii", "replace")
    entry = KEYS.get(key)
    if entry is None:
        raise _invalid(f"unknown key {key[:40]!r}")
    scope, parse = entry
    try:
        return key, scope, parse(value, scope_index)
    except UapiError as error:
        raise UapiError(error.code, f"{key}: {error}") from None


def format_prefix(prefix: Prefix) -> str:
    """``address/length``."""
    return f"{unpack_address(network_of(prefix))}/{prefix[1]}"


def format_errno(code: int) -> bytes:
    """The end of an answer; 0 is success, others go out negative as wg(8) wants them."""
    return f"errno={-code}\n\n".encode()
