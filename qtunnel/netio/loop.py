"""The loop of an engine process: TUN, UDP, UAPI and timers around one sans-IO device."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from qtunnel.marks import set_mark
from qtunnel.netio import defects, kernel
from qtunnel.netio.inbound import Inbound
from qtunnel.netio.link import LOOK_INTERVAL, Link, LinkState
from qtunnel.netio.losses import LossReport, words
from qtunnel.netio.outbound import Outbound
from qtunnel.netio.routes import Routes
from qtunnel.netio.tun import Tun
from qtunnel.netio.uapi_socket import UapiServer, bind_socket
from qtunnel.netio.udp import UdpPort, bind_pair
from qtunnel.secret import Secret
from qtunnel.wireguard.device import Device
from qtunnel.wireguard.state import Drop
from qtunnel.workers.farm import Farm

FAILED_READS = 100
"""Reads of the TUN that fail one after the other until it rests. Each takes a packet away, as far as is known; together
they take about 3 ms."""
REST = 0.01
"""Seconds of that: an error without end takes a quarter of a core, and behind packets that cannot be read the TUN's
queue has room for 100,000 good ones a second."""
PAUSE = 0.001
"""Seconds after a defect outside the packet path: where it comes back with every turn, that leaves most of a core."""

log = logging.getLogger(__name__)


def clock() -> float:
    """Seconds that also pass while the machine is suspended, so that sessions age then too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Loop:
    """Runs one WireGuard interface until it is told to stop or its TUN or UAPI socket goes away."""

    def __init__(self, tun: Tun, listener: socket.socket, farm: Farm | None, *, offload: bool) -> None:
        self._epoll = select.epoll()
        self._tun = tun
        self._farm = farm
        self._routes = Routes()
        self._offload = offload
        self._udp = UdpPort(self._routes, segments=offload)
        self._device = Device(self)
        self._uapi = UapiServer(listener, self._device, self._epoll, clock)
        self._link = Link(tun.fd)
        self._next_look = math.inf
        self._directory = kernel.watch_directory(self._uapi.path.parent)
        self._wakeup, self._wakeup_writer = socket.socketpair()
        self._losses = LossReport(clock())
        self._running = True
        self._reason = ""
        self._defects: set[str] = set()
        self._unread: Counter[str] = Counter()
        self._outbound = Outbound(tun, self._device, self._udp, farm)
        self._inbound = Inbound(tun, self._device, self._udp, farm, self._survive)
        self._handlers: dict[int, Callable[[], None]] = {
            tun.fd: self._read_tun,
            listener.fileno(): self._accept,
            self._link.fileno(): self._link_changed,
            self._routes.events.fileno(): self._routes.changed,
            self._directory: self._directory_changed,
            self._wakeup.fileno(): self._signalled,
        }
        if farm is not None:
            self._handlers |= {descriptor: partial(farm.collect, descriptor) for descriptor in farm.descriptors}
            farm.on_lost = self._handlers.__delitem__
        for descriptor in self._handlers:
            self._epoll.register(descriptor, select.EPOLLIN)
        self._catch_signals()

    # What the device asks of its host

    def random_bytes(self, size: int) -> bytes:
        return os.urandom(size)

    def unix_ns(self) -> int:
        return time.time_ns()

    def bind(self, port: int, fwmark: int) -> int:
        """Open new sockets before the old ones close, unless they would be in each other's way."""
        if self._udp.sockets and port == self._udp.port():
            self._mark(fwmark)
            return port
        sockets = bind_pair(port, fwmark, bursts=self._offload)
        self._udp.paths.fwmark = fwmark
        for sock in self._udp.sockets:
            del self._handlers[sock.fileno()]
        self._udp.replace(sockets)
        for sock in sockets:
            self._handlers[sock.fileno()] = partial(self._read_udp, sock)
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        return self._udp.port()

    def _mark(self, fwmark: int) -> None:
        self._udp.paths.fwmark = fwmark
        for sock in self._udp.sockets:
            set_mark(sock, fwmark)

    def scope_index(self, name: str) -> int:
        return socket.if_nametoindex(name)

    def session_began(
        self, index: int, keys: tuple[Secret, Secret], suite: str, record_keys: tuple[Secret, Secret] | None
    ) -> None:
        if self._farm is not None:
            self._farm.session_began(index, keys, suite, record_keys)

    def session_ended(self, index: int) -> None:
        if self._farm is not None:
            self._farm.session_ended(index)

    # The loop

    def run(self) -> str:
        """Serve until the end; why it ended, in words."""
        self._link_changed()
        device = self._device
        while self._running:
            deadline = min(device.next_deadline(), self._losses.next, self._next_look)
            if self._farm is not None:
                deadline = min(deadline, clock() + self._farm.time_left())
            # A try costs nothing where nothing is raised. Each part has its own: what fails every time in one of them
            # must not keep the others from their turn.
            for descriptor, _ in self._epoll.poll(max(0.0, deadline - clock())):
                try:
                    handler = self._handlers.get(descriptor)
                    if handler is not None:
                        handler()
                    elif self._uapi.owns(descriptor):
                        self._uapi.handle(descriptor)
                    if device.outbox:
                        self._flush()
                except Exception as error:
                    self._survive_slowly(error)
            now = clock()
            try:
                if self._farm is not None:
                    self._farm.end_stuck()
                    self._go_on()
                if now >= self._next_look:
                    self._link_changed()
            except Exception as error:
                self._survive_slowly(error)
            try:
                device.tick(now)
                if device.outbox:
                    self._flush()
            except Exception as error:
                self._survive_slowly(error)
            if now >= self._losses.next:
                self._losses.look(self._lost(), now)
        return self._reason

    def _lost(self) -> dict[str, int]:
        """What was dropped, and what could not be sent or delivered, by reason."""
        return {str(reason): count for reason, count in self._device.drops.items()} | dict(
            self._udp.errors + self._inbound.errors + self._unread
        )

    def stop(self, reason: str) -> None:
        """Make ``run`` return."""
        self._running = False
        self._reason = self._reason or reason

    def _catch_signals(self) -> None:
        self._wakeup.setblocking(False)
        self._wakeup_writer.setblocking(False)
        for caught in (signal.SIGTERM, signal.SIGINT):
            signal.signal(caught, lambda number, _: self.stop(signal.Signals(number).name))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wakeup_writer.fileno())

    def _signalled(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(64)

    def _flush(self) -> None:
        outbox = self._device.outbox
        try:
            for endpoint, datagram in outbox:
                self._outbound.post(datagram, endpoint)
        finally:  # what cannot be sent must not come back with every turn
            outbox.clear()

    def _read_tun(self) -> None:
        if not self._device.state.up:
            self._link_changed()
        try:
            self._outbound.read(clock())
        except OSError as error:
            self._read_again(error)
        except Exception as error:
            self._survive(error)

    def _read_again(self, error: OSError) -> None:
        """One packet that the kernel cannot hand over, as one whose GSO fields it has no words for, is lost;
        all others go on."""
        failed = 0
        while not self._gone(error):
            name = f"tun-read-{errno.errorcode.get(error.errno or 0, 'EIO')}"
            self._unread[name] += 1
            if self._unread[name] == 1:
                log.warning("msg=%r", f"a packet of the TUN cannot be read: {name}; more of these are only counted")
            failed += 1
            if failed == FAILED_READS:
                self._epoll.modify(self._tun.fd, 0)
                self._next_look = min(self._next_look, clock() + REST)
                return
            try:
                self._outbound.read(clock())
                return
            except OSError as another:
                error = another
            except Exception as defect:
                self._survive(defect)
                return

    def _gone(self, error: OSError) -> bool:
        """Whether the TUN is, which ends the loop."""
        if error.errno == errno.EBADFD:
            self.stop(f"the TUN device went away ({error.strerror})")
        return error.errno == errno.EBADFD

    def _read_udp(self, sock: socket.socket) -> None:
        try:
            self._inbound.read(sock.fileno(), clock())
        except OSError as error:
            if not self._gone(error):
                self._survive(error)

    def _survive(self, error: Exception) -> None:
        """What somebody sent must not end everybody's tunnels, even where there is a defect: it is dropped.

        No key is in use for longer by that: its end is looked at with each packet and handshake, whatever timers do.
        """
        self._device.drops[Drop.DEFECT] += 1
        found = defects.words(error)
        if found not in self._defects:
            self._defects.add(found)
            log.error(
                "msg=%r", f"a defect of qtunnel: {found}; what was being handled is dropped, more is only counted"
            )

    def _survive_slowly(self, error: Exception) -> None:
        """Likewise outside the packet path, where what failed may be there again in the next turn."""
        self._survive(error)
        time.sleep(PAUSE)

    def _go_on(self) -> None:
        """With what workers have done."""
        now = clock()
        try:
            self._outbound.go_on(now)
            self._inbound.go_on(now)
        except OSError as error:
            if not self._gone(error):
                self._survive(error)
        except Exception as error:
            self._survive(error)

    def _link_changed(self) -> None:
        """An interface changed, perhaps ours; ask how it is now. A TUN that rests is read again."""
        self._epoll.modify(self._tun.fd, select.EPOLLIN)
        link = self._link.look() or LinkState(True, self._device.state.mtu)  # out of reach: it may well be up
        state = self._device.state
        state.mtu = link.mtu
        if self._offload and not self._link.away:  # there, and not here, where another may have its name
            self._tun.fit_bursts(state.mtu)
        self._next_look = clock() + LOOK_INTERVAL if self._link.away else math.inf
        if not link.up:
            self._device.link_down()
        elif not state.up:
            try:
                self._device.link_up(clock())
            except OSError as error:
                log.error("msg=%r", f"no UDP port can be opened: {error.strerror}; set another listen-port")

    def _accept(self) -> None:
        if self._link.away:  # what is configured now must not meet the state of a second ago
            self._link_changed()
        self._uapi.accept()

    def _directory_changed(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._directory, 65536):
                pass
        if not self._uapi.exists():
            self.stop(f"the UAPI socket {self._uapi.path} was removed")

    def close(self) -> None:
        """Wipe the keys, remove the socket and the interface."""
        signal.set_wakeup_fd(-1)
        self._device.close()
        if self._farm is not None:
            self._farm.close()
        self._uapi.close()
        self._tun.close()
        self._udp.close()
        self._link.close()
        self._routes.close()
        os.close(self._directory)
        self._wakeup.close()
        self._wakeup_writer.close()
        self._epoll.close()
        log.info("msg=%r drops=%r", "interface closed", words(self._lost()))


def open_loop(name: str, socket_directory: Path, *, offload: bool, processes: int = 1) -> Loop:
    """Everything an interface needs, its UAPI socket last: who finds that, finds it answering.

    processes: that seal and open packets, this one among them.

    Raises ``InterfaceError``, ``AlreadyRunningError`` or ``EngineError``, with nothing left behind.
    """
    tun = Tun(name, offload=offload)
    farm = None
    try:
        if processes > 1 and tun.segments:
            farm = Farm(processes - 1, udp_segments=tun.udp_segments)
        elif processes > 1:
            log.warning("msg=%r", "no worker processes: without segmentation offload there are no bursts for them")
        listener = bind_socket(socket_directory, name)
    except BaseException:
        if farm is not None:
            farm.close()
        tun.close()
        raise
    return Loop(tun, listener, farm, offload=offload)
