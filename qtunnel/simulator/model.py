"""The sections of a topology file, with their units; docs/simulator.md has every field."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool, StrictFloat, StrictInt

from qtunnel.config.accounts import BrokerSection, TopicPrefix
from qtunnel.config.types import MAX_KEY_SIZE, Duration, KeySize, ListenAddress, Name, Percentage, Section, at_least
from qtunnel.qkdnet.conditions import Protocol
from qtunnel.simulator.quirks import Quirk
from qtunnel.simulator.units import (
    Bits,
    BitsPerSecond,
    Dbm,
    Decibels,
    DecibelsPerKilometre,
    Degrees,
    Hertz,
    Kilometres,
    Metres,
    Nanometres,
    Radians,
    Seconds,
    Threshold,
)

Number = StrictInt | StrictFloat


class HardwareSection(Section):
    """Sender and receiver; see ``qtunnel.qkdnet.conditions.Hardware`` for what each number is."""

    protocol: Protocol = "bb84-decoy"
    clock: Hertz = 1e9
    efficiency: Percentage = 0.2
    dark: Annotated[Number, Field(ge=0, lt=1)] = 1e-6
    dead_time: Seconds = 0.0
    misalignment: Percentage = 0.01
    signal: Annotated[Number, Field(gt=0, le=10)] = 0.5
    decoy: Annotated[Number, Field(gt=0, le=10)] = 0.1
    sift: Percentage | None = None
    block: Annotated[Number, Field(ge=1e4, le=1e15)] | None = None
    leak: Annotated[Number, Field(ge=1, le=5)] = 1.22
    phase_error: Percentage = 0.1
    modulation: Annotated[Number, Field(gt=0, le=1000)] = 4.0
    electronic_noise: Annotated[Number, Field(ge=0, le=10)] = 0.1
    reconciliation: Percentage = 0.95
    excess_noise: Annotated[Number, Field(ge=0, le=10)] = 0.005
    gate: Seconds = 1e-9
    passband: Hertz = 25e9
    key_rate: BitsPerSecond | None = None
    qber: Percentage | None = None


class ClassicalSection(Section):
    """Data channels on the same fibre."""

    channels: Annotated[StrictInt, Field(ge=1, le=200)]
    launch: Dbm = 0.0
    backward: StrictBool = False
    wavelength: Nanometres = 1531.12e-9


class FibreSection(Section):
    length: Annotated[Kilometres, Field(gt=0, le=20_000)] = Field(examples=["25 km"])
    attenuation: DecibelsPerKilometre = 0.2
    loss: Decibels = 0.0
    classical: ClassicalSection | None = None


class FadingSection(Section):
    deviation: Decibels = Field(examples=["3 dB"])
    interval: Annotated[Duration, at_least(0.01, "air does not change faster")] = 1.0


class FreeSpaceSection(Section):
    distance: Annotated[Kilometres, Field(gt=0, le=1000)] = Field(examples=["5 km"])
    divergence: Annotated[Radians, Field(gt=0)] = 20e-6
    receiver: Annotated[Metres, Field(gt=0)] = 0.2
    sender: Annotated[Metres, Field(gt=0)] = 0.1
    air: DecibelsPerKilometre = 0.2
    loss: Decibels = 3.0
    fading: FadingSection | None = None


class SatelliteSection(Section):
    altitude: Annotated[Kilometres, Field(ge=150, le=50_000)] = Field(examples=["500 km"])
    highest: Annotated[Degrees, Field(gt=0)] = Field(examples=["70 deg"])
    lowest: Annotated[Degrees, Field(gt=0)] = 0.1745329251994
    first: Duration = Field(examples=["1h"])
    every: Annotated[Duration, at_least(600, "no satellite comes back so soon")] = Field(examples=["1d"])
    divergence: Annotated[Radians, Field(gt=0)] = 10e-6
    receiver: Annotated[Metres, Field(gt=0)] = 1.0
    sender: Annotated[Metres, Field(gt=0)] = 0.3
    zenith: Decibels = 3.0
    loss: Decibels = 3.0
    fading: FadingSection | None = None


class LinkSection(Section):
    """A link; one of fibre, free_space, satellite. hardware: a name of the section ``hardware``."""

    between: Annotated[list[Name], Field(min_length=2, max_length=2)] = Field(examples=[["alice", "bob"]])
    hardware: Name | None = None
    fibre: FibreSection | None = None
    free_space: FreeSpaceSection | None = None
    satellite: SatelliteSection | None = None
    threshold: Threshold | None = None
    sample: Annotated[Number, Field(ge=100, le=1e12)] | None = None
    store: Annotated[Bits, Field(ge=256, le=10**15)] = 2_560_000
    initial: Annotated[Bits, Field(ge=0)] = 0
    watched: StrictBool = True
    waits: StrictBool = True


class NodeSection(Section):
    """A site. kme_id: kme-NODE, unless given. listen: ETSI GS QKD 014; etsi004: the other interface. relays: forwards
    keys of others."""

    kme_id: Name | None = None
    listen: ListenAddress | None = None
    etsi004: ListenAddress | None = None
    saes: tuple[Name, ...] = ()
    relays: StrictBool = True
    quirks: tuple[Quirk, ...] = ()
    at: Annotated[list[Number], Field(min_length=2, max_length=2)] | None = None


class PairSection(Section):
    between: Annotated[list[Name], Field(min_length=2, max_length=2)] = Field(examples=[["alice", "bob"]])
    disjoint: Annotated[StrictInt, Field(ge=1, le=10)] = 1


class AlarmsSection(BrokerSection):
    """Where reports and alarms of the links go. prefix: what stands before the topics, as of the driver ``mqtt``.
    interval: seconds between reports that do not change."""

    prefix: TopicPrefix = "qkd/v1"
    interval: Annotated[Duration, at_least(1, "which tells nobody more; the usual is 30s")] = 30.0


class KeysSection(Section):
    """What the KMEs give. Sizes in bits; the rest as of ``qtunnel kme serve``."""

    size: KeySize = 256
    min_size: KeySize = 64
    max_size: Annotated[KeySize, Field(le=MAX_KEY_SIZE)] = 4096
    max_per_request: Annotated[StrictInt, Field(ge=1, le=10_000)] = 128
    max_count: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 10_000
    max_sae_ids: Annotated[StrictInt, Field(ge=0, le=100)] = 4
    ttl: Annotated[Duration, at_least(1, "the other SAE could not fetch it in time")] = 3600.0
