"""What decides the figures of one link, and the figures. The physics themselves are an argument of the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Protocol = Literal["bb84-decoy", "six-state", "sarg04", "cow", "bbm92", "cv", "measured"]
"""``measured``: key rate and QBER are given, as of a link that somebody else measured."""

Eavesdropper = Literal["intercept-resend", "blind"]

Meddling = Literal["lose", "late", "forge"]
"""What may become of messages on a link's classical channel."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """Sender and receiver of one link.

    clock: pulses or symbols per second. efficiency: of a detector with what stands before it, a fraction. dark: counts
    of one detector per gate. dead_time: seconds. misalignment: the error of the optics, a fraction; for ``cv`` not
    used. signal, decoy: mean photons of a pulse. sift: the share that basis reconciliation keeps, where it is not that
    of bases drawn evenly. block: pulses of a block whose finite size is paid for (Lim et al., Phys. Rev. A 89, 022307);
    without one the rate is that of endless ones. leak: what error correction costs, as a multiple of Shannon's limit.
    For ``cv``: modulation and electronic_noise in shot noise units, reconciliation as a fraction of the mutual
    information, excess_noise in shot noise units at the channel's input. phase_error: the bound that ``cow`` needs.
    gate: seconds that a detector is open for a pulse, and passband: Hz of the filter before it; both only matter
    beside classical light. key_rate, qber: of ``measured``, in bits per second and as a fraction.
    """

    protocol: Protocol = "bb84-decoy"
    clock: float = 1e9
    efficiency: float = 0.2
    dark: float = 1e-6
    dead_time: float = 0.0
    misalignment: float = 0.01
    signal: float = 0.5
    decoy: float = 0.1
    sift: float | None = None
    block: float | None = None
    leak: float = 1.22
    phase_error: float = 0.1
    modulation: float = 4.0
    electronic_noise: float = 0.1
    reconciliation: float = 0.95
    excess_noise: float = 0.005
    gate: float = 1e-9
    passband: float = 25e9
    key_rate: float = 0.0
    qber: float = 0.0


@dataclass(frozen=True, slots=True)
class Classical:
    """Data channels on the fibre of the quantum channel. launch: dBm of one; backward: towards the sender; raman: the
    coefficient in 1/(km nm); wavelength: metres, of the quantum channel."""

    channels: int
    launch: float = 0.0
    backward: bool = False
    raman: float = 3.0e-9
    wavelength: float = 1531.12e-9


@dataclass(frozen=True, slots=True)
class Conditions:
    """All that the figures of a link follow from.

    length: km of fibre, 0 in free space. attenuation: dB per km. loss: dB besides. noise: what is added to the error
    of the optics, a fraction (``cv``: to the excess noise). intercepted: the share of the pulses that an eavesdropper
    measures and sends again.
    """

    hardware: Hardware
    length: float = 0.0
    attenuation: float = 0.2
    loss: float = 0.0
    classical: Classical | None = None
    noise: float = 0.0
    intercepted: float = 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What a link does under some conditions.

    key_rate: secret bits per second. sifted_rate: bits per second from which the error is estimated. error: QBER as a
    fraction, of ``cv`` the excess noise in shot noise units.
    """

    key_rate: float
    sifted_rate: float
    error: float


Physics = Callable[[Conditions], Figures]


def averaged(physics: Physics, several: list[Conditions]) -> Figures:
    """The mean over equally likely conditions; the error weighted by the bits that show it."""
    found = [physics(one) for one in several]
    number = len(found)
    sifted = sum(one.sifted_rate for one in found)
    error = sum(one.error * one.sifted_rate for one in found) / sifted if sifted else found[0].error
    return Figures(sum(one.key_rate for one in found) / number, sifted / number, error)
