"""Driver ``exec``: a vendor's own program that prints a key.

It is started once for each call, with its arguments as they stand in the configuration and no shell. Neither its
arguments nor its environment hold a secret; the key comes on its standard output. docs/sources/exec.md has the rest.
"""

from __future__ import annotations

import asyncio
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, model_validator

from qtunnel.config.types import Duration, Section, at_least
from qtunnel.constants import QKD_KEY_SIZE
from qtunnel.drivers.answers import clean
from qtunnel.drivers.program_answers import EXIT_CODES, MAX_TEXT, Output, complaint, key_in, status_in, usable_key_id
from qtunnel.drivers.program_run import Ended, NotStartedError, OutputTooLongError, check_program, run
from qtunnel.drivers.registry import Driver
from qtunnel.errors import (
    ConfigError,
    FilePermissionError,
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceError,
    KeySourceProtocolError,
    KeySourceStatusError,
    KeySourceTimeoutError,
    KeySourceUnauthorizedError,
    KeySourceUnavailableError,
    KeySourceUnreachableError,
)
from qtunnel.keys.source import KeyRef, SourceStatus
from qtunnel.secret import Secret

Call = Literal["status", "get_key", "get_key_by_id"]

TURN_LIMIT = 8.0
"""Seconds that a call waits for its turn ..."""
MAX_TIMEOUT = 14.0
"""... and that the program has at most; with the two that its end may take that is within the 25 s of the daemon."""
MAX_KEY = 64 * 1024
"""Bytes of a key; a rekey asks for 32."""

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""All that a program finds there, besides what the configuration adds."""

PLACEHOLDERS = ("call", "peer", "size_bits", "size_bytes", "key_id")
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_REMEDY = "let the program take it from a file of its own"
_SECRET_NAME = re.compile(r"secret|passw|passphrase|token|private|\bpin\b|api.?key", re.IGNORECASE)


def _text(value: str) -> str:
    if "\0" in value:
        raise ValueError("has a zero byte in it")
    return value


def _command(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value[0].startswith("/") or _PLACEHOLDER.search(value[0]):
        raise ValueError(f"begins with {value[0][:60]!r}; write the program's whole path, such as /opt/vendor/getkey")
    for argument in value:
        for name in _PLACEHOLDER.findall(argument):
            if name not in PLACEHOLDERS:
                known = ", ".join(f"{{{placeholder}}}" for placeholder in PLACEHOLDERS)
                raise ValueError(f"has {{{name}}}, which stands for nothing; there are: {known}")
    return value


def _off(value: object) -> object:
    return () if value == "off" else value


Command = Annotated[tuple[Annotated[str, AfterValidator(_text)], ...], Field(min_length=1), AfterValidator(_command)]


def _peer(value: str) -> str:
    if not usable_key_id(value):
        raise ValueError("take 1 to 255 printable characters without blanks, the first no '-'")
    return value


def _environment(value: dict[str, str]) -> dict[str, str]:
    for name, content in value.items():
        if not _VARIABLE.fullmatch(name) or "\0" in content:
            raise ValueError(f"{name[:60]!r} is no name of a variable; take letters, digits and '_'")
        if name in ("LD_PRELOAD", "LD_AUDIT"):
            raise ValueError(f"{name} would put other code into the program; name that in a script of your own")
    return value


class Options(Section):
    """What stands under ``key_sources.<name>``.

    command: program and arguments; get_key, get_key_by_id, status: in its place for that call; status: off where the
    program has none. output: what it prints. timeout: of one call, in seconds. at_once: calls at a time. privileges:
    whether it keeps the daemon's capabilities. environment: further variables, none of them secret.
    """

    command: Command | None = Field(default=None, examples=[["/opt/vendor/getkey", "{call}"]])
    get_key: Command | None = None
    get_key_by_id: Command | None = None
    status: Annotated[Command | tuple[()] | None, BeforeValidator(_off)] = None
    output: Output = "json"
    timeout: Annotated[Duration, at_least(0.1, "no program starts that fast")] = 5.0
    at_once: Annotated[StrictInt, Field(ge=1, le=64)] = 4
    privileges: Literal["drop", "keep"] = "drop"
    environment: Annotated[dict[str, str], AfterValidator(_environment)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        if self.timeout > MAX_TIMEOUT:
            raise ValueError(f"timeout is longer than {MAX_TIMEOUT:g}s, for which nobody waits; the usual is 5s")
        fresh, by_id = self.template("get_key"), self.template("get_key_by_id")
        if not fresh or not by_id:
            raise ValueError("command is missing; write program and arguments: [/opt/vendor/getkey, '{call}', ...]")
        if fresh == by_id and not _has(fresh, "call"):
            raise ValueError("command needs {call} among its arguments; else the program cannot know what is asked")
        if not _has(by_id, "key_id"):
            raise ValueError("needs {key_id} among the arguments; else the program cannot know which key is asked for")
        if self.output != "json" and not _has(fresh, "key_id"):
            raise ValueError(
                f"output: {self.output} holds a key and no key_ID, so qtunnel makes that up: put {{key_id}} among the "
                "arguments of get_key too, or use output: json"
            )
        return self

    def template(self, call: Call) -> tuple[str, ...]:
        """Program and arguments of a call; empty for a status that the program does not have."""
        own: tuple[str, ...] | None = getattr(self, call)
        if own is not None:
            return own
        command = self.command or ()
        return command if call != "status" or _has(command, "call") else ()

    @property
    def programs(self) -> set[Path]:
        calls: tuple[Call, ...] = ("status", "get_key", "get_key_by_id")
        return {Path(template[0]) for call in calls if (template := self.template(call))}


class PeerOptions(Section):
    """What stands under ``peers[].qkd.sources.<name>``. peer: as the program calls the other end."""

    peer: Annotated[str, AfterValidator(_peer)] = Field(examples=["bob"])


class Hub:
    """One program, shared by all peers whose keys come from it. Raises ``ConfigError``, ``FilePermissionError``."""

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self.options = options
        for path in options.programs:
            check_program(path)
        self._turns = asyncio.Semaphore(options.at_once)
        self._running: set[asyncio.Task[Ended]] = set()
        self._closed = False

    def for_peer(self, options: PeerOptions) -> Source:
        return Source(self, options.peer)

    async def close(self) -> None:
        """Ends the programs that run."""
        self._closed = True
        for task in tuple(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    async def call(self, place: str, call: Call, values: Mapping[str, str], limit: int, *, consumes: bool) -> Ended:
        """The program's output where it ended well; raises a ``KeySourceError``. limit: bytes of it at most."""
        template = self.options.template(call)
        try:
            async with asyncio.timeout(TURN_LIMIT):
                await self._turns.acquire()
        except TimeoutError:
            raise KeySourceTimeoutError(
                place, call, f"not asked: {self.options.at_once} other calls of ours took longer than {TURN_LIMIT:g} s"
            ) from None
        try:
            if self._closed:
                raise KeySourceUnreachableError(place, call, "the source is closed")
            return await self._call(place, call, template, values, limit, int(consumes))
        finally:
            self._turns.release()

    async def _call(
        self, place: str, call: Call, template: tuple[str, ...], values: Mapping[str, str], limit: int, lost: int
    ) -> Ended:
        options = self.options
        try:
            program = check_program(Path(template[0]))  # each time: it may have been replaced
        except FilePermissionError as error:
            raise KeySourceUnauthorizedError(place, call, f"not started: {_bare(error, template[0])}") from None
        except ConfigError as error:
            raise KeySourceUnreachableError(place, call, f"not started: {_bare(error, template[0])}") from None
        task = asyncio.ensure_future(
            run(
                program, filled(template, values), ENVIRONMENT | options.environment, limit=limit,
                timeout=options.timeout, drop=options.privileges == "drop",
            )
        )  # fmt: skip
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            ended = await task
        except TimeoutError:
            raise KeySourceTimeoutError(
                place, call, f"no answer within {options.timeout:g} s; it was ended", lost=lost
            ) from None
        except OutputTooLongError:
            raise KeySourceProtocolError(
                place, call, f"it printed more than {limit} bytes, and was ended", lost=lost
            ) from None
        except NotStartedError as error:
            raise KeySourceUnreachableError(place, call, f"cannot be started: {error}") from None
        except asyncio.CancelledError:
            if self._closed:
                raise KeySourceUnreachableError(
                    place, call, "the source was closed with the call under way", lost=lost
                ) from None
            raise
        if ended.code != 0:
            try:
                raise refusal(place, call, ended, lost)
            finally:
                ended.wipe()
        return ended


class Source:
    """The keys that the program has for one peer. A ``qtunnel.keys.source.KeySource``."""

    def __init__(self, hub: Hub, peer: str) -> None:
        self._hub = hub
        self._peer = peer
        self._last: KeySourceError | None = None

    @property
    def name(self) -> str:
        return self._hub.name

    @property
    def description(self) -> str:
        return f"exec:{self._hub.name}"

    async def status(self) -> SourceStatus:
        """What the program says; without a status of its own, how the last call for a key ended."""
        if not self._hub.options.template("status"):
            if self._last is not None:
                raise type(self._last)(
                    self._place("status"), "status", f"the last call, {self._last.call}, failed: {self._last.detail}"
                )
            return SourceStatus(True, "the program tells no status")
        place = self._place("status")
        ended = await self._ask("status", QKD_KEY_SIZE, "", consumes=False)
        try:
            if self._hub.options.output == "json":
                fail, garbled = (
                    partial(kind, place, "status") for kind in (KeySourceProtocolError, KeySourceStatusError)
                )
                return status_in(ended.output, fail, garbled)
            return SourceStatus(True, "the program says that it can deliver")
        finally:
            ended.wipe()

    async def get_key(self, size: int) -> tuple[KeyRef, Secret]:
        """A key of ``size`` bytes. Of other outputs than JSON the key_ID is ours, which the program is told."""
        ours = None if self._hub.options.output == "json" else str(uuid.UUID(bytes=os.urandom(16), version=4))
        key_id, key = await self._key("get_key", ours, size)
        return KeyRef(self.name, key_id, size), key

    async def get_key_by_id(self, ref: KeyRef) -> Secret:
        """The key of that reference."""
        if not usable_key_id(ref.key_id):
            raise KeyNotFoundError(
                self._place("get_key_by_id"), "get_key_by_id", f"not asked: {clean(ref.key_id)!r} is no usable key_ID"
            )
        _, key = await self._key("get_key_by_id", ref.key_id, ref.size)
        return key

    async def _key(self, call: Call, key_id: str | None, size: int) -> tuple[str, Secret]:
        place = self._place(call)
        if not 1 <= size <= MAX_KEY:
            raise KeyRequestRejectedError(place, call, f"a key of {size} bytes; take 1 to {MAX_KEY}")

        def fail(what: str) -> KeySourceError:
            return KeySourceProtocolError(place, call, what, lost=1)

        try:
            ended = await self._ask(call, size, key_id or "", consumes=True)
            try:
                found = key_in(ended.output, self._hub.options.output, key_id, size, fail)
            finally:
                ended.wipe()
        except KeySourceError as error:
            self._last = error
            raise
        self._last = None
        return found

    async def _ask(self, call: Call, size: int, key_id: str, *, consumes: bool) -> Ended:
        values = {
            "call": call,
            "peer": self._peer,
            "size_bits": str(size * 8),
            "size_bytes": str(size),
            "key_id": key_id,
        }
        return await self._hub.call(self._place(call), call, values, MAX_TEXT + 2 * size, consumes=consumes)

    def _place(self, call: Call) -> str:
        template = self._hub.options.template(call)
        return f"{self.name} ({template[0]})" if template else self.name


def filled(template: tuple[str, ...], values: Mapping[str, str]) -> list[str]:
    """The arguments with their placeholders replaced, once: what is put in is not looked at again."""
    return [_PLACEHOLDER.sub(lambda found: values[found[1]], argument) for argument in template]


def refusal(place: str, call: str, ended: Ended, lost: int) -> KeySourceError:
    """The named error for a program that did not end well, with its own last words."""
    said = complaint(ended.complaints, ended.output)
    kind, meaning = EXIT_CODES.get(ended.code, (KeySourceUnavailableError, ""))
    detail = ended.words + (f" ({meaning})" if meaning else "") + (f": {said}" if said else "")
    return kind(place, call, detail, lost=0 if meaning else lost)


def _has(template: tuple[str, ...], name: str) -> bool:
    return any(name in _PLACEHOLDER.findall(argument) for argument in template)


def _bare(error: Exception, path: str) -> str:
    return str(error).removeprefix(f"{path}: ")


def _open(name: str, options: Options) -> Hub:
    return Hub(name, options)


def _doubts(options: Options) -> Iterator[str]:
    """Arguments and environment can be read by every user of the machine (proc(5)). What looks like a secret is not
    repeated."""
    calls: tuple[Call, ...] = ("status", "get_key", "get_key_by_id")
    for template in dict.fromkeys(options.template(call) for call in calls):
        for index, argument in enumerate(template[1:], 1):
            if _SECRET_NAME.search(argument):
                yield f"argument {index} of {template[0]} looks like a secret, which every user could read; {_REMEDY}"
    for name in options.environment:
        if _SECRET_NAME.search(name):
            yield f"the environment variable {name} looks like a secret, which others could read; {_REMEDY}"


DRIVER = Driver("exec", Options, PeerOptions, _open, _doubts)
