"""What lies between the two gateways of a world: the network with its weather, WireGuard's wires, clocks and time."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Hashable
from functools import partial

from qtunnel.handshake.suites import SUITES
from qtunnel.identity import Identity
from qtunnel.rekey.model import Now
from tests.rekey.model.oracle import BrokenRuleError
from tests.rekey.model.plan import ENDS, Plan
from tests.rekey.model.wire import Wire
from tests.rekey.simulation import EPOCH_OF_SIMULATION, Conditions, Host, Simulation

_rng = random.Random(0)
IDENTITIES = tuple(sorted((Identity.create(_rng.randbytes) for _ in ENDS), key=lambda its: its.public.id))
TUNNEL_LOSS = 0.05
"""Share of WireGuard's own packets that are lost on top of what the network loses: it must get along with it."""
STANDSTILL = 10_000
"""Steps at one moment: the most that happen at once are some hundred, of a replay."""


class Network(Simulation):
    """The simulation with addresses, partitions and weather, and with a wire of WireGuard's at each end."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.skew = dict.fromkeys(ENDS, 0.0)
        self.address: dict[str, Hashable] = {end: f"{end}0" for end in ENDS}
        self.known: dict[str, Hashable | None] = dict.fromkeys(ENDS)
        self._still = 0
        self._due: float | None = None
        self._asides: set[int] = set()
        self._until: dict[tuple[str, str], float] = {}
        self._weather: list[tuple[float, Conditions]] = []
        self._wg_rng = random.Random(plan.seed)
        self.wires = {
            end: Wire(end, plan.plain, self._wg_rng, lambda: self.now, partial(self.skew.__getitem__, end), self._carry)
            for end in ENDS
        }
        self.wires["a"].other, self.wires["b"].other = self.wires["b"], self.wires["a"]
        low, high = IDENTITIES
        super().__init__(
            plan.seed,
            Conditions(plan.loss, plan.duplicate, 0.02, 0.02 + plan.spread),
            suite=SUITES[3],
            identities=(high, low) if plan.a_is_higher else (low, high),
        )

    def peer(self, end: str) -> str:
        return "b" if end == "a" else "a"

    def present(self, name: str) -> Now:
        return Now(self.now, int((EPOCH_OF_SIMULATION + self.now + self.skew[name]) * 1e9))

    # -- faults that last

    def _holds(self, what: str, end: str) -> bool:
        return self.now < self._until.get((what, end), 0.0)

    def _hold(self, what: str, end: str, seconds: float) -> None:
        self._until[what, end] = max(self._until.get((what, end), 0.0), self.now + seconds)

    def refuses(self, end: str) -> bool:
        """Whether the end's engine refuses everything now."""
        return self._holds("refuse", end)

    def _apply_weather(self) -> None:
        self._weather = [(until, its) for until, its in self._weather if self.now < until]
        plan = self.plan
        usual = Conditions(plan.loss, plan.duplicate, 0.02, 0.02 + plan.spread)
        self.conditions = self._weather[-1][1] if self._weather else usual

    def faults_end(self) -> float:
        """When the last fault that is under way is over."""
        times = [*self._until.values(), *(until for until, _ in self._weather), self.now]
        return max(times)

    # -- what goes from one end to the other

    def _cut_off(self, sender: str, tunnel: bool) -> bool:
        return any(self._holds("tunnel" if tunnel else "partition", who) for who in (sender, "everybody"))

    def _send_to(self, host: Host, datagram: bytes, address: Hashable) -> None:
        conditions, rng = self.conditions, self.rng
        came_from = self.address[host.name]
        for _ in range(2 if rng.random() < conditions.duplicate else 1):
            if rng.random() >= conditions.loss:
                delay = rng.uniform(conditions.least_delay, conditions.most_delay)
                self._at(self.now + delay, lambda: self._arrive(host.peer, address, came_from, datagram))

    def _arrive(self, receiver: str, at: Hashable, came_from: Hashable, datagram: bytes) -> None:
        host = self.hosts.get(receiver)
        if host is None or self.address[receiver] != at:
            return
        heard = host.node.receive(datagram, came_from, self.present(receiver))
        if heard is not None and (heard.proven or self.known[receiver] is None):
            self.known[receiver] = came_from

    def _carry(self, sender: str, arrives: Callable[[], None]) -> None:
        """A packet of WireGuard's, which finds its way whatever the address."""
        lost = self._wg_rng.random() < max(TUNNEL_LOSS, self.conditions.loss)
        if not lost and not self._cut_off(sender, tunnel=True):
            receiver = self.wires[self.peer(sender)]
            self._aside(self.now + 0.02, lambda: arrives() if receiver.up else None)

    # -- time

    def _aside(self, time: float, action: Callable[[], None]) -> None:
        """As ``_at``, for what does not touch a core."""
        self._at(time, action)
        self._asides.add(self._order)

    @property
    def upcoming(self) -> float:
        if self._due is None:
            deadlines = [time for host in self.hosts.values() if (time := host.node.deadline) is not None]
            self._due = min(deadlines, default=float("inf"))
        return min(self._due, self._queue[0][0])

    def _step(self, upcoming: float) -> None:
        before = self.now
        if upcoming < (self._due or 0.0) and self._queue[0][1] in self._asides:
            self.now = max(self.now, upcoming)
            _, order, action = heapq.heappop(self._queue)
            self._asides.discard(order)
            action()
        else:
            super()._step(upcoming)
            self._due = None
        self._still = self._still + 1 if self.now == before else 0
        if self._still > STANDSTILL:
            raise BrokenRuleError(f"at {self.now - 1000.0:.3f} s: time does not go on")
