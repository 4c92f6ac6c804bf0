"""What a run is made of: the two configurations, the network, and a list of things that happen. Prints as a call that
makes it again."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum

from hypothesis import strategies as st

from qtunnel.handshake.fragments import MessageType
from qtunnel.rekey.timing import RELAXED_GRACE
from qtunnel.terms import ChainPolicy, Policy, QkdPolicy

ENDS = ("a", "b")


@dataclass(frozen=True)
class Side:
    """One end's configuration. max_age: in intervals."""

    qkd: QkdPolicy = QkdPolicy.REQUIRED
    min_sources: int = 1
    chain: ChainPolicy = ChainPolicy.RESET_ALLOWED
    pqc_on_expiry: bool = False
    max_age: float = 5.0
    endpoint: bool = True

    @property
    def policy(self) -> Policy:
        return Policy(self.qkd, self.min_sources, self.chain)

    @property
    def may_relax(self) -> bool:
        return self.pqc_on_expiry and self.qkd is QkdPolicy.REQUIRED

    @property
    def grace(self) -> float:
        """Seconds that a key may live past max_age."""
        return RELAXED_GRACE if self.may_relax else 0.0


@dataclass(frozen=True)
class Action:
    """Something happens ``after`` so many seconds from what happened before."""

    after: float


@dataclass(frozen=True)
class Crash(Action):
    """The end dies in the middle of what it does: after so many further effects. keep: its state directory survives."""

    end: str
    effects: int
    down: float
    keep: bool


@dataclass(frozen=True)
class Change(Action):
    """The end has another policy: from now on, or after a new start."""

    end: str
    side: Side
    live: bool = False


@dataclass(frozen=True)
class Kme(Action):
    """A KME has a fault: ``down``, ``slow``, ``lies``; or the pair loses the keys that one end alone got, ``loses``."""

    end: str
    what: str
    seconds: float


@dataclass(frozen=True)
class Alarm(Action):
    """A source's status has an alarm at that end, seen in the middle of what it does: after so many further effects.
    source: 0 for the first, 1 for the second, where there is one."""

    end: str
    source: int
    effects: int
    seconds: float


@dataclass(frozen=True)
class Weather(Action):
    """The network is worse for a while. spread: seconds by which delays differ, which reorders."""

    loss: float
    duplicate: float
    spread: float
    seconds: float


@dataclass(frozen=True)
class Partition(Action):
    """Nothing that ``sender`` sends arrives; ``everybody``: nobody's. tunnel: nor what WireGuard sends."""

    sender: str
    tunnel: bool
    seconds: float


@dataclass(frozen=True)
class Lose(Action):
    """All messages of one type are lost."""

    kind: MessageType
    seconds: float


@dataclass(frozen=True)
class Replay(Action):
    """Somebody sends the last ``back`` messages once more, from ``where``: an address, or where they came from."""

    back: int
    where: str | None


@dataclass(frozen=True)
class Move(Action):
    """The end that may roam has another address."""


@dataclass(frozen=True)
class Clock(Action):
    """The wall clock of an end jumps."""

    end: str
    seconds: float


@dataclass(frozen=True)
class Rekey(Action):
    """Somebody asks for a rekey at that end; ``both`` at both."""

    end: str


@dataclass(frozen=True)
class Refuse(Action):
    """The end's engine refuses everything."""

    end: str
    seconds: float


@dataclass(frozen=True)
class Plan:
    """A whole run. interval: seconds. sources: QKD sources that both ends have. roams: the end that may move; it
    knows the other's address. plain: engines that know one PSK at a time and do not handshake when they are told."""

    seed: int = 0
    interval: float = 20.0
    a: Side = Side()
    b: Side = Side()
    a_is_higher: bool = True
    sources: int = 1
    plain: bool = False
    roams: str = "a"
    loss: float = 0.0
    duplicate: float = 0.0
    spread: float = 0.0
    actions: tuple[Action, ...] = ()

    def side(self, end: str) -> Side:
        return self.a if end == "a" else self.b


def code(value: object) -> str:
    """The expression that makes it, without what is as always."""
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, tuple):
        return f"({''.join(f'{code(item)}, ' for item in value)})"
    if is_dataclass(value):
        given = [
            (its.name, getattr(value, its.name)) for its in fields(value) if getattr(value, its.name) != its.default
        ]
        return f"{type(value).__name__}({', '.join(f'{name}={code(its)}' for name, its in given)})"
    return repr(value)


_short = st.sampled_from([0.0, 0.03, 0.3, 2.0, 11.0, 25.0])
_while = st.sampled_from([1.0, 10.0, 40.0, 95.0, 200.0])
_after = st.sampled_from([0.0, 0.02, 0.06, 0.6, 5.0, 19.0, 33.0, 100.0, 250.0])
_end = st.sampled_from(ENDS)

_sides = st.builds(
    Side,
    qkd=st.sampled_from([QkdPolicy.REQUIRED, QkdPolicy.REQUIRED, QkdPolicy.PREFERRED, QkdPolicy.OFF]),
    min_sources=st.sampled_from([1, 1, 2]),
    chain=st.sampled_from([ChainPolicy.RESET_ALLOWED, ChainPolicy.RESET_ALLOWED, ChainPolicy.REQUIRED]),
    pqc_on_expiry=st.booleans(),
    max_age=st.sampled_from([5.0, 2.0, 1.2]),
)

_actions = st.one_of(
    st.builds(Rekey, _after, st.sampled_from([*ENDS, "both"])),
    st.builds(Crash, _after, _end, st.integers(0, 5), _short, st.booleans()),
    st.builds(Kme, _after, _end, st.sampled_from(["down", "slow", "lies", "loses"]), _while),
    st.builds(Alarm, _after, _end, st.integers(0, 1), st.integers(0, 5), _while),
    st.builds(
        Weather, _after, st.sampled_from([0.1, 0.3, 0.6]), st.sampled_from([0.0, 0.3]),
        st.sampled_from([0.0, 0.5, 3.0]), _while,
    ),
    st.builds(Partition, _after, st.sampled_from([*ENDS, "everybody"]), st.booleans(), _while),
    st.builds(Lose, _after, st.sampled_from(list(MessageType)), _while),
    st.builds(Replay, _after, st.integers(1, 12), st.sampled_from([None, "mallory"])),
    st.builds(Move, _after),
    st.builds(Clock, _after, _end, st.sampled_from([-1e9, -100.0, 100.0, 1e8])),
    st.builds(Refuse, _after, _end, _while),
    st.builds(Change, _after, _end, _sides, st.booleans()),
)  # fmt: skip


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any plan whose ends can find each other: one knows the other's address, and it stays where it is."""
    roams = draw(_end)
    other_knows = draw(st.booleans())
    plan = Plan(
        seed=draw(st.integers(0, 9999)),
        interval=draw(st.sampled_from([20.0, 60.0, 120.0])),
        a=draw(_sides),
        b=draw(_sides),
        a_is_higher=draw(st.booleans()),
        sources=draw(st.sampled_from([1, 1, 2])),
        plain=draw(st.booleans()),
        roams=roams,
        loss=draw(st.sampled_from([0.0, 0.0, 0.05, 0.1])),
        duplicate=draw(st.sampled_from([0.0, 0.2])),
        spread=draw(st.sampled_from([0.0, 0.4])),
        actions=tuple(draw(st.lists(_actions, max_size=8))),
    )
    return with_endpoints(plan, roams, other_knows)


def with_endpoints(plan: Plan, roams: str, other_knows: bool) -> Plan:
    """The end that roams knows the other's address; the other may know where it is at the start."""
    a, b = (replace(plan.side(end), endpoint=end == roams or other_knows) for end in ENDS)
    return replace(plan, a=a, b=b)
