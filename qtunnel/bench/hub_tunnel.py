"""The WireGuard of one of a hub's peers, without a TUN: it shakes hands and keeps sessions, and carries nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time

from qtunnel.constants import DEFAULT_WIREGUARD_PORT
from qtunnel.identity import Identity, PublicIdentity
from qtunnel.rekey.model import Install
from qtunnel.secret import Secret
from qtunnel.wireguard.configuration import SetOperation
from qtunnel.wireguard.device import Device

RECEIVED_AT_ONCE = 64


class PeerTunnel:
    """Of a peer at an outer address, with the hub as its one peer."""

    def __init__(self, identity: Identity, hub: PublicIdentity, address: str, hub_address: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._hub = hub.wireguard.hex()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind((address, DEFAULT_WIREGUARD_PORT))
        self._device = Device(self)
        endpoint = f"{hub_address}:{DEFAULT_WIREGUARD_PORT}"
        self._set(
            f"private_key={identity.wireguard.reveal().hex()}", f"listen_port={DEFAULT_WIREGUARD_PORT}",
            f"public_key={self._hub}", f"endpoint={endpoint}", "allowed_ip=0.0.0.0/0",
            f"preshared_key={os.urandom(32).hex()}",
        )  # fmt: skip
        self._device.link_up(_now())
        self._loop.add_reader(self._socket, self._receive)

    def install(self, effect: Install) -> None:
        """An epoch's PSK, which is wiped, in place; and a handshake with it where this end begins."""
        lines = [f"preshared_key={effect.psk.reveal().hex()}", f"epoch={effect.epoch}"]
        if effect.previous_psk is not None:
            before = effect.previous_psk.reveal().hex()
            lines += [f"previous_preshared_key={before}", f"previous_epoch={effect.previous_epoch or 0}"]
            effect.previous_psk.wipe()
        effect.psk.wipe()
        if effect.handshake_now:
            lines.append("handshake=now")
        self._set(f"public_key={self._hub}", *lines)
        self._flush()

    # -- what a device asks of its host

    def random_bytes(self, size: int) -> bytes:
        return os.urandom(size)

    def unix_ns(self) -> int:
        return time.time_ns()

    def bind(self, port: int, fwmark: int) -> int:
        return port

    def scope_index(self, name: str) -> int:
        return socket.if_nametoindex(name)

    def session_began(
        self, index: int, keys: tuple[Secret, Secret], suite: str, record_keys: tuple[Secret, Secret] | None
    ) -> None:
        pass

    def session_ended(self, index: int) -> None:
        pass

    # -- and what carries it

    def _set(self, *lines: str) -> None:
        operation = SetOperation(self._device)
        for line in lines:
            operation.line(line.encode(), _now())
        operation.finish(_now())

    def _receive(self) -> None:
        for _ in range(RECEIVED_AT_ONCE):
            try:
                data, source = self._socket.recvfrom(2048)
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMP error: the hub's engine is not there yet
            self._device.receive(memoryview(bytearray(data)), source, _now())
        self._flush()

    def _tick(self) -> None:
        self._device.tick(_now())
        self._flush()

    def _flush(self) -> None:
        for endpoint, datagram in self._device.outbox:
            with contextlib.suppress(OSError):
                self._socket.sendto(datagram, endpoint[:2])
        self._device.outbox.clear()
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._device.next_deadline()
        self._timer = None
        if deadline < float("inf"):
            self._timer = self._loop.call_later(max(0.0, deadline - _now()), self._tick)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
