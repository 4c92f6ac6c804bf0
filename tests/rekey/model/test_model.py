"""The rekeying core against its rules, in whatever worlds hypothesis makes (tests/rekey/model/plan.py).

The suite runs QTUNNEL_SOAK_RUNS plans, always the same ones; ``make model-plans`` other ones and more. One that fails
is printed as small as it could be made, as a call that goes into an ``@example``.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, given, note, seed, settings

from tests.rekey.model.plan import Plan, code, plans
from tests.rekey.model.run import Result, run

RUNS = int(os.environ.get("QTUNNEL_SOAK_RUNS", "200"))
FIRST = int(os.environ.get("QTUNNEL_SOAK_SEED", "0"))
CHUNK = 50


@pytest.mark.parametrize("chunk", range(FIRST, FIRST + max(1, RUNS // CHUNK)))
def test_the_rules_hold_in_every_world(chunk: int) -> None:
    @seed(chunk)
    @settings(
        max_examples=CHUNK, derandomize=False, database=None, deadline=None, print_blob=False,
        suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink),
    )  # fmt: skip
    @given(plans())
    def holds(plan: Plan) -> None:
        try:
            results.append(run(plan))
        except BaseException:
            note(f"again: {code(plan)}")
            raise

    results: list[Result] = []
    holds()
    print(tell(chunk, results))


def tell(chunk: int, results: list[Result]) -> str:
    """What a chunk's plans came to."""
    slowest = max(results, key=lambda its: its.share)
    healed = [its.healed for its in results if its.healed is not None]
    return (
        f"chunk {chunk}: {len(results)} plans, {sum(its.epochs for its in results)} epochs; {len(healed)} with a "
        f"common epoch in the end, after {max(healed, default=0):.0f} s at most, and {slowest.share:.0%} of the bound; "
        f"{sum(its.remedied for its in results)} with the remedy for a lost chain"
    )
