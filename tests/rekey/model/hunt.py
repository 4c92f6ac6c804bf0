"""The first plan of many that breaks a rule, and which: quick, for nothing is made smaller."""

from __future__ import annotations

import sys

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.rekey.model.plan import Plan, plans
from tests.rekey.model.run import run


class _FoundError(BaseException):
    """Not an ``Exception``, which hypothesis would try to make again."""


def hunt(runs: int) -> str | None:
    """What went wrong, in a line; None where nothing did."""
    done = 0

    @seed(0)
    @settings(
        max_examples=runs, database=None, deadline=None, derandomize=False,
        suppress_health_check=list(HealthCheck), phases=(Phase.generate,),
    )  # fmt: skip
    @given(plans())
    def each(plan: Plan) -> None:
        nonlocal done
        done += 1
        try:
            run(plan)
        except Exception as error:
            text = str(error).splitlines()
            if "-v" in sys.argv:
                print(plan)
            raise _FoundError(f"plan {done}: {type(error).__name__}: {text[0] if text else ''}") from None

    try:
        each()
    except _FoundError as error:
        return str(error)
    return None


if __name__ == "__main__":
    verdict = hunt(int(sys.argv[1]))
    print(verdict or "every rule held")
    sys.exit(verdict is not None)
