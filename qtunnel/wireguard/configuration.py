"""What UAPI operations do to a device: ``set`` line by line as it arrives, and a client's conversation."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from qtunnel.secret import Secret
from qtunnel.wireguard.allowed_ips import Prefix, Prefixes
from qtunnel.wireguard.answers import get_answer
from qtunnel.wireguard.device import Device
from qtunnel.wireguard.epoch_label import NEVER, EpochLabel
from qtunnel.wireguard.limits import MAX_PEERS
from qtunnel.wireguard.peer import NO_PSK, LabelledPsk, Peer
from qtunnel.wireguard.timers import Timer
from qtunnel.wireguard.uapi import (
    MAX_LINE,
    AllowedIpChange,
    Scope,
    UapiError,
    format_errno,
    parse_assignment,
)

log = logging.getLogger(__name__)

_PREVIOUS_EXPIRES = "previous_expires_boottime_msec"


def clamp(private: Secret) -> Secret:
    """An X25519 private key with the bits of RFC 7748 section 5 set; the argument is wiped."""
    scalar = bytearray(private.reveal())
    private.wipe()
    scalar[0] &= 248
    scalar[31] = scalar[31] & 127 | 64
    clamped = Secret(scalar)
    scalar[:] = bytes(len(scalar))
    return clamped


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


@dataclass(slots=True)
class _PeerSection:
    """The lines between one ``public_key`` and the next. What belongs together waits here for the section's end.

    peer: None where the section is of nobody any more. created: by this section; its key is random up to the end.
    taken: prefixes that such a peer has of others, to be given back where it does not stay.
    """

    peer: Peer | None
    created: bool = False
    values: dict[str, Any] = field(default_factory=dict)
    taken: list[tuple[Prefix, Prefixes[Peer]]] = field(default_factory=list)


class SetOperation:
    """One ``set=1``. Every line takes effect when it is read, or at the end of its peer.

    After an error, ``abandon``: what waited for the end of the section is forgotten, and a peer that it made goes, of
    which nobody knows the key; prefixes that it took from others are theirs again.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._state = device.state
        self._section: _PeerSection | None = None

    def line(self, line: bytes, now: float) -> None:
        """Apply one line. Raises ``UapiError``."""
        key, scope, value = parse_assignment(line, self._state.host.scope_index)
        if key == "public_key":
            self.finish(now)
            self._begin_peer(value)
        elif scope is Scope.DEVICE:
            if self._section is not None:
                raise UapiError(errno.EINVAL, f"{key} has to stand before the first public_key")
            self._set_device(key, value, now)
        elif self._section is None:
            raise UapiError(errno.EINVAL, f"{key} has to stand after a public_key")
        else:
            self._set_peer(self._section, key, value, now)

    def finish(self, now: float) -> None:
        """The end of a peer's section or of the operation. Raises ``UapiError``."""
        section = self._section
        if section is None:
            return
        peer, values = self._peer(section), section.values
        if peer is None:
            self._section = None
            return
        self._set_psk(section, peer, now)
        self._section = None
        if "drop_sessions" in values:
            self._state.wipe_sessions(peer)
        if "persistent_keepalive_interval" in values:
            self._set_keepalive(peer, values["persistent_keepalive_interval"], now)
        if "record_mode" in values:
            self._device.records.set_suite(peer, values["record_mode"], now)
        if self._state.up:
            if "handshake" in values:
                self._device.handshakes.initiate_with_new_psk(peer, now)
            self._device.transport.send_staged(peer, now)

    def abandon(self) -> None:
        """Nothing of the section that is open takes effect any more."""
        section, self._section = self._section, None
        if section is None:
            return
        for value in section.values.values():
            if isinstance(value, Secret):
                value.wipe()
        peer = self._peer(section)
        if peer is not None and section.created:
            self._unmake(section, peer)

    def _unmake(self, section: _PeerSection, peer: Peer) -> None:
        """The peer that the section made does not stay."""
        self._state.remove_peer(peer)
        for prefix, before in reversed(section.taken):
            self._state.allowed_ips.give_back(prefix, before)

    def _peer(self, section: _PeerSection) -> Peer | None:
        """The section's peer, unless it was removed meanwhile, by another client or as being ourselves."""
        peer = section.peer
        return peer if peer is not None and self._state.peers.get(peer.public_key) is peer else None

    def _set_device(self, key: str, value: Any, now: float) -> None:
        state = self._state
        if key == "private_key":
            self._set_private_key(value, now)
        elif key == "listen_port":
            if value == 0 or value != state.listen_port:
                self._bind(value, state.fwmark)
        elif key == "fwmark":
            if value != state.fwmark and state.listen_port:
                self._bind(state.listen_port, value)
            state.fwmark = value
        else:  # replace_peers
            for peer in list(state.peers.values()):
                state.remove_peer(peer)

    def _set_private_key(self, private: Secret, now: float) -> None:
        state = self._state
        if private == Secret(NO_PSK):  # which takes the key away, as in wg(8)
            state.set_static(None)
            return
        clamped = clamp(private)
        if state.static is not None and state.static.private == clamped:
            return
        state.set_static(clamped)
        if not state.up:
            return
        for peer in state.peers.values():  # for what waited for a key, as the kernel does
            if peer.timers.persistent:
                self._device.transport.send_keepalive(peer, now)
            self._device.transport.send_staged(peer, now)

    def _bind(self, port: int, fwmark: int) -> None:
        try:
            self._state.listen_port = self._state.host.bind(port, fwmark)
        except OSError as error:
            raise UapiError(error.errno or errno.EIO, f"UDP port {port}: {error.strerror}") from None
        for peer in self._state.peers.values():
            peer.forget_source()

    def _begin_peer(self, public_key: bytes) -> None:
        state = self._state
        if state.static is not None and public_key == state.static.public:
            self._section = _PeerSection(None)  # ourselves: silently ignored, as the kernel does
            return
        peer = state.peers.get(public_key)
        self._section = _PeerSection(peer)
        if peer is None:
            if len(state.peers) >= MAX_PEERS:
                self._section = None
                raise UapiError(errno.ENOSPC, f"more than {MAX_PEERS} peers")
            self._section = _PeerSection(state.add_peer(public_key), created=True)

    def _set_peer(self, section: _PeerSection, key: str, value: Any, now: float) -> None:
        peer = self._peer(section)
        if peer is None:
            return
        if key == "remove":
            self._state.remove_peer(peer)
            section.peer = None
        elif key == "update_only":
            if section.created:
                self._unmake(section, peer)
                section.peer = None
        elif key == "endpoint":
            peer.endpoint = value
        elif key == "replace_allowed_ips":
            self._state.allowed_ips.drop(peer.allowed_ips)
            peer.allowed_ips = Prefixes(peer)
        elif key == "allowed_ip":
            self._change_allowed_ip(section, peer, value)
        else:
            section.values[key] = value

    def _change_allowed_ip(self, section: _PeerSection, peer: Peer, change: AllowedIpChange) -> None:
        if change.add:
            before = self._state.allowed_ips.insert(change.prefix, peer.allowed_ips)
            if section.created and before is not None:
                section.taken.append((change.prefix, before))
        else:
            self._state.allowed_ips.remove(change.prefix, peer.allowed_ips)

    def _set_psk(self, section: _PeerSection, peer: Peer, now: float) -> None:
        values = section.values
        ends = _seconds(values.get("expires_boottime_msec"))
        if "preshared_key" not in values:
            for key in ("epoch", "epoch_note", "previous_preshared_key"):
                if key in values:
                    raise UapiError(errno.EINVAL, f"{key} needs a preshared_key in the same operation")
            if ("previous_epoch" in values) is not (_PREVIOUS_EXPIRES in values):
                raise UapiError(errno.EINVAL, f"previous_epoch and {_PREVIOUS_EXPIRES} need each other")
            if section.created:
                self._first_psk(peer, LabelledPsk(Secret(NO_PSK)), None)
            if ends is not None:
                peer.psk.label.ends = ends
                peer.timers.psk_set(ends)
            if _PREVIOUS_EXPIRES in values:
                peer.end_before(values["previous_epoch"], values[_PREVIOUS_EXPIRES] / 1000)
            return
        previous = None
        if "previous_preshared_key" in values:
            previous = self._previous(peer, values, now)
        else:
            for key in ("previous_epoch", _PREVIOUS_EXPIRES):
                if key in values:
                    raise UapiError(errno.EINVAL, f"{key} needs a previous_preshared_key")
        psk: Secret = values["preshared_key"]
        label = EpochLabel(values.get("epoch"), values.get("epoch_note", ""), NEVER if ends is None else ends)
        if psk == peer.psk.psk and values.get("epoch", peer.psk.epoch) == peer.psk.epoch:
            label = peer.psk.label  # set again: the sessions that it has made go on ending with it
            label.ends = label.ends if ends is None else ends
            label.note = values.get("epoch_note", label.note)
        if section.created:
            self._first_psk(peer, LabelledPsk(psk, label), previous)
        else:
            peer.set_psk(LabelledPsk(psk, label), previous)
        if previous is not None:
            peer.timers.previous_psk_set(now)

    def _previous(self, peer: Peer, values: dict[str, Any], now: float) -> LabelledPsk | None:
        """The key before the new one, with an end of its own: that of the key in place where it is that one, else the
        one that is said. A key without either, before one that ends, may be long over, and is not taken."""
        psk, epoch = values["previous_preshared_key"], values.get("previous_epoch")
        if psk == peer.psk.psk and epoch == peer.psk.epoch:
            label = peer.psk.label
        else:
            ends = _seconds(values.get(_PREVIOUS_EXPIRES))
            unknown = now if "expires_boottime_msec" in values else NEVER
            label = EpochLabel(epoch, ends=unknown if ends is None else ends)
        if label.over(now):
            psk.wipe()
            return None
        return LabelledPsk(psk, label)

    def _first_psk(self, peer: Peer, psk: LabelledPsk, previous: LabelledPsk | None) -> None:
        """In place of the random one; a handshake that was begun with that can only fail, and is forgotten."""
        peer.set_psk(psk, previous)
        self._state.drop_pending(peer)
        peer.last_initiation_sent = float("-inf")

    def _set_keepalive(self, peer: Peer, interval: int, now: float) -> None:
        turned_on = interval and not peer.timers.persistent
        peer.timers.persistent = interval
        if not interval:
            peer.timers.disarm(Timer.PERSISTENT)
        elif self._state.up:
            if turned_on:
                self._device.transport.send_keepalive(peer, now)
            peer.timers.arm(Timer.PERSISTENT, now + interval)


class UapiConversation:
    """One client's connection: bytes in, answers out. ``closed`` when the client is to be hung up on."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._buffer = bytearray()
        self._operation: SetOperation | None = None
        self._getting = self._brief = False
        self._error = 0
        self.closed = False

    def feed(self, data: bytes | memoryview, now: float) -> Iterator[Iterator[bytes]]:
        """Process what arrived; the answers to the operations that it completed."""
        self._buffer += data
        complete = self._buffer.rfind(b"\n") + 1
        lines = bytes(memoryview(self._buffer)[:complete]).split(b"\n")[:-1]
        self._buffer[:complete] = bytes(complete)  # there may have been keys in it
        del self._buffer[:complete]
        for line in lines:
            answer = self._line(line, now)
            if answer is not None:
                yield answer
            if self.closed:
                return
        if len(self._buffer) > MAX_LINE:
            self.closed = True

    def end(self, now: float) -> Iterator[bytes] | None:
        """The client closed its side; a ``set`` without its empty line still counts."""
        self.closed = True
        return self._finish(now) if self._operation is not None else None

    def _line(self, line: bytes, now: float) -> Iterator[bytes] | None:
        if self._getting:
            if line == b"brief=true" and not self._brief:
                self._brief = True
                return None
            brief, self._getting, self._brief = self._brief, False, False
            if line:
                self.closed = True
                return None
            return get_answer(self._device, now, brief=brief)
        if self._operation is None:
            if line == b"set=1":
                self._operation, self._error = SetOperation(self._device), 0
            elif line == b"get=1":
                self._getting = True
            else:
                self.closed = True
            return None
        if not line:
            return self._finish(now)
        if not self._error:
            try:
                self._operation.line(line, now)
            except UapiError as error:
                self._refuse(self._operation, error)
        return None

    def _finish(self, now: float) -> Iterator[bytes]:
        operation, self._operation = self._operation, None
        assert operation is not None
        try:
            operation.finish(now)
        except UapiError as error:
            self._refuse(operation, error)
        return iter([format_errno(self._error)])

    def _refuse(self, operation: SetOperation, error: UapiError) -> None:
        operation.abandon()
        self._error = self._error or error.code
        log.warning("msg=%r", f"UAPI set refused: {error}")
