"""Ports, key sources and peers, as far as they can be seen without a key."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
from collections.abc import AsyncIterator

from qtunnel.config import PeerConfig
from qtunnel.doctor.model import Finding, Host, doubtful, good, left_open, wrong
from qtunnel.drivers import registry
from qtunnel.engines.host import port_problem
from qtunnel.errors import KeySourceCertificateError, KeySourceError, KeySourceUnauthorizedError, QtunnelError
from qtunnel.keys.source import KeySource

SOURCE_BOUND = 15.0
"""Seconds for one source's status; the drivers' own limit is 5 s by itself, and more for several KMEs."""

ECHO_BOUND = 0.5
"""Seconds in which a router or a closed port tells; across the world an answer takes 0.3 s."""

ASKED = ("etsi014", "skip")
"""Drivers whose status changes nothing anywhere. Others would open a key stream, take a lock or a client's name."""

_IP_MTU_DISCOVER, _IP_MTU, _IPV6_MTU_DISCOVER, _IPV6_MTU = 10, 14, 23, 24  # linux/in.h, in6.h
_PMTUDISC_DO = 2
_HEADERS = {4: 28, 6: 48}
"""Bytes of IP and UDP."""
_WIREGUARD = 32
"""Bytes that a data message adds to a packet: header 16, tag 16."""


async def ports(host: Host) -> AsyncIterator[Finding]:
    assert host.config is not None
    node = host.config.node
    if host.running:
        yield good("the daemon of this configuration runs, and has them")
        return
    if host.config.tunnel.manage == "all":
        problem = port_problem(node.wireguard_port)
        place = f"UDP {node.wireguard_port}, WireGuard"
        if problem is None:
            yield good("free", place)
        else:
            what, _, remedy = problem.partition("; ")
            yield wrong(what, remedy or "choose another under node.wireguard_port", place)
    for where in node.listen:
        place = f"UDP {where}, handshake"
        family = socket.AF_INET6 if where.address.version == 6 else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((str(where.address), where.port))
        except OSError as error:
            if error.errno == errno.EAFNOSUPPORT and where.address.is_unspecified:
                continue  # a host without IPv6, which the daemon does without as well
            what = (error.strerror or str(error)).lower()
            yield wrong(what, f"ss -lunp 'sport = {where.port}' names who has it; or another under node.listen", place)
        else:
            yield good("free", place)


async def sources(host: Host) -> AsyncIterator[Finding]:
    """Whether each KME answers for each peer: its status alone is asked, which takes no key."""
    assert host.config is not None
    for name, source in host.config.key_sources.items():
        if source.driver not in ASKED:
            yield left_open(
                f"driver {source.driver} is not asked here; 'qtunnel sources' has what its daemon sees", name
            )
            continue
        try:
            hub = registry.find(source.driver).open(name, source.options)
        except QtunnelError as error:
            yield wrong(str(error), "correct what it names", name)
            continue
        try:
            for peer in host.config.peers:
                options = peer.qkd.sources.get(name)
                if options is not None:
                    yield await _status(hub.for_peer(options), f"{name}, towards {peer.name}")
        finally:
            await hub.close()


async def _status(source: KeySource, subject: str) -> Finding:
    try:
        async with asyncio.timeout(SOURCE_BOUND):
            told = await source.status()
    except TimeoutError:
        return wrong(f"no answer within {SOURCE_BOUND:g} s", "is the address right, and a firewall open?", subject)
    except KeySourceCertificateError as error:
        return wrong(error.detail, "look at the certificates of this end and of the KME", subject)
    except KeySourceUnauthorizedError as error:
        return wrong(error.detail, "the KME has to know the SAE of this certificate; ask its vendor", subject)
    except KeySourceError as error:
        return wrong(error.detail, "is the KME up, its address right, and a firewall open?", subject)
    if told.alarm:
        return wrong(told.alarm, "its keys must not be used; ask who runs the QKD link", subject)
    if not told.healthy:
        return wrong(told.detail, "the KME says so itself; ask who runs it", subject)
    return good(told.detail, subject)


async def peers(host: Host) -> AsyncIterator[Finding]:
    """Whether there is a way to each peer, and whether somebody refuses at its handshake port."""
    assert host.config is not None
    for peer in host.config.peers:
        if peer.endpoint is None:
            yield left_open("no endpoint: the peer has to start", peer.name)
            continue
        place = f"{peer.endpoint}, UDP {peer.handshake_port}"
        address = await _address(peer)
        if address is None:
            yield wrong(f"{peer.endpoint} is not found", "correct the name, or write the address", peer.name)
            continue
        with contextlib.closing(_socket(address)) as probe:
            try:
                probe.connect((address, peer.handshake_port))
                probe.send(b"\0")  # no message of ours: whoever is there drops it
            except OSError as error:
                what = (error.strerror or str(error)).lower()
                yield wrong(f"{place}: {what}", "is there a route? ip route get " + address, peer.name)
                continue
            refused = await _refused(probe)
        if refused is None:
            yield good(f"{place}: nobody refuses; whether it is the peer, the first rekey tells", peer.name)
        else:
            remedy = "start qtunnel there, and look at the firewalls on the way"
            yield doubtful(f"{place}: {(refused.strerror or str(refused)).lower()}", remedy, peer.name)


async def mtu(host: Host) -> AsyncIterator[Finding]:
    """Whether a full packet of the tunnel fits into what the way to each peer carries."""
    assert host.config is not None
    tunnel = host.config.tunnel
    for peer in host.config.peers if tunnel.manage == "all" else ():
        address = None if peer.endpoint is None else await _address(peer)
        if address is None:
            continue  # which the check of the peers has said
        version = ipaddress.ip_address(address.partition("%")[0]).version
        needed = tunnel.mtu + _WIREGUARD + _HEADERS[version]
        with contextlib.closing(_socket(address)) as probe:
            carried = await _path_mtu(probe, address, peer.handshake_port, needed, version)
        if carried is None:
            yield left_open("the kernel does not tell what the way carries", peer.name)
        elif carried < needed:
            best = carried - _WIREGUARD - _HEADERS[version]
            seen = f"the way carries {carried} bytes, a full packet of the tunnel takes {needed}"
            yield wrong(seen, f"tunnel.mtu: {best}, at both ends", peer.name)
        else:
            yield good(f"the way carries {carried} bytes, a full packet of the tunnel takes {needed}", peer.name)


async def _path_mtu(probe: socket.socket, address: str, port: int, needed: int, version: int) -> int | None:
    """What the kernel knows of the way once a datagram of that size was sent, which may not be cut."""
    level = socket.IPPROTO_IP if version == 4 else socket.IPPROTO_IPV6
    discover, ask = (_IP_MTU_DISCOVER, _IP_MTU) if version == 4 else (_IPV6_MTU_DISCOVER, _IPV6_MTU)
    try:
        probe.setsockopt(level, discover, _PMTUDISC_DO)
        probe.connect((address, port))
        with contextlib.suppress(OSError):  # EMSGSIZE: the kernel knows already
            probe.send(bytes(needed - _HEADERS[version]))
        await asyncio.sleep(ECHO_BOUND)  # for a router on the way to say that it does not fit
        return probe.getsockopt(level, ask)
    except OSError:
        return None


async def _refused(probe: socket.socket) -> OSError | None:
    """What a router or the other end says of a datagram that was sent."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(ECHO_BOUND):
            await loop.sock_recv(probe, 1)
    except TimeoutError:
        return None
    except OSError as error:
        return error
    return None


def _socket(address: str) -> socket.socket:
    return socket.socket(
        socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    )


async def _address(peer: PeerConfig) -> str | None:
    assert peer.endpoint is not None
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(peer.endpoint, peer.handshake_port, type=socket.SOCK_DGRAM)
    except OSError:
        return None
    return str(found[0][4][0])
