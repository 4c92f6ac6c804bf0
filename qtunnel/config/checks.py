"""What no single field can tell: names given twice, policies that contradict each other, identities that clash."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from pathlib import Path
from typing import TypeVar

from qtunnel.addresses import is_numeric
from qtunnel.config.document import Location, Problem, dotted
from qtunnel.config.kems import check_kem_keys, check_suites, kem_doubts
from qtunnel.config.key_file import KEY_REMEDY, PSK_REMEDY, read_key
from qtunnel.config.manage import check_wireguard_keys
from qtunnel.config.model import Config, PeerConfig
from qtunnel.config.plain import PlainPeerConfig, check_public_keys
from qtunnel.config.rekey import check_rekey, too_late
from qtunnel.config.token import read_token
from qtunnel.config.types import format_duration
from qtunnel.constants import MAX_SOCKET_PATH
from qtunnel.errors import FilePermissionError, QtunnelError
from qtunnel.handshake.messages import MAX_KEYS
from qtunnel.identity import Identity, PublicIdentity

Item = TypeVar("Item")


def _twice(
    items: Iterable[tuple[Location, Item]], key: Callable[[Item], Hashable]
) -> Iterator[tuple[Location, Location]]:
    """Places of an item whose key was there before, with the first one's place."""
    seen: dict[Hashable, Location] = {}
    for where, item in items:
        known = seen.setdefault(key(item), where)
        if known is not where:
            yield where, known


def check_node(config: Config) -> Iterator[Problem]:
    node = config.node
    for index, address in enumerate(node.listen):
        if address.port == node.wireguard_port:
            yield Problem(
                ("node", "listen", index),
                f"port {address.port} is also node.wireguard_port; both are UDP, so give the handshake another one",
                (("node", "wireguard_port"),),
            )
    listens = [(("node", "listen", index), address) for index, address in enumerate(node.listen)]
    for where, _ in _twice(listens, lambda address: address):
        yield Problem(where, "stands in the list twice; remove one")
    length = len(str(node.control_socket).encode())
    if length > MAX_SOCKET_PATH:
        yield Problem(
            ("node", "control_socket"),
            f"the path has {length} bytes, a UNIX socket takes {MAX_SOCKET_PATH}; choose a shorter one",
        )


def check_tunnel(config: Config) -> Iterator[Problem]:
    keys = [(("peers", i, "wireguard_key"), peer.wireguard_key) for i, peer in enumerate(config.peers)]
    yield from check_wireguard_keys(keys)
    addresses = [(("tunnel", "addresses", i), a) for i, a in enumerate(config.tunnel.addresses)]
    for where, _ in _twice(addresses, lambda address: address.ip):
        yield Problem(where, "stands in the list twice; remove one")


def check_peers_differ(config: Config) -> Iterator[Problem]:
    everybody: list[tuple[Location, PeerConfig | PlainPeerConfig]] = [
        *((("peers", i), peer) for i, peer in enumerate(config.peers)),
        *((("plain_peers", i), plain) for i, plain in enumerate(config.plain_peers)),
    ]
    names: list[tuple[Location, str]] = [((*place, "name"), peer.name) for place, peer in everybody]
    for where, first in _twice(names, lambda name: name):
        yield Problem(where, f"{dotted(first[:2])} has this name too; every peer needs its own", (first,))
    for where, name in names:
        if name == config.node.name:
            yield Problem(where, "is this node's own name; name the other gateway", (("node", "name"),))
    networks: list[tuple[Location, IPv4Network | IPv6Network]] = [
        ((*place, "allowed_ips", j), network) for place, peer in everybody for j, network in enumerate(peer.allowed_ips)
    ]
    for where, first in _twice(networks, lambda network: network):
        owner = "this peer" if where[:2] == first[:2] else dotted(first[:2])
        yield Problem(where, f"{owner} has this network already; packets can go to one peer only, remove one", (first,))


def check_policies(config: Config) -> Iterator[Problem]:
    for index, peer in enumerate(config.peers):
        where = ("peers", index)
        yield from _check_policy(peer, where)
        yield from check_rekey(peer.rekey, peer.qkd, config.tunnel.engine, where)


def _check_policy(peer: PeerConfig, where: Location) -> Iterator[Problem]:
    qkd, rekey, at = peer.qkd, peer.rekey, (*where, "qkd")
    if qkd.policy == "off" and qkd.sources:
        yield Problem(
            (*at, "sources"),
            "policy is off, so these would never be used; remove them, or set policy: required",
            ((*at, "policy"),),
        )
    if qkd.policy != "off" and not qkd.sources:
        yield Problem(
            (*at, "sources"),
            f"policy is {qkd.policy}, which needs a key source; name one of key_sources here, "
            "or set policy: off for a tunnel without QKD",
            ((*at, "policy"),),
        )
    if qkd.sources and qkd.min_sources > len(qkd.sources):
        yield Problem(
            (*at, "min_sources"),
            f"is {qkd.min_sources}, but there are {len(qkd.sources)} sources; lower it or add sources",
            ((*at, "sources"),),
        )
    if qkd.policy == "off" and qkd.reservoir.depth:
        words = "policy is off, so nothing would be kept in it; remove it, or set policy: required"
        yield Problem((*at, "reservoir"), words, ((*at, "policy"),))
    if qkd.mix is not None and qkd.mix < qkd.min_sources:
        yield Problem(
            (*at, "mix"),
            f"is {qkd.mix}, but min_sources is {qkd.min_sources}, so no key would have enough of them; raise it, "
            "or leave it out for all",
            ((*at, "min_sources"),),
        )
    if len(qkd.sources) > MAX_KEYS:
        yield Problem((*at, "sources"), f"names {len(qkd.sources)} sources; a peer has at most {MAX_KEYS}")
    latest = rekey.interval * (1 + rekey.jitter)
    if qkd.max_age < latest:
        yield Problem(
            (*at, "max_age"),
            f"is {format_duration(qkd.max_age)}, but a rekey may come only after {format_duration(latest)} "
            "(rekey.interval and jitter), so every key would expire; raise it or shorten the interval",
            ((*where, "rekey", "interval"), (*where, "rekey", "jitter")),
        )


def check_contents(config: Config) -> Iterator[Problem]:
    """Reads the identity, the peers' public files, the page's token, pairing secrets and plain peers' PSKs; files that
    are not there are not its job."""
    own: PublicIdentity | None = None
    if _usable(config.node.identity):
        try:
            own = Identity.load(config.node.identity).public
        except QtunnelError as error:
            yield Problem(("node", "identity"), str(error))
    found: dict[int, PublicIdentity] = {}
    seen: dict[bytes, Location] = {}
    keys: dict[bytes, tuple[str, Location]] = {}
    for index, peer in enumerate(config.peers):
        where: Location = ("peers", index, "public")
        if _usable(peer.public):
            try:
                public = PublicIdentity.load(peer.public)
            except QtunnelError as error:
                yield Problem(where, str(error))
                continue
            found[index] = public
            if own is not None and public.id == own.id:
                yield Problem(
                    where,
                    "is this node's own public file; put the peer's here (on the peer: qtunnel identity show FILE)",
                )
            first = seen.setdefault(public.id, where)
            if first is not where:
                yield Problem(where, f"peers[{first[1]}] has the same identity; every peer needs its own", (first,))
                continue
            key = peer.wireguard_key or public.wireguard
            if own is not None and public.id != own.id and key == own.wireguard:
                yield Problem(where, "has this node's own WireGuard key; put the peer's own public file here")
            name, place = keys.setdefault(key, (peer.name, where))
            # Two that stand in the file as wireguard_key are told of by the check of these.
            if place is not where and not (peer.wireguard_key and config.peers[_index(place)].wireguard_key):
                what = f"has the same WireGuard key as {name}; every peer needs its own"
                yield Problem(where, what, (place,))
    if config.page is not None and config.page.token_file is not None and _usable(config.page.token_file):
        try:
            read_token(config.page.token_file).wipe()
        except FilePermissionError:
            pass  # the check of files reports it
        except QtunnelError as error:
            yield Problem(("page", "token_file"), str(error))
    yield from check_kem_keys(config, own, found)
    yield from check_public_keys(config.plain_peers, None if own is None else own.wireguard, keys)
    yield from _check_keys(config)


def _check_keys(config: Config) -> Iterator[Problem]:
    """What the daemon could not read as a key."""
    files: list[tuple[Location, Path | None, str]] = []
    for index, peer in enumerate(config.peers):
        files.append((("peers", index, "pairing_secret"), peer.pairing_secret, KEY_REMEDY))
        files.append((("peers", index, "qkd", "reservoir", "store"), peer.qkd.reservoir.store, KEY_REMEDY))
    for index, plain in enumerate(config.plain_peers):
        files.append((("plain_peers", index, "preshared_key"), plain.preshared_key, PSK_REMEDY))
    for where, path, remedy in files:
        if path is not None and _usable(path):
            try:
                read_key(path, remedy).wipe()
            except FilePermissionError:
                pass  # the check of files reports it
            except QtunnelError as error:
                yield Problem(where, str(error))


def _index(place: Location) -> int:
    index = place[1]
    assert isinstance(index, int)
    return index


def _usable(path: Path) -> bool:
    """Whether the file is there; where not, the check of files says so."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def check_ports(config: Config) -> Iterator[Problem]:
    """Metrics and the page, both over TCP."""
    if config.metrics is not None and config.page is not None and config.metrics.listen == config.page.listen:
        yield Problem(("page", "listen"), "is also metrics.listen; take another port", (("metrics", "listen"),))


SETTINGS = (check_node, check_tunnel, check_peers_differ, check_policies, check_suites, check_ports)
"""Checks that need nothing but the configuration itself."""


def _whole_families(peer: PeerConfig) -> str:
    """The IP versions of which a peer's allowed_ips, together, are all addresses; empty where there is none."""
    four = collapse_addresses(network for network in peer.allowed_ips if isinstance(network, IPv4Network))
    six = collapse_addresses(network for network in peer.allowed_ips if isinstance(network, IPv6Network))
    whole = [
        f"IPv{networks[0].version}" for networks in (list(four), list(six)) if networks and not networks[0].prefixlen
    ]
    return " and ".join(whole)


def warnings(config: Config) -> list[str]:
    """What is allowed but may surprise, one line each."""
    found = []
    own = {address.ip for address in config.tunnel.addresses}
    used = {name for peer in config.peers for name in peer.qkd.sources}
    for peer in config.peers:
        qkd = peer.qkd
        if qkd.policy == "required" and qkd.on_expiry == "pqc-only":
            found.append(
                f"peer {peer.name}: policy is required, but on_expiry: pqc-only lets traffic go on without fresh QKD "
                f"keys after {format_duration(qkd.max_age)}"
            )
        if qkd.policy == "off":
            found.append(f"peer {peer.name}: policy is off, no QKD key protects this tunnel (post-quantum only)")
        whole = _whole_families(peer)
        if whole and peer.endpoint is not None and not is_numeric(peer.endpoint):
            found.append(
                f"peer {peer.name}: endpoint {peer.endpoint} is a name, and allowed_ips sends all {whole} into the "
                "tunnel, so DNS too: while the tunnel is down the name cannot be looked up; write the address instead"
            )
        if any(network.num_addresses == 1 and network.network_address in own for network in peer.allowed_ips):
            found.append(f"peer {peer.name}: allowed_ips contains this gateway's own tunnel address")
        late = too_late(peer.rekey, qkd)
        if late is not None:
            found.append(f"peer {peer.name}: {late}")
        elif 0 < qkd.max_age < 2 * peer.rekey.interval and qkd.policy == "required":
            found.append(
                f"peer {peer.name}: max_age {format_duration(qkd.max_age)} leaves no time for a second try when one "
                f"rekey (every {format_duration(peer.rekey.interval)}) fails"
            )
    found += [f"peer {peer.name}: {line}" for peer in config.peers for line in kem_doubts(peer)]
    found += [f"key source {name}: no peer uses it" for name in config.key_sources if name not in used]
    found += [
        f"plain peer {plain.name}: protection is wireguard-only, nothing of qtunnel protects its traffic"
        for plain in config.plain_peers
    ]
    return found
