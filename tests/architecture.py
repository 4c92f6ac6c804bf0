"""The house as a table: which room may import which. docs/architecture.md shows it, test_architecture.py holds it.

``python -m tests.architecture`` (``make diagrams``) writes the generated parts of docs/architecture.md anew.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from qtunnel.keys.health import SOURCE_TABLE, SourceState
from qtunnel.keys.trust import TRUST_TABLE, TrustState
from qtunnel.qkdnet.link import LINK_TABLE, LinkState
from qtunnel.rekey.protection import GUARD_TABLE, GuardState
from qtunnel.rekey.states import IN_TABLE, OUT_TABLE, InState, OutState
from qtunnel.statemachine import mermaid
from qtunnel.wireguard.record_link import RECORD_TABLE, RecordState

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "qtunnel"
DOCUMENT = ROOT / "docs" / "architecture.md"


@dataclass(frozen=True)
class Room:
    """A directory or module of the package.

    imports: the other rooms that it imports, besides the base. only: of those, the ones that a few files of the room
    alone may import. sans_io: no clock, randomness, file or socket inside. commands: a file may also import the room
    that has its name.
    """

    purpose: str
    imports: tuple[str, ...] = ()
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sans_io: bool = False
    commands: bool = False

    def allows(self, target: str, file: str) -> bool:
        """Whether the file of that name in this room may import the room ``target``, which is not of the base."""
        named = self.commands and file == f"{target}.py"
        return named or (target in self.imports and file in self.only.get(target, (file,)))


BASE = {
    "errors": Room("every error raised on purpose, with its exit code"),
    "constants": Room("numbers and paths that several rooms need"),
    "terms": Room("the words that cross the wire: key references, policies"),
    "statemachine": Room("machines as tables, and their diagrams"),
    "secret": Room("the one type that holds key material", ("errors",)),
    "files": Room("secret files: who may read them, the one loader", ("errors", "secret")),
    "interface_names": Room("which names a gateway's interface can have"),
    "addresses": Room("IP addresses parsed by the C library"),
    "tai64n": Room("times that compare as bytes, and tell old messages from new"),
    "marks": Room("the mark of what a socket sends"),
    "load": Room("when a rate of messages is load; a share of a processor"),
    "crypto": Room("the libraries' primitives, typed; one tree of labels", ("errors", "secret")),
    "kem_files": Room("keys of KEMs that follow from no seed", ("crypto", "errors", "files", "secret")),
    "identity": Room("a gateway's seed and public keys", ("crypto", "errors", "files", "kem_files", "secret")),
}
"""Any room may import these, the sans-IO ones all but ``files``, ``kem_files`` and ``marks``; each of them imports what
it lists and no more."""

ROOMS = {
    "handshake": Room("one exchange: four messages, fragments, transcript", sans_io=True),
    "keys": Room("QKD keys in hand, policy, schedule, epoch chain", sans_io=True),
    "rekey": Room("all exchanges of a gateway: when, with what, what if not", ("handshake", "keys"), sans_io=True),
    "wireguard": Room("the WireGuard device: messages, sessions, timers, UAPI grammar", sans_io=True),
    "offload": Room("super-packets of a TUN: headers, checksums, split", sans_io=True),
    "audit": Room("the audit log: records, chain of hashes, signed heads, what they answer", sans_io=True),
    "qkdnet": Room("a QKD network: links, their stores, relay, routing, who learned what, plans", sans_io=True),
    "workers": Room("processes that seal and open bursts for an engine", ("offload", "process", "wireguard"),
                    {"process": ("process.py",)}),
    "netio": Room("Linux edge of the engine: TUN, UDP, UAPI socket, the loop", ("offload", "wireguard", "workers")),
    "http_port": Room("a port at which an aiohttp application is served"),
    "metrics": Room("the status as metrics of Prometheus, on a port of its own",
                    ("aside", "control", "events", "http_port"),
                    {"aside": ("server.py",), "events": ("server.py",), "http_port": ("server.py",)}),
    "page": Room("the status as a page for browsers, live, on a port of its own",
                 ("aside", "control", "events", "http_port", "telemetry"),
                 {"aside": ("live.py",), "events": ("past.py", "server.py"), "http_port": ("server.py",),
                  "telemetry": ("live.py",)}),
    "fleet": Room("reports to an MQTT broker of the users' own, and the view of all who report",
                  ("control", "events", "mqtt_reasons", "tls"),
                  {"control": ("publisher.py", "topics.py"), "events": ("publisher.py", "topics.py"),
                   "mqtt_reasons": ("broker.py",), "tls": ("broker.py",)}),
    "auditlog": Room("the audit log's files, and the thread that writes them", ("audit",)),
    "events": Room("the one event stream of the daemon"),
    "telemetry": Room("structured logging"),
    "aside": Room("work that blocks, in a thread that nobody waits for at the end"),
    "tls": Room("mutual TLS, and its failures in words"),
    "mqtt_reasons": Room("why an MQTT broker refuses us, in words"),
    "process": Room("what a process with keys does to itself first"),
    "sd_notify": Room("readiness and watchdog of systemd"),
    "config": Room("the YAML file: model, checks, errors with line", ("drivers", "handshake", "keys"),
                   {"drivers": ("key_sources.py",), "handshake": ("checks.py", "kems.py"),
                    "keys": ("key_sources.py", "rekey.py")}),
    "drivers": Room("key sources, and how they are found by name",
                    ("aside", "config", "keys", "mqtt_reasons", "process", "tls"),
                    {"aside": ("certificates.py", "etsi004_index.py", "file.py"),
                     "config": ("etsi004_options.py", "etsi014_options.py", "file.py", "mqtt_options.py", "program.py",
                                "skip_options.py"),
                     "mqtt_reasons": ("mqtt_connection.py",), "process": ("program_run.py",),
                     "tls": ("etsi004_options.py", "etsi004_wire.py", "etsi014.py", "etsi014_options.py", "https.py",
                             "mqtt_connection.py", "mqtt_options.py", "skip_tls.py")}),
    "kme": Room("the embedded ETSI GS QKD 014 KME and its PKI", ("config", "telemetry", "tls")),
    "simulator": Room("a QKD network in a box: topologies, physics, its KMEs, control, maps, plans",
                      ("config", "control", "events", "fleet", "kme", "qkdnet", "telemetry", "tls"),
                      {"config": ("commands.py", "model.py", "plan_file.py", "topology_file.py", "units.py"),
                       "control": ("client.py", "control.py"),
                       "events": ("alarm_stream.py", "alarms.py", "announce.py", "service.py"),
                       "fleet": ("announce.py",), "telemetry": ("announce.py", "etsi004_server.py", "service.py"),
                       "tls": ("alarm_stream.py", "etsi004_server.py", "service.py")}),
    "probe": Room("whether a vendor's KME keeps to ETSI GS QKD 014", ("config", "drivers", "keys", "tls"),
                  {"config": ("target.py",), "keys": ("session.py",)}),
    "control": Room("the local socket: messages, server, client", ("events", "telemetry"),
                    {"events": ("server.py",), "telemetry": ("server.py",)}),
    "engines": Room("a data plane, driven by UAPI or netlink; its interface and routes", ("telemetry",)),
    "daemon": Room(
        "the shell around rekey: sockets, sources, engine, state, status",
        ("aside", "audit", "auditlog", "config", "control", "drivers", "engines", "events", "handshake", "keys",
         "fleet", "metrics", "page", "rekey", "sd_notify", "telemetry"),
        {"aside": ("memory.py", "reload.py", "resolver.py", "stores.py"),
         "audit": ("accounting.py",), "auditlog": ("accounting.py",),
         "handshake": ("transport.py",), "metrics": ("served.py",), "page": ("served.py",), "fleet": ("announce.py",)},
    ),
    "doctor": Room("what a host lacks to run a gateway", ("config", "drivers", "engines", "keys", "process"),
                   {"drivers": ("network_checks.py",), "engines": ("kernel_checks.py", "network_checks.py"),
                    "keys": ("network_checks.py",), "process": ("kernel_checks.py",)}),
    "service": Room("the units of the service, and how they get in place"),
    "sandbox": Room("a place with processes and networks of its own, and the tools that run in it"),
    "demo": Room("all of it on one machine", ("config", "control", "kme", "sandbox")),
    "scenario": Room("the gallery: daemons on a simulated QKD network, a timeline, assertions",
                     ("config", "control", "demo", "qkdnet", "sandbox", "simulator", "tls"),
                     {"config": ("files.py", "gallery.py", "model.py"), "control": ("facts.py", "lab.py"),
                      "qkdnet": ("run.py",), "tls": ("taker.py",)}),
    "bench": Room(
        "what engine, rekey and hub carry and cost; what a flood does",
        ("control", "drivers", "engines", "handshake", "keys", "kme", "rekey", "sandbox", "wireguard"),
        {"control": ("flood.py", "hub.py"), "drivers": ("hub_peers.py",),
         "handshake": ("flood.py", "handshake.py", "hub_peers.py"), "keys": ("hub_peers.py",),
         "kme": ("flood_site.py", "hub_site.py"), "rekey": ("handshake.py", "hub_peers.py", "hub_tunnel.py"),
         "wireguard": ("hub_tunnel.py",)},
    ),
    "cli": Room(
        "the commands; each may import the room of its own name",
        ("auditlog", "config", "control", "daemon", "drivers", "engines", "kme", "netio", "probe", "process", "qkdnet",
         "sandbox",
         "scenario", "sd_notify", "service", "simulator", "telemetry"),
        {"auditlog": ("audit.py",), "daemon": ("machine.py", "run.py"),
         "drivers": ("machine.py", "pad.py"), "engines": ("machine.py", "run.py", "steward.py"),
         "kme": ("kme.py",), "netio": ("wg.py",), "probe": ("kme.py",),
         "process": ("run.py", "kme.py", "kme_network.py", "steward.py", "wg.py"),
         "qkdnet": ("kme_network.py",), "sandbox": ("bench.py", "demo.py"),
         "scenario": ("demo.py",),
         "sd_notify": ("steward.py",), "service": ("install_service.py",), "simulator": ("kme.py", "kme_network.py"),
         "telemetry": ("run.py", "kme.py", "kme_network.py", "steward.py")},
        commands=True,
    ),
    "manual": Room("manual pages, of the commands' help and the configuration's model", ("cli", "config"),
                   {"cli": ("commands.py",), "config": ("configuration.py",)}),
    "__main__": Room("python -m qtunnel", ("cli",)),
}  # fmt: skip
"""A new room is one line here, and its name in the line of each room that imports it."""

CIRCLE = {("config", "drivers"), ("drivers", "config")}
"""The one circle: the configuration asks the registry for a driver's models, which are made of its types."""

PURE_MODULES = {
    "__future__", "abc", "base64", "binascii", "bisect", "collections", "contextlib", "dataclasses", "enum", "errno",
    "functools", "hashlib", "heapq", "hmac", "ipaddress", "itertools", "json", "logging", "math", "re", "struct",
    "typing", "weakref",
    "cryptography", "nacl", "numpy",
}  # fmt: skip
"""All that a sans-IO room may import from outside: neither clock nor file nor socket is among them."""

CONSTANTS = {"sys": {"byteorder"}}
"""What sans-IO rooms may use of modules that are not pure."""

CHANCE = {"generate", "generate_key"}
"""Methods of cryptography's libraries that draw random bytes by themselves."""

STATE_TABLES = {
    "OUT_TABLE": mermaid(OUT_TABLE, OutState.IDLE),
    "IN_TABLE": mermaid(IN_TABLE, InState.IDLE),
    "GUARD_TABLE": mermaid(GUARD_TABLE, GuardState.STARTING),
    "SOURCE_TABLE": mermaid(SOURCE_TABLE, SourceState.UNASKED),
    "TRUST_TABLE": mermaid(TRUST_TABLE, TrustState.UNSEEN),
    "RECORD_TABLE": mermaid(RECORD_TABLE, RecordState.OFF),
    "LINK_TABLE": mermaid(LINK_TABLE, LinkState.UP),
}


@dataclass(frozen=True)
class Import:
    """``file`` (relative to the package) imports ``module``; names: what ``from`` takes of it."""

    file: Path
    module: str
    names: tuple[str, ...] = ()

    @property
    def rooms(self) -> set[str]:
        """The rooms of qtunnel that it reaches; ``__init__`` for the package's own version."""
        if self.module == "qtunnel":
            return {"__init__" if name.startswith("__") else name for name in self.names} or {"__init__"}
        return {self.module.split(".")[1]} if self.module.startswith("qtunnel.") else set()


def sources() -> list[Path]:
    """Every module of the package, relative to it."""
    return sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def tree(file: Path) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text())


def room_of(file: Path) -> str:
    return file.parts[0].removesuffix(".py")


def imports(file: Path) -> Iterator[Import]:
    """Every import of a file, also those inside functions and under TYPE_CHECKING."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (Import(file, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute in this house"
            yield Import(file, node.module or "", tuple(alias.name for alias in node.names))


def arrows() -> set[tuple[str, str, str]]:
    """(room, room imported, file's name) of everything that is imported across rooms."""
    found = set()
    for file in sources():
        room = room_of(file)
        for one in imports(file):
            found |= {(room, target, file.name) for target in one.rooms - {room, "__init__"}}
    return found


EVERYDAY = {"aside", "http_port", "telemetry", "events", "mqtt_reasons", "process", "sd_notify", "tls", "__main__"}
"""Small modules whose arrows would only clutter the picture; the table has them."""


def arrow_diagram() -> str:
    """The arrows between rooms as they are; the base, which all may import, and EVERYDAY are left out."""
    lines = ["flowchart TD"]
    pure = [name for name, room in ROOMS.items() if room.sans_io]
    lines += ["    subgraph sans-IO", *(f"        {name}" for name in pure), "    end"]
    for name, target in sorted({(room, target) for room, target, _ in arrows()}):
        if name in ROOMS and target in ROOMS and not {name, target} & EVERYDAY:
            lines.append(f"    {name} --> {target}")
    return "\n".join(lines)


def arrow_table() -> str:
    """Every room, what it is for, and what it may import."""
    lines = ["| room | for | imports, besides the base | sans-IO |", "| --- | --- | --- | --- |"]
    for name, room in ROOMS.items():
        targets = [
            f"{target} ({', '.join(room.only[target])} only)" if target in room.only else target
            for target in room.imports
        ]
        lines.append(f"| `{name}` | {room.purpose} | {', '.join(targets)} | {'yes' if room.sans_io else ''} |")
    lines += ["", "| base | for | imports |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {room.purpose} | {', '.join(room.imports)} |" for name, room in BASE.items()]
    return "\n".join(lines)


def generated() -> dict[str, str]:
    """The generated parts of the document by their names."""
    fenced = {"arrows": arrow_diagram()} | STATE_TABLES
    return {name: f"```mermaid\n{text}\n```" for name, text in fenced.items()} | {"rooms": arrow_table()}


_PART = re.compile(r"<!-- generated: (\S+) -->\n(.*?)\n?<!-- end -->", re.DOTALL)


def parts(document: str) -> dict[str, str]:
    """What stands between the markers of a document, by name."""
    return {found[1]: found[2] for found in _PART.finditer(document)}


def render(document: str) -> str:
    """The document with its generated parts as they should be."""
    fresh = generated()
    return _PART.sub(lambda found: f"<!-- generated: {found[1]} -->\n{fresh[found[1]]}\n<!-- end -->", document)


def main() -> None:
    before = DOCUMENT.read_text()
    after = render(before)
    DOCUMENT.write_text(after)
    print(f"{DOCUMENT.relative_to(ROOT)}: {'as it was' if before == after else 'written anew'}", file=sys.stderr)


if __name__ == "__main__":
    main()
