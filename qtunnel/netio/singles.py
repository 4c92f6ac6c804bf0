"""Packets that came one by one, on their way to the network: those of one size to one peer go out in one burst."""

from __future__ import annotations

from collections.abc import Callable

from qtunnel.netio.tun import MAX_READ
from qtunnel.netio.udp import MAX_BURST, MAX_SEGMENTS
from qtunnel.wireguard.device import Device
from qtunnel.wireguard.peer import Peer
from qtunnel.wireguard.runs import RunSealer
from qtunnel.wireguard.session import Keypair
from qtunnel.wireguard.transport import DATA_OVERHEAD


class Singles:
    """Keeps packets until one comes that cannot go with them; they are sealed together when they go.

    ``flush`` has to be called before anything else is sent, and before the session that was given may end.
    """

    def __init__(self, device: Device, send: Callable[[Peer, memoryview, int], None]) -> None:
        """send: datagrams to a peer, and the bytes of all but the last."""
        self._transport = device.transport
        self._send = send
        plain = bytearray(MAX_BURST + 2 * MAX_READ)
        self._plain = memoryview(plain)
        self._sealer = RunSealer(device.transport, plain)
        self._sealed = memoryview(bytearray(MAX_READ + DATA_OVERHEAD))
        self._peer: Peer | None = None
        self._keypair: Keypair | None = None
        self._count = 0
        self._stride = 0
        """Bytes of each packet but the last with its padding; the last may have fewer."""
        self._last = 0
        self._length = 0
        """Bytes of the last packet without its padding."""
        self._now = 0.0

    def add(self, peer: Peer, keypair: Keypair, buffer: memoryview, length: int, now: float) -> None:
        """The packet ``buffer[:length]``, under a session that may send."""
        size = self._transport.padded(length)
        if self._count and (
            peer is not self._peer
            or keypair is not self._keypair
            or size > self._stride
            or self._count == MAX_SEGMENTS
            or (self._count + 1) * (self._stride + DATA_OVERHEAD) > MAX_BURST
        ):
            self.flush()
        if not self._count:
            self._peer, self._keypair, self._stride, self._now = peer, keypair, size, now
        at = self._count * self._stride
        self._plain[at : at + length] = buffer[:length]
        if size > length:
            self._plain[at + length : at + size] = bytes(size - length)
        self._count += 1
        self._last, self._length = size, length
        if size < self._stride:
            self.flush()

    def send(self, peer: Peer, keypair: Keypair, buffer: memoryview, length: int, now: float) -> None:
        """Send the packet ``buffer[:length]``, behind which there is room for padding, by itself; nothing may wait."""
        size = self._transport.seal_into(peer, keypair, buffer, length, now, self._sealed)
        self._send(peer, self._sealed[:size], size)

    def flush(self) -> None:
        """Send what waits."""
        count, peer, keypair = self._count, self._peer, self._keypair
        if not count or peer is None or keypair is None:
            return
        self._count = 0
        self._peer = self._keypair = None
        if count == 1:
            self.send(peer, keypair, self._plain, self._length, self._now)
            return
        self._send(peer, *self._sealer.seal(peer, keypair, self._stride, 0, count, self._last, self._now))
