"""What keeps a good configuration from running on this machine: programs, directories, certificates."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from qtunnel.config.document import Location, Problem
from qtunnel.config.model import Config
from qtunnel.daemon.announce import broker_of
from qtunnel.drivers import registry
from qtunnel.engines.keeper import NO_MODULE
from qtunnel.engines.kernel_client import KernelClient
from qtunnel.engines.programs import KERNEL, find
from qtunnel.errors import EngineError, QtunnelError
from qtunnel.files import others_may_change


def check_machine(config: Config) -> Iterator[Problem]:
    """What the daemon would stumble over at its start, with the place in the file. Changes nothing, asks no KME."""
    node, tunnel = config.node, config.tunnel
    try:
        find(tunnel.engine).command(tunnel.interface)
        if tunnel.engine == KERNEL and not asyncio.run(KernelClient(tunnel.interface).available()):
            yield Problem(("tunnel", "engine"), NO_MODULE)
    except EngineError as error:
        yield Problem(("tunnel", "engine"), str(error))
    yield from _check_directory(("node", "control_socket"), node.control_socket.parent, sticky=True)
    yield from _check_directory(("node", "state_dir"), node.state_dir)
    if config.audit is not None:
        yield from _check_log(config.audit.path)
    if config.mqtt is not None:
        try:
            broker_of(config.mqtt)
        except QtunnelError as error:
            yield from _at_its_file(("mqtt",), config.mqtt, str(error).removeprefix("mqtt: "))
    if node.control_socket.exists() and not stat.S_ISSOCK(node.control_socket.stat().st_mode):
        what = f"{node.control_socket} is there and no socket; remove it, or choose another path"
        yield Problem(("node", "control_socket"), what)
    for name, source in config.key_sources.items():
        try:
            hub = registry.find(source.driver).open(name, source.options)
        except QtunnelError as error:
            yield from _at_its_file(("key_sources", name), source.options, str(error))
        else:
            yield from _check_peers(config, name, hub)
            asyncio.run(hub.close())


def _check_peers(config: Config, name: str, hub: registry.SourceHub) -> Iterator[Problem]:
    """What a source cannot do towards its peers, such as a pad that cannot be opened."""
    for index, peer in enumerate(config.peers):
        options = peer.qkd.sources.get(name)
        if options is None:
            continue
        try:
            hub.for_peer(options)
        except QtunnelError as error:
            field = _field(options, str(error))
            yield Problem(("peers", index, "qkd", "sources", name, *field), str(error), at_key=not field)


def _check_directory(where: Location, directory: Path, *, sticky: bool = False) -> Iterator[Problem]:
    """A directory that is there, or can be made by who may write in the nearest one above it. sticky: whether it may be
    one for all, as /tmp."""
    try:
        nearest = next(place for place in (directory, *directory.parents) if place.exists())
        if not nearest.is_dir():
            yield Problem(where, f"{nearest} is no directory, so {directory} cannot be one; choose another path")
        elif os.statvfs(nearest).f_flag & os.ST_RDONLY:
            yield Problem(where, f"{nearest} is on a read-only file system; choose another path")
        elif _is_the_kernels(nearest):
            yield Problem(where, f"{nearest} belongs to the kernel and takes no files; choose another path")
        elif nearest == directory and _open_to_others(directory.stat(), sticky=sticky):
            remedy = f"give it to the user of qtunnel alone (chown, chmod go-w {directory})"
            yield Problem(where, f"others may write in {directory}; {remedy}")
    except OSError as error:
        yield Problem(where, f"{directory}: {(error.strerror or str(error)).lower()}; choose another path")


def _check_log(path: Path) -> Iterator[Problem]:
    where = ("audit", "path")
    yield from _check_directory(where, path.parent, sticky=True)
    with contextlib.suppress(OSError):  # not there yet, or in a directory of which was told
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            yield Problem(where, f"{path} is no regular file, and an audit log is; remove it, or choose another path")
        elif _open_to_others(found):
            remedy = f"give it to the user of qtunnel alone (chown, chmod 600 {path})"
            yield Problem(where, f"others may write to {path}; {remedy}")


def _open_to_others(found: os.stat_result, *, sticky: bool = False) -> bool:
    """As the daemon looks at it. Whose it is counts where its user checks: root may do so for a service's user."""
    return others_may_change(found, sticky=sticky, user=found.st_uid if os.geteuid() == 0 else None)


def _is_the_kernels(path: Path) -> bool:
    return path.is_relative_to("/proc") or path.is_relative_to("/sys")


def _at_its_file(where: Location, options: BaseModel, said: str) -> Iterator[Problem]:
    """What was said, at the field whose file it begins with. Of files that are not there the check of files tells."""
    field = _field(options, said)
    if not field or getattr(options, field[0]).exists():
        yield Problem((*where, *field), said, at_key=not field)


def _field(options: BaseModel, said: str) -> tuple[str, ...]:
    """The field whose file an error begins with; none where it speaks of something else."""
    for name in type(options).model_fields:
        value = getattr(options, name)
        if isinstance(value, Path) and said.startswith((f"{value}:", f"{value},")):
            return (name,)
    return ()


def doubts(config: Config) -> list[str]:
    """What a key source's driver finds odd, one line each; for a configuration that ``check_machine`` accepts."""
    return [
        f"key source {name}: {doubt}"
        for name, source in config.key_sources.items()
        for doubt in registry.find(source.driver).doubts(source.options)
    ]
