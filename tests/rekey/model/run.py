"""Runs a plan, then leaves the two ends alone and sees that they find each other."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qtunnel.keys.schedule import LONGEST_RETRY, OVERDUE_FACTOR, OVERDUE_SLACK
from qtunnel.rekey.states import OutState
from qtunnel.rekey.timing import ATTEMPT_LIMIT, COMMIT_LIMIT, OFFER_HOLD, PENDING_LIMIT
from qtunnel.tai64n import tai64n
from qtunnel.terms import ChainPolicy, QkdPolicy
from tests.rekey.model.oracle import BrokenRuleError
from tests.rekey.model.plan import ENDS, Change, Plan, Rekey
from tests.rekey.model.wire import REJECT_AFTER_TIME, REKEY_AFTER_TIME, REKEY_TIMEOUT
from tests.rekey.model.world import World

JITTER = 0.1


def overdue(plan: Plan) -> float:
    """Seconds after which the end that answers takes over."""
    return plan.interval * (OVERDUE_FACTOR + JITTER) + OVERDUE_SLACK


def bound(world: World) -> float:
    """Seconds within which two ends that are left alone are on a common epoch, in force at both.

    The end that may begin waits for its turn, which is later where it saw a longer gap before (docs/protocol.md, 5.1);
    it may just have begun what comes to nothing, and waits after that; then WireGuard has to get a handshake through,
    which a plain engine tries when its session is over.
    """
    plan = world.plan
    peers = [host.node.peers[host.peer] for host in world.hosts.values()]
    later = max(0.0, *(peer.context.schedule.expected - plan.interval for peer in peers)) * (OVERDUE_FACTOR + JITTER)
    seconds = overdue(plan) + later + COMMIT_LIMIT + min(LONGEST_RETRY, plan.interval) + OFFER_HOLD + 3 * REKEY_TIMEOUT
    if plan.plain:
        seconds += REJECT_AFTER_TIME
    if sources_needed(world, strict=False) > sources_there(world):  # only once both ends relax
        seconds += max(world.max_age(end) + world.sides[end].grace for end in ENDS)
    return seconds


@dataclass
class Result:
    """healed: seconds from the end of the last fault to a common epoch in force, None where policy forbids one; share:
    of the bound. epochs: made in all. remedied: a required chain was lost, and the operators allowed a new one for a
    while, as log and status say (``CHAIN_REMEDY``)."""

    healed: float | None
    epochs: int
    share: float = 0.0
    remedied: bool = False


def run(plan: Plan) -> Result:
    """Raises ``BrokenRuleError`` with what is wrong."""
    world = World(plan)
    for action in plan.actions:
        world.run_for(action.after)
        world.act(action)
    # Crashes that wait for their moment, ends that are down, and everything that lasts.
    while not world.settled:
        world.run_for(1.0)
    world.run_for(max(0.0, world.faults_end() - world.now) + 1.0)
    return settle(world)


def settle(world: World) -> Result:
    plan = world.plan
    if not allowed(world):
        world.run_for(overdue(plan))
        return Result(None, len(world.oracle.epochs))
    remedied = False
    sides = dict(world.sides)
    if chain_lost(world):
        world.run_for(overdue(plan))
        for end in ENDS:
            world.act(Change(0.0, end, replace(sides[end], chain=ChainPolicy.RESET_ALLOWED), live=True))
        remedied = True
    if sources_needed(world, strict=False) > sources_there(world):  # what is in force may be of before the policies
        world.run_for(max(world.max_age(end) + world.sides[end].grace for end in ENDS))
    began, limit = world.now, bound(world)
    while not common(world):
        if world.now > began + limit:
            raise BrokenRuleError(f"no common epoch {world.now - began:.0f} s after the last fault: {describe(world)}")
        world.run_for(1.0)
    healed = world.now - began
    if remedied:  # and as it was, now that there is an epoch
        for end in ENDS:
            world.act(Change(0.0, end, sides[end], live=True))
    both_at_once(world)
    be_certain(world)
    keeps_going(world)
    return Result(healed, len(world.oracle.epochs), healed / limit, remedied)


def both_at_once(world: World) -> None:
    """Left alone, and asked for a rekey at the same moment, one of the two goes first: none waits out its attempt. That
    is what an exchange of before does which a fault has spoilt, as a KME that lies does; such ones end first."""
    since = world.now
    while any(host.node.peers[host.peer].outbound.state is not OutState.IDLE for host in world.hosts.values()):
        if world.now > since + ATTEMPT_LIMIT + PENDING_LIMIT:
            raise BrokenRuleError(f"an exchange does not end: {describe(world)}")
        world.run_for(1.0)
    for host in world.hosts.values():  # nor does a key spoil it that a lying KME gave, and that was not offered since
        ours = host.node.peers[host.peer].context.ours
        for ref in tuple(ours.newest_by_source().values()):
            if world.keys.bits(host.name, ref) not in (None, world.keys.others(host.name, ref)):
                ours.discard(ref)
    before, start = [world.wires[end].epoch or 0 for end in ENDS], world.now
    world.act(Rekey(0.0, "both"))
    while not all((world.wires[end].epoch or 0) > its for end, its in zip(ENDS, before, strict=True)):
        if world.now >= start + ATTEMPT_LIMIT - 5.0:
            raise BrokenRuleError(f"no epoch {world.now - start:.0f} s after both ends began: {describe(world)}")
        world.run_for(1.0)


def be_certain(world: World) -> None:
    """Wait until no session of an engine that tells no epoch can be put down to a key that was in place for longer than
    the schedule has it, as one is during a fault: it may be taken for older than it is, and dropped. A handshake may be
    of a key replaced ``SESSION_TIME`` before (qtunnel/engines/ledger.py), and its session lasts as long again."""
    if not world.plan.plain:
        return
    pace = world.plan.interval * (1 + JITTER)
    ends = [until for wire in world.wires.values() for seconds, until in wire.held if seconds > pace]
    world.run_for(max(0.0, max(ends, default=0.0) + 2 * REJECT_AFTER_TIME - world.now))


def keeps_going(world: World) -> None:
    """Left alone, they rekey at the pace of one schedule, with a session all the time."""
    plan = world.plan
    world.run_for(plan.interval * (1 + JITTER) + 20.0)
    before, start = len(world.oracle.epochs), world.now
    while world.now < start + 2 * plan.interval:
        world.run_for(1.0)
        for end in ENDS:
            if world.wires[end].session is None and not any(flaps(plan, one, world) for one in ENDS):
                raise BrokenRuleError(f"{end} has no session, though nothing is wrong: {describe(world)}")
    made = len(world.oracle.epochs) - before
    if not 1 <= made <= 3:
        raise BrokenRuleError(f"{made} epochs in two intervals")
    roles = {host.node.peers[host.peer].view().role for host in world.hosts.values()}
    if len(roles) != 2:
        raise BrokenRuleError(f"both ends are {roles}")


def flaps(plan: Plan, end: str, world: World) -> bool:
    """Whether the daemon has to drop sessions in the best of worlds: a session is to be of a key that is too old before
    one of the next key is there, some lost packets allowed for. A plain engine handshakes every 120 s
    only, and of which key that was is certain 180 s later."""
    latest = REKEY_AFTER_TIME + REJECT_AFTER_TIME if plan.plain else 3 * REKEY_TIMEOUT
    if plan.loss:
        latest += ATTEMPT_LIMIT
    return world.max_age(end) < plan.interval * (1 + JITTER) + latest


def common(world: World) -> bool:
    """Whether both ends send under the same epoch, which is also the one in place."""
    wires = [world.wires[end] for end in ENDS]
    sessions = [wire.session for wire in wires]
    if None in sessions:
        return False
    return len({session.psk for session in sessions if session is not None} | {wire.psk for wire in wires}) == 1


def allowed(world: World) -> bool:
    """Whether the two policies allow an epoch at all."""
    return sources_needed(world, strict=True) <= sources_there(world) and not locked(world)


def sources_there(world: World) -> int:
    """QKD sources that an epoch can have when all KMEs work."""
    return 0 if any(world.sides[end].qkd is QkdPolicy.OFF for end in ENDS) else world.plan.sources


def sources_needed(world: World, *, strict: bool) -> int:
    """QKD sources that the policies require; strict: without those that relax after max_age."""
    sides = [world.sides[end] for end in ENDS]
    floors = [
        max(1, its.min_sources) for its in sides if its.qkd is QkdPolicy.REQUIRED and not (strict and its.may_relax)
    ]
    return max(floors, default=0)


def locked(world: World) -> bool:
    """Whether no end can begin for the reason that docs/protocol.md gives in section 5.4: its state is lost, and its
    clock was ahead."""

    def can(end: str) -> bool:
        other = world.peer(end)
        # An address that was learnt leads nowhere once the peer has moved; a name is looked up again.
        reaches = world.sides[end].endpoint or world.known[end] == world.address[other]
        now = tai64n(world.present(end).unix_ns)
        return reaches and max(now, world.disk[end].sent) > world.disk[other].seen

    return not any(can(end) for end in ENDS)


def chain_lost(world: World) -> bool:
    """Whether one end requires a chain that the two do not have in common any more."""
    ids = [{link.id for link in host.node.peers[host.peer].context.chain.links} for host in world.hosts.values()]
    required = any(world.sides[end].chain is ChainPolicy.REQUIRED and world.disk[end].had_epochs for end in ENDS)
    return required and not set.intersection(*ids)


def describe(world: World) -> str:
    parts = []
    for end in ENDS:
        host, wire = world.hosts.get(end), world.wires[end]
        session = wire.session
        view = None if host is None else host.node.peers[host.peer].view()
        parts.append(
            f"{end}: in place {world.in_place[end]}, session {None if session is None else session.epoch}, "
            + (
                "down"
                if view is None
                else f"{view.role}, {view.out_state.value}/{view.in_state.value}, "
                f"next {view.next_rekey and round(view.next_rekey - world.now, 1)}, {view.protection.value}"
            )
        )
    return "; ".join(parts)
