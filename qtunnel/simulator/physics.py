"""The figures of a link by the package ``qkd``, which is imported when the first link needs it.

What the package does not have is put around it here, and nothing else: free space and satellites come as a loss, an
eavesdropper who measures and sends again as more errors of the optics, classical light as more dark counts.
"""

from __future__ import annotations

import math
from typing import Any

from qtunnel.errors import ConfigError
from qtunnel.qkdnet.conditions import Classical, Conditions, Figures, Hardware

REMEDY = "key rates come from the package qkd: pip install 'qtunnel[sim]' (or give links protocol: measured)"

LARGEST_ERROR = 0.5
"""Of an error rate: every bit is chance."""

CV_ESTIMATED = 0.5
"""Share of the symbols of ``cv`` that is disclosed to estimate the noise, as usual in its finite-size analyses."""


def load() -> Any:
    """The package; raises ``ConfigError`` with the remedy where it is not installed."""
    try:
        import qkd
    except ImportError:
        raise ConfigError(REMEDY) from None
    return qkd


def figures(conditions: Conditions) -> Figures:
    """What a link does under these conditions; 0.1 ms of a processor, the first time a second for the import."""
    if conditions.hardware.protocol == "measured":
        return _measured(conditions)
    qkd = load()
    if conditions.hardware.protocol == "cv":
        return _continuous(qkd, conditions)
    if conditions.hardware.protocol == "bbm92":
        return _pairs(qkd, conditions)
    return _pulses(qkd, conditions)


def _transmittance(conditions: Conditions) -> float:
    """Of all before the detector, never quite 0: the package wants a share of light."""
    decibels = conditions.length * conditions.attenuation + conditions.loss
    return max(1e-30, float(10 ** (-decibels / 10)))


def optics_error(conditions: Conditions) -> float:
    """Of the optics, with noise and an eavesdropper.

    Who measures a share of the pulses in a basis drawn at random and sends on what she saw takes the wrong one in one
    of two cases (two of three with six states), and then every second bit is wrong: 25 % for all pulses (Bennett and
    Brassard 1984; Scarani et al., Rev. Mod. Phys. 81, 1301, section II.B).
    """
    wrong = conditions.intercepted * (2 / 3 if conditions.hardware.protocol == "six-state" else 1 / 2)
    error = conditions.hardware.misalignment
    error = error + conditions.noise - 2 * error * conditions.noise
    return min(LARGEST_ERROR, (1 - wrong) * error + wrong / 2)


def _dark(qkd: Any, conditions: Conditions) -> float:
    """Counts of one detector per gate, with the Raman photons of classical channels.

    The occupancy of a mode by the package (Kumar, Qin and Alleaume 2015, eq. 6, whose half for one polarisation is
    taken back), times the modes in a gate; half of it goes to each detector.
    """
    hardware, classical = conditions.hardware, conditions.classical
    if classical is None:
        return hardware.dark
    photons = raman_photons(qkd, classical, conditions) * 2 * hardware.passband * hardware.gate / 2
    return float(1 - (1 - hardware.dark) * math.exp(-hardware.efficiency * photons))


def raman_photons(qkd: Any, classical: Classical, conditions: Conditions) -> float:
    """Per detection mode at the receiver; what is lost in front of it is lost to these photons as well."""
    watts = classical.channels * 10 ** (classical.launch / 10) * 1e-3
    found = qkd.impairments.raman_photons(
        watts,
        conditions.length,
        alpha=conditions.attenuation,
        beta=classical.raman,
        wavelength=classical.wavelength,
        backward=classical.backward,
    )
    return float(found) * float(10 ** (-conditions.loss / 10))


def _pulses(qkd: Any, conditions: Conditions) -> Figures:
    hardware = conditions.hardware
    channel = qkd.Channel(T=_transmittance(conditions))
    dark = _dark(qkd, conditions)
    detector = qkd.ClickDetector(eta=hardware.efficiency, dark=dark)
    # The package counts a dark count beside a photon as two errors, and refuses a QBER above a half that comes of it.
    error = min(optics_error(conditions), max(0.0, LARGEST_ERROR - dark))
    if hardware.protocol == "cow":
        modulation = qkd.IntensityKeying(mu=hardware.signal)
        phase = min(LARGEST_ERROR, hardware.phase_error + conditions.intercepted / 2)
        receiver, security = qkd.CoherenceMonitor(misalign=error), qkd.PhaseBound(e_phase=phase, f=hardware.leak)
        kept = 1 - modulation.decoy_frac
    else:
        modulation = _keying(qkd, hardware)
        block = qkd.KeyBlock(n=hardware.block) if hardware.block else None
        receiver, security = qkd.BasisAnalyser(misalign=error), qkd.SplittingAttack(f=hardware.leak, block=block)
        kept = modulation.sift or 1.0  # of SARG04 the gain has it already
    bob = qkd.Bob(detector=detector, receiver=receiver)
    found = qkd.Link(modulation=modulation, channel=channel, bob=bob, security=security).run()
    share = _caught(qkd, hardware, hardware.clock * float(found.p_click))
    return Figures(
        key_rate=hardware.clock * float(found.key_rate) * share,
        sifted_rate=hardware.clock * float(found.p_click) * float(kept) * share,
        error=float(found.qber),
    )


def _keying(qkd: Any, hardware: Hardware) -> Any:
    decoy = qkd.Decoy(intensities=(hardware.signal, hardware.decoy, 0.0))
    if hardware.protocol == "sarg04":
        return qkd.BasisKeying(decoy=decoy, announce="pair")
    return qkd.BasisKeying(decoy=decoy, bases=3 if hardware.protocol == "six-state" else 2, sift=hardware.sift)


def _caught(qkd: Any, hardware: Hardware, clicks: float) -> float:
    """The share of the clicks that two detectors with a dead time register."""
    if not hardware.dead_time or not clicks:
        return 1.0
    one = clicks / 2
    return float(qkd.impairments.saturate(one, hardware.dead_time)) / one


def _pairs(qkd: Any, conditions: Conditions) -> Figures:
    """A source in the middle of the way, as bright as suits the hardware and the way; noise and an eavesdropper, which
    nobody expects, leave it so."""
    hardware = conditions.hardware
    arm = qkd.Fiber(T=math.sqrt(_transmittance(conditions)))
    detector = qkd.ClickDetector(eta=hardware.efficiency, dark=_dark(qkd, conditions))

    def result(misalignment: float, brightness: float | None) -> Any:
        source = qkd.PairSource(brightness=brightness, rate=hardware.clock)
        analyser = qkd.BasisAnalyser(misalign=misalignment)
        return qkd.PairLink(
            source, (detector, detector), (arm, arm), analyser, qkd.SymmetryBound(f=hardware.leak)
        ).run()

    found = result(hardware.misalignment, None)
    if conditions.noise or conditions.intercepted:
        found = result(optics_error(conditions), float(found.brightness))
    return Figures(
        key_rate=max(0.0, float(found.per_second)),
        sifted_rate=hardware.clock * float(found.gain) / 2,
        error=float(found.qber),
    )


def _continuous(qkd: Any, conditions: Conditions) -> Figures:
    """Gaussian modulation and heterodyne detection, against Gaussian collective attacks."""
    hardware = conditions.hardware
    noise = float(qkd.attacks.resend_xi(hardware.excess_noise + conditions.noise, conditions.intercepted))
    transmittance = _transmittance(conditions)
    if conditions.classical is not None:
        photons = raman_photons(qkd, conditions.classical, conditions)
        noise += 2 * photons / transmittance  # Kumar, Qin and Alleaume 2015, eq. 7
    found = qkd.Link(
        modulation=qkd.GaussianModulation(v_a=hardware.modulation),
        channel=qkd.Channel(T=transmittance, xi=noise, ref="input" if noise else None),
        bob=qkd.Bob(detector=qkd.Heterodyne(eta=hardware.efficiency, v_el=hardware.electronic_noise)),
        security=qkd.Asymptotic(beta=hardware.reconciliation),
    ).run()
    return Figures(hardware.clock * max(0.0, float(found.key_rate)), hardware.clock * CV_ESTIMATED, noise)


def _measured(conditions: Conditions) -> Figures:
    """A rate and QBER that were given. More loss costs as much rate, and errors what BB84 pays for them."""
    hardware = conditions.hardware
    dimmed = 10 ** (-conditions.loss / 10)
    given = Conditions(Hardware(misalignment=hardware.qber), noise=conditions.noise, intercepted=conditions.intercepted)
    error = optics_error(given)
    whole = _secret_share(hardware.qber, hardware.leak)
    share = _secret_share(error, hardware.leak) / whole if whole > 0 else 0.0
    sifted = hardware.key_rate / whole if whole > 0 else hardware.key_rate
    return Figures(hardware.key_rate * dimmed * share, sifted * dimmed, error)


def _secret_share(error: float, leak: float) -> float:
    """Of sifted bits, against coherent attacks: 1 - h - leak h (Shor and Preskill, Phys. Rev. Lett. 85, 441, 2000)."""
    if error <= 0:
        return 1.0
    entropy = -error * math.log2(error) - (1 - error) * math.log2(1 - error)
    return max(0.0, 1 - (1 + leak) * entropy)
