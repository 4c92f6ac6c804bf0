"""``qtunnel status --watch``: one look after the other, until Ctrl-C, also over a restart of the daemon."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from qtunnel.cli.ages import Ages, from_events
from qtunnel.cli.status_view import render
from qtunnel.cli.watch_view import Scene, draw
from qtunnel.control.client import ControlClient
from qtunnel.control.messages import Status
from qtunnel.errors import EXIT_FAILURE, EXIT_NO_DAEMON, EXIT_PROTECTED, QtunnelError, UnknownPeerError

ANSWER_BOUND = 4.0
"""Seconds after which a daemon counts as away: what stands on the screen is never older than this and one interval."""


def watch(client: ControlClient, peer: str | None, interval: float, *, as_json: bool) -> int:
    """The exit code at the end. interval: seconds between looks.

    Raises ``NoDaemonError`` where none answers at the start; with ``as_json`` also later, so that who reads knows;
    ``UnknownPeerError`` where there is no such peer, or none any more.
    """
    looks = Looks(ControlClient(client.path, timeout=ANSWER_BOUND), peer, interval)
    show = _json if as_json else _picture if can_redraw() else _text
    with contextlib.suppress(KeyboardInterrupt), _ended_by(signal.SIGTERM, signal.SIGHUP):
        show(looks)
    if looks.away is not None:
        return EXIT_NO_DAEMON
    return EXIT_PROTECTED if looks.report.protected else EXIT_FAILURE


def can_redraw() -> bool:
    """Whether there is a terminal on which something may be drawn again, in colour."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb") and not os.environ.get("NO_COLOR")


class Looks:
    """What was seen so far. report: at the newest look that was answered; away: why there is none newer."""

    def __init__(self, client: ControlClient, peer: str | None, interval: float) -> None:
        self._client, self._peer, self.interval = client, peer, interval
        self.report: Status = client.status(peer)
        self.away: str | None = None
        self._since = 0.0
        self.ages: dict[str, Ages] = {}
        with contextlib.suppress(QtunnelError):  # the past is worth having, and not worth failing for
            self.ages = from_events(client.past(peer), time.time() - time.monotonic())
        self._noted()

    def strict(self) -> None:
        """Wait, and look; a daemon that is away is an error."""
        time.sleep(self.interval)
        self.report = self._client.status(self._peer)

    def next(self) -> None:
        """Wait, and look; a daemon that is away is news."""
        time.sleep(self.interval)
        try:
            self.report = self._client.status(self._peer)
        except UnknownPeerError:
            raise
        except QtunnelError as error:
            if self.away is None:
                self._since = time.monotonic()
            self.away = str(error)
            for its in self.ages.values():
                its.away(self._since)
        else:
            self.away = None
            self._noted()

    def _noted(self) -> None:
        now = time.monotonic()
        for peer in self.report.peers:
            self.ages.setdefault(peer.name, Ages()).look(now, peer.age_s)
        for gone in self.ages.keys() - {peer.name for peer in self.report.peers}:
            del self.ages[gone]

    def scene(self) -> Scene:
        return Scene(
            self.report, time.monotonic(), time.strftime("%H:%M:%S"), self.interval, self.away, self._since, self.ages
        )


def _json(looks: Looks) -> None:
    while True:
        click.echo(looks.report.model_dump_json())
        looks.strict()


def _text(looks: Looks) -> None:
    """One status below the other; that the daemon is away, once."""
    console = Console(color_system=None) if os.environ.get("NO_COLOR") else Console()
    told = False
    while True:
        if looks.away is None:
            console.print(render(looks.report), Text())
        elif not told:
            console.print(Text(f"{looks.report.node.name}: the daemon is away: {looks.away}\n"))
        told = looks.away is not None
        looks.next()


def _picture(looks: Looks) -> None:
    """On the terminal's other screen, so that what stood there is there again at the end."""
    console = Console()
    ascii_only = not console.encoding.startswith("utf")
    live = Live(console=console, screen=True, auto_refresh=False)
    try:
        with _suspendable(live):
            live.start()
            while True:
                lines = draw(looks.scene(), console.width, console.height, ascii_only=ascii_only)
                live.update(Group(*lines), refresh=True)
                looks.next()
    finally:
        for its in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(its, signal.SIG_IGN)  # an impatient second Ctrl-C must not leave the terminal as it is now
        live.stop()


@contextlib.contextmanager
def _ended_by(*signals: signal.Signals) -> Iterator[None]:
    """These end it as Ctrl-C does: by themselves they would leave the terminal as it is."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for its in signals:
        signal.signal(its, end)
    yield


@contextlib.contextmanager
def _suspendable(live: Live) -> Iterator[None]:
    """Ctrl-Z gives the terminal back for as long as it lasts."""

    def suspend(number: int, frame: FrameType | None) -> None:
        live.stop()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, suspend)
        live.start()

    signal.signal(signal.SIGTSTP, suspend)
    yield
