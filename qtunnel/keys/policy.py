"""Judging an epoch before it is made: does it reach what both ends demand?"""

from __future__ import annotations

from enum import Enum

from qtunnel.terms import ChainPolicy, Policy, QkdPolicy


class Shortfall(Enum):
    """Why an epoch is not good enough."""

    QKD = "too few QKD sources"
    CHAIN = "no chain secret in common"
    UNWANTED = "QKD keys, and a policy that is off"


class Protection(Enum):
    """What protects the traffic. The values are what status and metrics show."""

    QKD_PQC = "qkd+pqc"
    PQC_ONLY = "pqc-only"
    STARTING = "starting"
    EXPIRED = "expired"
    BLOCKED = "blocked"


def sources_required(*policies: Policy) -> int:
    """QKD sources that must contribute to an epoch: the highest floor of the policies that require QKD."""
    return max((max(1, policy.min_sources) for policy in policies if policy.qkd is QkdPolicy.REQUIRED), default=0)


def judge(local: Policy, remote: Policy, sources: int, *, chained: bool, had_epochs: bool) -> Shortfall | None:
    """Whether an epoch with that many QKD sources is allowed by both policies, ``None`` if so.

    had_epochs: whether we ever had an epoch with this peer: where not, a required chain begins here. Of the remote
    chain policy only the remote can judge.
    """
    if sources < sources_required(local, remote):
        return Shortfall.QKD
    if local.chain is ChainPolicy.REQUIRED and had_epochs and not chained:
        return Shortfall.CHAIN
    return None


def level(policy: Policy, sources: int) -> Protection:
    """The protection of an epoch with that many QKD sources; fewer than the floor count as none."""
    return Protection.QKD_PQC if sources >= max(1, policy.min_sources) else Protection.PQC_ONLY


def satisfies(policy: Policy, protection: Protection) -> bool:
    """Whether this protection is what the policy asks for. ``preferred`` is met by PQC alone: it says so."""
    if policy.qkd is QkdPolicy.REQUIRED:
        return protection is Protection.QKD_PQC
    return protection in (Protection.QKD_PQC, Protection.PQC_ONLY)
