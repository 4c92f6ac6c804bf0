"""A world: two gateways, their engines, KMEs and network, with the faults of a plan."""

from __future__ import annotations

from dataclasses import replace

from tests.rekey.model.daemons import Daemons
from tests.rekey.model.plan import (
    ENDS,
    Action,
    Alarm,
    Change,
    Clock,
    Crash,
    Kme,
    Lose,
    Move,
    Partition,
    Refuse,
    Rekey,
    Replay,
    Weather,
)
from tests.rekey.simulation import Conditions


class World(Daemons):
    """The daemons and network with everything that can go wrong."""

    def act(self, action: Action) -> None:
        """Let it happen now, and what follows at once."""
        self._act(action)
        for host in list(self.hosts.values()):
            self._carry_out(host)
        self._due = None
        self.oracle.check()

    def _act(self, action: Action) -> None:
        match action:
            case Crash():
                if action.end in self.hosts:
                    self._cut[action.end] = action
                    self._done[action.end] = 0
                    # Where it does nothing meanwhile, it dies all the same.
                    self._at(self.now + self.plan.interval, lambda: self._overdue(action))
            case Change():
                before = self.sides[action.end]
                self.sides[action.end] = replace(action.side, endpoint=before.endpoint)
                host = self.hosts.get(action.end)
                change = None if host is None else getattr(host.node, "change_peer", None)
                if action.live and change is not None:
                    self.configure(action.end)
                    self.oracle.changes(action.end, before)
                    change(self.settings[action.end], self.present(action.end))
                    self.wires[action.end].renew(self._ends_before(self.hosts[action.end]))
                    self._drop_forbidden(self.hosts[action.end])
                else:
                    self.crash(action.end, 0.0, keep=True)
            case Kme():
                if action.what == "loses":
                    self.kme.lose_keys()
                else:
                    self._hold(action.what, action.end, action.seconds)
            case Alarm():
                waiting = self._effects[action.end] + action.effects, action
                self._warnings.append(waiting)
                # Where it does nothing meanwhile, it comes all the same.
                self._at(self.now + self.plan.interval, lambda: self._alarm(*waiting))
            case Weather():
                worse = Conditions(action.loss, action.duplicate, 0.02, 0.02 + action.spread)
                self._weather.append((self.now + action.seconds, worse))
                self._apply_weather()
            case Partition():
                self._hold("partition", action.sender, action.seconds)
                if action.tunnel:
                    self._hold("tunnel", action.sender, action.seconds)
            case Lose():
                self._hold("lose", action.kind.name, action.seconds)
            case Replay():
                for receiver, came_from, datagrams in self._recorded[-action.back :]:
                    for datagram in datagrams:
                        self._arrive(receiver, self.address[receiver], action.where or came_from, datagram)
            case Move():
                roams = self.plan.roams
                self.address[roams] = f"{roams}{int(str(self.address[roams])[1:]) + 1}"
            case Clock():
                self.skew[action.end] += action.seconds
            case Rekey():
                for end in ENDS if action.end == "both" else (action.end,):
                    if end in self.hosts:
                        self.hosts[end].node.rekey_now(self.peer(end), self.present(end))
            case Refuse():
                self._hold("refuse", action.end, action.seconds)
            case _:
                raise AssertionError(f"unknown action {action}")

    def _overdue(self, crash: Crash) -> None:
        if self._cut.get(crash.end) is crash:
            self.crash(crash.end, crash.down, crash.keep)

    @property
    def settled(self) -> bool:
        """Whether both ends are there, and no crash or alarm waits for its moment."""
        return len(self.hosts) == len(ENDS) and not self._cut and not self._warnings
