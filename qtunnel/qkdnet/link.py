"""One QKD link: its conditions, what it makes, and whether its keys may be used."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from qtunnel.qkdnet.channel import Channel, Fibre
from qtunnel.qkdnet.conditions import (
    Classical,
    Conditions,
    Eavesdropper,
    Figures,
    Hardware,
    Meddling,
    Physics,
    averaged,
)
from qtunnel.qkdnet.monitor import Monitor, Piece
from qtunnel.qkdnet.reservoir import Reservoir
from qtunnel.statemachine import Machine


class LinkState(Enum):
    UP = "up"
    DARK = "no line of sight"
    CUT = "cut"
    ALARMED = "alarmed"


class LinkEvent(Enum):
    CUT = "cut"
    RESTORED = "restored"
    SET = "line of sight lost"
    RISEN = "line of sight"
    ALARMED = "error rate above the threshold, or light in the detectors"
    CLEARED = "error rate below the threshold"


LINK_TABLE = {
    (LinkState.UP, LinkEvent.CUT): LinkState.CUT,
    (LinkState.UP, LinkEvent.SET): LinkState.DARK,
    (LinkState.UP, LinkEvent.ALARMED): LinkState.ALARMED,
    (LinkState.DARK, LinkEvent.CUT): LinkState.CUT,
    (LinkState.DARK, LinkEvent.RISEN): LinkState.UP,
    (LinkState.CUT, LinkEvent.RESTORED): LinkState.UP,
    (LinkState.ALARMED, LinkEvent.CLEARED): LinkState.UP,
}
"""An alarm outlasts a cut and a pass: only an error rate that was measured ends it."""


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """A link as the topology has it.

    threshold: the error above which it gives up, a fraction, or shot noise units for ``cv``. sample: sifted bits over
    which the error is estimated. capacity, initial: bits in store at most and at the start. watched: its receiver
    notices bright light in its detectors. waits: a key is given out once the error of the window after it is known.
    """

    name: str
    ends: tuple[str, str]
    hardware: Hardware
    channel: Channel
    threshold: float = 0.11
    sample: float = 2000.0
    capacity: int = 2_560_000
    initial: int = 0
    watched: bool = True
    waits: bool = True
    classical: Classical | None = None


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened to a link or node. what: a word for logs; detail: in words."""

    at: float
    place: str
    what: str
    detail: str = ""


SETTLING = 1e-6
"""Seconds below which two moments are one: what is left of sums of parts. After centuries of the network, which a time
scale brings within days, a number tells no such moments apart: then it is the next that it can tell."""


class Link:
    """A link in time. Every method first wants ``advance`` to the same moment."""

    def __init__(self, spec: LinkSpec, physics: Physics, now: float, *, average: bool = False) -> None:
        self.spec = spec
        self.channel = spec.channel
        self.noise = 0.0
        self.extra_loss = 0.0
        self.intercepted = 0.0
        self.blinded = False
        self.meddling: Meddling | None = None
        self.meddled = 0.0
        self.reservoir = Reservoir(spec.capacity, made=min(spec.initial, spec.capacity))
        self.alarm: str | None = None
        self.alarms = 0
        self.keys_until_alarm: int | None = None
        """Keys that went over the link between the first light that the last eavesdropper touched and the alarm;
        ``None`` before one. An alarm without an eavesdropper leaves it as it was."""
        self.touched_bits = 0.0
        """Sifted bits of light that an eavesdropper touched, noticed or not."""
        self._keys_unnoticed: int | None = None
        self._touched = True
        """Whether light has passed since the last eavesdropper came: in the dark there is nothing for her."""
        self._read: deque[tuple[int, int]] = deque()
        """Bits of the store, by their numbers from and to, that an eavesdropper knows and nobody noticed."""
        self._believed = 0.0
        """Bits of key that a sifted bit left when the window was last of one error, for a link that does not wait."""
        self._physics = physics
        self._average = average
        self._machine = Machine(LINK_TABLE, LinkState.UP)
        self._monitor = Monitor(spec.sample)
        self._cut = False
        self._measured = False
        self._at = now
        self._cache: dict[Conditions, Figures] = {}
        self.figures = Figures(0.0, 0.0, 0.0)
        # where it is too noisy from the start; that a satellite is not there yet is no news
        self._unsaid = [one for one in self._look(now) if one.what == "link.alarm"]

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def state(self) -> LinkState:
        return self._machine.state

    @property
    def usable(self) -> bool:
        """Whether keys in store may be used: what was made before a cut is as good as before."""
        return self.state is not LinkState.ALARMED

    @property
    def error(self) -> float:
        """As both ends estimate it."""
        return self._monitor.estimate

    @property
    def key_rate(self) -> float:
        """Secret bits per second that go into the store now."""
        return self.figures.key_rate if self.state is LinkState.UP else 0.0

    def advance(self, now: float) -> Iterator[Happening]:
        """Let time pass up to ``now``; what happened in it."""
        yield from self._unsaid
        self._unsaid = []
        while self._at < now:
            moment = self._next_moment()
            until = min(now, moment)
            seconds = max(0.0, until - self._at)
            if self.state in (LinkState.UP, LinkState.ALARMED):
                self._pass(self.figures.sifted_rate * seconds)
            self._at = until
            if until == moment:
                yield from self._look(until)

    def _pass(self, bits: float) -> None:
        """So many sifted bits come, and the keys that are due go into the store."""
        figures, up = self.figures, self.state is LinkState.UP
        if self.blinded or self.intercepted > 0:
            self.touched_bits += bits
        per_bit = figures.key_rate / figures.sifted_rate if up and figures.sifted_rate > 0 else 0.0
        if self.spec.waits:
            due = self._monitor.take(bits, figures.error, per_bit, known=self.blinded)
        else:
            # Both ends take away what an eavesdropper learned by the error that they know, which was another's.
            settled = self._monitor.settled(figures.error)
            if settled:
                self._believed = per_bit
            known = self.blinded or (self.intercepted > 0 and not settled)
            self._monitor.take(bits, figures.error)
            due = [Piece(bits, figures.error, self._believed if up else 0.0, known)]
        for piece in due:
            self._grow(piece)

    def _grow(self, piece: Piece) -> None:
        before = self.reservoir.kept
        self.reservoir.grow(piece.key)
        after = self.reservoir.kept
        if piece.known and after > before:
            if self._read and self._read[-1][1] == before:
                before = self._read.pop()[0]
            self._read.append((before, after))

    def _next_moment(self) -> float:
        """When the conditions change next, or what is known of them."""
        moment = self.channel.next_change(self._at, fades=not self._average)
        if self.state in (LinkState.UP, LinkState.ALARMED) and self.figures.sifted_rate > 0:
            bits = math.inf
            if not self.dazzled:  # an alarm for another reason ends with that reason
                up = self.state is LinkState.UP
                bits = self._monitor.bits_until(self.spec.threshold, self.figures.error, above=up)
            if not self.spec.waits and not self._monitor.settled(self.figures.error):
                bits = min(bits, self._monitor.bits_until_settled(self.figures.error))
            moment = min(moment, self._at + bits / self.figures.sifted_rate)
        return max(moment, self._at + SETTLING, math.nextafter(self._at, math.inf))

    @property
    def dazzled(self) -> bool:
        """Whether the receiver sees light that blinds it."""
        return self.blinded and self.spec.watched

    def _conditions(self, loss: float) -> Conditions:
        return Conditions(
            self.spec.hardware,
            self.channel.length,
            self.channel.attenuation,
            loss + self.extra_loss,
            self.spec.classical,
            self.noise,
            self.intercepted,
        )

    def _computed(self, conditions: Conditions) -> Figures:
        """Once for the same conditions."""
        found = self._cache.get(conditions)
        if found is None:
            found = self._cache[conditions] = self._physics(conditions)
        return found

    def _look(self, now: float) -> list[Happening]:
        """The figures of this moment, and what follows from them."""
        loss = self.channel.loss_at(now)
        if self._cut or loss is None:
            self.figures = Figures(0.0, 0.0, self.figures.error)
        elif self._average:
            several = [self._conditions(one) for one in self.channel.typical(now)]
            self.figures = averaged(self._computed, several)
        else:
            self.figures = self._computed(self._conditions(loss))
        return [Happening(now, self.name, *one) for one in self._judge(loss is not None)]

    def _judge(self, visible: bool) -> Iterator[tuple[str, str]]:
        state = self.state
        if self._cut and state in (LinkState.UP, LinkState.DARK):
            self._machine.fire(LinkEvent.CUT)
            return
        if state is LinkState.CUT and not self._cut:
            self._machine.fire(LinkEvent.RESTORED)
        if self.state is LinkState.UP and not visible:
            self._machine.fire(LinkEvent.SET)
            yield "link.set", f"{self.reservoir.stored} bits in store"
        elif self.state is LinkState.DARK and visible:
            self._machine.fire(LinkEvent.RISEN)
            yield "link.risen", f"{self.figures.key_rate:.0f} bit/s"
        if self._cut or not visible:
            return
        if not self._touched:
            self._touched, self._keys_unnoticed = True, self._keys_unnoticed or 0
        if not self._measured:
            self._monitor.begin(self.figures.error)
            self._measured = True
        yield from self._watch()

    def _watch(self) -> Iterator[tuple[str, str]]:
        """Alarms that begin or end."""
        why = None
        if self.dazzled:
            why = "bright light blinds the detectors"
        elif self.error > self.spec.threshold:
            why = f"{self.metric} above the threshold of {self.shown(self.spec.threshold)}"
        if why is not None and self.state is LinkState.UP:
            self._machine.fire(LinkEvent.ALARMED)
            self.alarms += 1
            keys, self._keys_unnoticed = self._keys_unnoticed, None
            if keys is not None:  # somebody was there, and it is no alarm of noise alone
                self.keys_until_alarm = keys
            lost = self.reservoir.discard(self._monitor.throw_away())
            yield "link.alarm", f"{why}; {lost} bits thrown away, {keys or 0} keys used meanwhile"
        elif why is None and self.state is LinkState.ALARMED:
            self._machine.fire(LinkEvent.CLEARED)
            yield "link.cleared", f"{self.metric} not above {self.shown(self.spec.threshold)}"
        self.alarm = why if self.state is LinkState.ALARMED else None

    @property
    def metric(self) -> str:
        return "excess noise" if self.spec.hardware.protocol == "cv" else "QBER"

    def shown(self, error: float) -> str:
        """In the unit that people use."""
        return f"{error:.3f} SNU" if self.spec.hardware.protocol == "cv" else f"{error:.1%}"

    # What an operator or an eavesdropper does. Each returns what followed at once.

    def cut(self, now: float) -> list[Happening]:
        """No light passes any more."""
        self._cut = True
        return [Happening(now, self.name, "link.cut", f"{self.reservoir.stored} bits in store"), *self._look(now)]

    def restore(self, now: float) -> list[Happening]:
        """As in the topology again: no cut, nobody who eavesdrops or meddles, no added noise or loss, the fibre's own
        length."""
        self._cut = self.blinded = False
        self.meddling, self.meddled = None, 0.0
        self._keys_unnoticed, self._touched = None, True
        self.noise = self.extra_loss = self.intercepted = 0.0
        self.channel = self.spec.channel
        return [Happening(now, self.name, "link.restored"), *self._look(now)]

    def eavesdrop(self, now: float, how: Eavesdropper, share: float = 1.0) -> list[Happening]:
        """share: of the pulses, for ``intercept-resend``."""
        if how == "blind":
            if self.spec.hardware.protocol == "cv":
                raise ValueError(f"link {self.name} measures with a local oscillator; light cannot blind it")
            self.blinded = True
        else:
            self.intercepted = share
        self._touched = False
        return [Happening(now, self.name, "link.eavesdropped", how), *self._look(now)]

    def add_noise(self, now: float, noise: float) -> list[Happening]:
        self.noise = noise
        return [Happening(now, self.name, "link.noise", self.shown(noise)), *self._look(now)]

    def add_loss(self, now: float, decibels: float) -> list[Happening]:
        self.extra_loss = decibels
        return [Happening(now, self.name, "link.loss", f"{decibels:g} dB more"), *self._look(now)]

    def set_distance(self, now: float, kilometres: float) -> list[Happening]:
        """Of fibre; other channels have no length to set."""
        if not isinstance(self.channel, Fibre):
            raise ValueError(f"link {self.name} is no fibre, so it has no length to set; use loss")
        if self.spec.hardware.protocol == "measured":
            raise ValueError(f"the rate of link {self.name} was measured, and at this length; use loss")
        self.channel = replace(self.channel, length=kilometres)
        return [Happening(now, self.name, "link.distance", f"{kilometres:g} km"), *self._look(now)]

    def meddle(self, now: float, how: Meddling, share: float = 1.0) -> list[Happening]:
        """Somebody on the classical channel, who loses a share of the messages between the ends, or delays or forges
        all of them."""
        self.meddling, self.meddled = how, share
        return [Happening(now, self.name, "link.messages", how if share == 1 else f"{how} {share:.0%}")]

    def take(self, bits: int, keys: int = 1) -> bool:
        """Use bits of the store for as many keys; whether an eavesdropper knows some of them. Raises
        ``ShortageError``."""
        first = self.reservoir.take(bits)
        if self._keys_unnoticed is not None:
            self._keys_unnoticed += keys
        while self._read and self._read[0][1] <= first:
            self._read.popleft()
        return bool(self._read) and self._read[0][0] < first + bits
